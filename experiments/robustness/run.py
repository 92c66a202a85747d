"""Train and attack: rows of results.csv, one per data, method, seed, epsilon, attack and threat.

Stops and resumes: what has its "worst case" row is not run again.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from methods import all_methods
from rows import append, done
from setting import load, make
from suite import BATCH, PublishedCW, adaptive, published, row, run, threat_of, worst_row
from torch import Generator

from weft.robustness import L2, CarliniWagner, attack

RADII = {
    "digits": (0.05, 0.1, 0.2),
    "mnist": (0.1, 0.2, 0.3),
    "fashion_mnist": (0.02, 0.05, 0.1),
}


def certificate(model, inputs, labels, epsilon: float) -> dict:
    """Return the share that no attack in the radius can turn, for a nearest-pixel classifier."""
    features = model[0](inputs)
    right = model(inputs).argmax(1) == labels
    safe = right & (model[1].certified_radius(features) > epsilon)
    share = safe.double().mean().item()
    return {
        "attack": "certificate",
        "threat": "independent rows",
        "clean": right.double().mean().item(),
        "accuracy": share,
        "union": share,
    }


def main() -> None:
    """Run what is asked for and not yet there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=tuple(RADII))
    parser.add_argument("--methods", nargs="*", help="names as in methods.py; by default all")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epsilons", type=float, nargs="*")
    parser.add_argument("--images", type=int, default=BATCH, help="test images")
    parser.add_argument("--tuning", action="store_true", help="validation images, tuning.csv")
    parser.add_argument("--cw", action="store_true", help="CW too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = Path(__file__).with_name("tuning.csv" if given.tuning else "results.csv")
    images = load(given.data, test=given.images, tuning=given.tuning)
    inputs, labels = images.test_inputs, images.test_labels
    methods = all_methods(given.data)
    for seed in given.seeds:
        for name in given.methods or methods:
            same = {"data": given.data, "method": name, "seed": seed}
            model = None
            for epsilon in given.epsilons or RADII[given.data]:
                place = {**same, "epsilon": epsilon}
                if done(path, place, "worst case"):
                    continue
                start = time.process_time()
                model = model or make(given.data, images, name, methods, seed)
                trained = time.process_time() - start
                results = run(
                    model,
                    inputs,
                    labels,
                    epsilon,
                    [*published(epsilon), *adaptive(model)],
                    seed,
                    relay=True,
                )
                rows = [*map(row, results), worst_row(results)]
                if name == "nearest pixels":
                    rows.append(certificate(model, inputs, labels, epsilon))
                append(path, [{**place, "images": len(labels), **each} for each in rows])
                worst = rows[len(results)]
                print(
                    f"{given.data} {name} {seed} eps {epsilon}: clean {worst['clean']:.3f} "
                    f"worst {worst['accuracy']:.3f} union {worst['union']:.3f} naive "
                    f"{rows[1]['accuracy']:.3f}, {trained:.0f} s "
                    f"+ {time.process_time() - start - trained:.0f} s",
                    flush=True,
                )
            if given.cw:
                place = {**same, "epsilon": math.inf}
                for method in (*map(PublishedCW, (1, 10, 100)), CarliniWagner(60, 4, 0.02, 1.0)):
                    if done(path, place, str(method)):
                        continue
                    model = model or make(given.data, images, name, methods, seed)
                    result = attack(
                        model,
                        inputs,
                        labels,
                        ball=L2(math.inf),
                        method=method,
                        threat=threat_of(model),
                        generator=Generator().manual_seed(seed),
                    )
                    append(path, [{**place, "images": len(labels), **row(result)}])


if __name__ == "__main__":
    main()

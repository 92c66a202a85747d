"""Train and attack: rows of results.csv, one per data, method, seed, epsilon, attack and threat.

Stops and resumes: what has its "worst case" row is not run again.
"""

import argparse
import functools
import itertools
import math
from pathlib import Path

import torch
from methods import all_methods
from rows import append, done
from setting import load, make
from suite import BATCH, PublishedCW, adaptive, published, row, run, threat_of, worst_row
from torch import Generator

from weft.robustness import L2, AutoAttack, CarliniWagner, attack

RADII = {
    "digits": (0.05, 0.1, 0.2),
    "mnist": (0.1, 0.2, 0.3),
    "fashion_mnist": (0.02, 0.05, 0.1),
    "cifar10": (0.00784, 0.03137),  # 2/255 and 8/255; csv keeps four digits
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


def whole_suite(model, inputs, labels, epsilon: float, seed: int) -> list[dict]:
    """Return a row per attack, and at the end that of the worst case."""
    attacks = [*published(epsilon), *adaptive(model)]
    results = run(model, inputs, labels, epsilon, attacks, seed, relay=True)
    return [*map(row, results), worst_row(results)]


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
    parser.add_argument("--auto", action="store_true", help="AutoAttack beside the suite")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = Path(__file__).with_name("tuning.csv" if given.tuning else "results.csv")
    images = load(given.data, test=given.images, tuning=given.tuning)
    inputs, labels = images.test_inputs, images.test_labels
    methods = all_methods(given.data)
    for seed, name in itertools.product(given.seeds, given.methods or methods):
        model = functools.cache(functools.partial(make, given.data, images, name, methods, seed))
        same = {"data": given.data, "method": name, "seed": seed}
        for epsilon in given.epsilons or RADII[given.data]:
            place = {**same, "epsilon": epsilon}
            # An attack on the distances to 59 000 images would take days: the certificate then.
            certified = name == "nearest pixels" and given.data != "digits"
            if not certified and not done(path, place, "worst case"):
                rows = whole_suite(model(), inputs, labels, epsilon, seed)
                append(path, [{**place, "images": len(labels), **each} for each in rows])
                worst = rows[-1]
                print(
                    f"{given.data} {name} {seed} eps {epsilon}: clean {worst['clean']:.3f} "
                    f"worst {worst['accuracy']:.3f} union {worst['union']:.3f} naive "
                    f"{rows[1]['accuracy']:.3f}",
                    flush=True,
                )
            if name == "nearest pixels" and not done(path, place, "certificate"):
                each = certificate(model(), inputs, labels, epsilon)
                append(path, [{**place, "images": len(labels), **each}])
            if given.auto and not done(path, place, str(AutoAttack())):
                result = run(model(), inputs, labels, epsilon, [AutoAttack()], seed)[0]
                append(path, [{**place, "images": len(labels), **row(result)}])
        place = {**same, "epsilon": math.inf}
        for method in (*map(PublishedCW, (1, 10, 100)), CarliniWagner(60, 4, 0.02, 1.0)):
            if not given.cw or done(path, place, str(method)):
                continue
            result = attack(
                model(),
                inputs,
                labels,
                ball=L2(math.inf),
                method=method,
                threat=threat_of(model()),
                generator=Generator().manual_seed(seed),
            )
            append(path, [{**place, "images": len(labels), **row(result)}])


if __name__ == "__main__":
    main()

"""Who may move what: the same classifiers under other threat models than the joint batch.

Rows go to threats.csv, as in results.csv; what is there is not run again.
"""

import argparse

import torch
from methods import all_methods
from rows import HERE, append, done
from setting import load, make
from suite import adaptive, published, row, worst_row
from torch import Generator

from weft.robustness import (
    JointBatch,
    LInf,
    NeighboursOnly,
    SwapIn,
    VictimOnly,
    attack,
)

THREATS = HERE / "threats.csv"
EPSILON = 0.1
NAMES = ("softmax", "graph", "graph, constant bandwidth", "softmax, TRADES", "graph, TRADES")
MODELS = (
    JointBatch(250),
    JointBatch(None),
    SwapIn(250),
    VictimOnly(100, victims=40),
    NeighboursOnly(100, victims=40),
)


def main() -> None:
    """Attack digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=NAMES, help="names as in methods.py")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = load("digits", test=500)
    methods = all_methods("digits")
    for seed in given.seeds:
        for name in given.methods:
            place = {"data": "digits", "method": name, "seed": seed, "epsilon": EPSILON}
            model = make("digits", images, name, methods, seed)
            for threat in MODELS:
                here = {**place, "threat": str(threat)}
                if done(THREATS, here, "worst case"):
                    continue
                results = [
                    attack(
                        model,
                        images.test_inputs,
                        images.test_labels,
                        ball=LInf(EPSILON),
                        method=method,
                        threat=threat,
                        generator=Generator().manual_seed(seed),
                    )
                    # Square asks one question after the other: too slow for one victim at a time.
                    for method in [*published(EPSILON), *adaptive(model, steps=20)[:-1]]
                ]
                rows = [*map(row, results), worst_row(results)]
                append(THREATS, [{**here, "images": len(results[0].labels), **one} for one in rows])
                print(name, seed, threat, f"worst {rows[-1]['accuracy']:.3f}", flush=True)


if __name__ == "__main__":
    main()

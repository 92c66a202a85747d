"""What isometry does to distances, and to accuracy under attack, beside its rivals.

    python experiments/isometry/robust.py --seeds 5
    python experiments/isometry/robust.py --data mnist --seeds 3

Trains and attacks each method that has no rows in results.csv yet, then prints the tables. All
models face the same suite on the same images: FGSM, PGD, APGD on two losses and, at one radius,
AutoAttack; the worst of them counts, image by image.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from ledger import Ledger
from setting import Method, Task, load, methods, train
from torch import Generator, nn

from weft.heads import NearestHead
from weft.isometry import WithinClass, diagnose
from weft.robustness import (
    APGD,
    FGSM,
    PGD,
    AutoAttack,
    IndependentRows,
    LInf,
    attack,
    cross_entropy,
    margin,
    worst_case,
)

LEDGER = Ledger(Path(__file__).with_name("results.csv"))
RADII = (0.05, 0.1, 0.15, 0.2, 0.3)
FULL = 0.1  # the radius of AutoAttack
IMAGES = 250  # attacked; of large sets, also those that are compared with every training image
PIXELS = "pixels; nearest image"
ATTACKED_PIXELS = "nearest image, no training"
DIGITS_ONLY = {"paper, beta 100, K 1", "Jacobian 1", "Jacobian 0.1, paper, beta 100, K 1"}
Measured = dict[str, float]


def suite(model: nn.Module, task: Task) -> Measured:
    """Return accuracies in percent, without and under attack."""
    with torch.no_grad():
        right = model(task.test_inputs).argmax(1) == task.test_labels
    found = {"clean": 100 * right.double().mean().item()}
    inputs, labels = task.test_inputs[:IMAGES], task.test_labels[:IMAGES]
    for radius in RADII:
        attacks = {
            "FGSM": FGSM(cross_entropy),
            "PGD": PGD(40, loss=cross_entropy),
            "APGD CE": APGD(100, loss=cross_entropy),
            "APGD margin": APGD(100, loss=margin),
        }
        if radius == FULL:
            attacks["AutoAttack"] = AutoAttack()
        ball, threat = LInf(radius), IndependentRows(512)
        results = {
            name: attack(model, inputs, labels, ball=ball, method=method, threat=threat)
            for name, method in attacks.items()
        }
        for name, result in results.items():
            found[f"{name} {radius:g}"] = 100 * result.replayed_accuracy
        found[f"worst {radius:g}"] = 100 * worst_case(list(results.values())).accuracy
    return found


@torch.no_grad()
def geometry(model: nn.Sequential, task: Task) -> Measured:
    """Return how distances within classes were kept: means over classes, of test images."""
    inputs, labels = task.test_inputs[:1000], task.test_labels[:1000]
    features = model.body(inputs)
    pairs = WithinClass(per_sample=100)
    found = diagnose(inputs, features, labels, pairs=pairs, generator=Generator().manual_seed(0))
    fit = found.class_mean()
    return {
        "Pearson": fit.pearson,
        "Spearman": fit.spearman,
        "stress": fit.stress,
        "between / within": found.separation,
    }


def trained(method: Method, data: str, seed: int) -> Measured:
    """Train and attack."""
    task, model = load(data, seed), train(method, data, seed)
    return geometry(model, task) | suite(model, task)


def attacked_pixels(data: str, seed: int) -> Measured:
    """Attack what lets the nearest training image decide, in the norm of the attack."""
    task = load(data, seed)
    return suite(NearestHead(task.inputs, task.labels, norm=torch.inf).eval(), task)


@torch.no_grad()
def pixels(data: str, seed: int) -> Measured:
    """Return what the nearest training image certifies."""
    task = load(data, seed)
    count = len(task.test_labels) if data == "digits" else IMAGES
    inputs, labels = task.test_inputs[:count], task.test_labels[:count]
    head = NearestHead(task.inputs, task.labels, norm=torch.inf).eval()
    right = head(inputs).argmax(1) == labels
    radius = head.certified_radius(inputs)
    shares = {epsilon: (right & (radius > epsilon)).double().mean().item() for epsilon in RADII}
    certified = {f"certified {epsilon:g}": 100 * share for epsilon, share in shares.items()}
    return {"clean": 100 * right.double().mean().item()} | certified


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", choices=("digits", "mnist", "fashion_mnist"), default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--only", nargs="+", help="names of methods; by default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = arguments.data
    seeds = range(arguments.seeds)
    chosen = {
        name: method
        for name, method in methods().items()
        if (data == "digits" or name not in DIGITS_ONLY)
        and (arguments.only is None or name in arguments.only)
    }
    own = {name: partial(trained, method, data) for name, method in chosen.items()}
    if data == "digits" and arguments.only is None:  # of 60,000 images, an attack takes hours
        own[ATTACKED_PIXELS] = partial(attacked_pixels, data)
    LEDGER.run(data, own, seeds)
    LEDGER.run(data, {PIXELS: partial(pixels, data)}, seeds if data == "digits" else seeds[:1])
    print(LEDGER.table(data, ["Pearson", "Spearman", "stress", "between / within"]), "\n")
    worst = [f"worst {radius:g}" for radius in RADII]
    certified = [f"certified {radius:g}" for radius in RADII]
    print(LEDGER.table(data, ["clean", *worst, f"AutoAttack {FULL:g}"], digits=1), "\n")
    print(LEDGER.table(data, ["clean", "FGSM 0.1", "PGD 0.1", "worst 0.1", "FGSM 0.3"], digits=1))
    print(LEDGER.table(data, certified, digits=1))


if __name__ == "__main__":
    main()

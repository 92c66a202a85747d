"""Pairs of images and their moved selves: which kind helps, and which head makes most of it.

    python experiments/isometry/nearest.py --seeds 5

Trains the digits network with each kind of pairs, and lets three heads decide on the same
features: the read-out it was trained with, the nearest training feature, and the graph of 30
training images per class and the batch. Accuracies are under AutoAttack at 0.1, L-infinity, on the
first 50 test images of the seed's split, and for the graph, whose batch is attacked as one, under
APGD on two losses and Square. Beside them stands what the nearest training *image* certifies on
the same images, without any training. Rows are added to nearest.csv.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from ledger import Ledger
from setting import CE, RIVALS, STRESS, Loss, Method, load, methods, moved_pairs, train
from torch import Generator, Tensor, nn

from weft.heads import GraphClassifier, GraphHead, NearestHead
from weft.isometry import (
    Expansion,
    GaussianNoise,
    RandomSigns,
    SquaredError,
    WorstDirection,
)
from weft.robustness import (
    APGD,
    AutoAttack,
    IndependentRows,
    JointBatch,
    LInf,
    Square,
    Threat,
    attack,
    cross_entropy,
    margin,
    worst_case,
)
from weft.robustness import Method as Attack

LEDGER = Ledger(Path(__file__).with_name("nearest.csv"))
EPSILON, IMAGES = 0.1, 50


def kinds() -> dict[str, Method]:
    """Return what is compared: no pairs, three kinds that keep their distance, a hinge, rivals."""

    def pairs(perturbation, discrepancy, weight: float) -> tuple[float, Loss]:
        return weight, partial(moved_pairs, perturbation=perturbation, discrepancy=discrepancy)

    keep, hinge = SquaredError(), Expansion()
    worst = WorstDirection(EPSILON)
    return {
        "no pairs": Method((CE,)),
        "random signs, keep": Method((CE, pairs(RandomSigns(EPSILON), keep, 10.0))),
        "Gaussian, keep": Method((CE, pairs(GaussianNoise(EPSILON), keep, 10.0))),
        "worst direction, keep": Method((CE, pairs(worst, keep, 10.0))),
        "worst direction, hinge": Method((CE, pairs(worst, hinge, 100.0))),
        "worst direction, hinge, stress": Method((CE, (10.0, STRESS), pairs(worst, hinge, 100.0))),
        **{name: methods(EPSILON)[name] for name in RIVALS},
    }


def measure(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy in percent, without attack and under the worst of several.

    A graph ties its batch together: one attacker moves all of it, by gradients through the graph.
    """
    suite: list[Attack] = [APGD(100, loss=margin), AutoAttack()]
    threat: Threat = IndependentRows(IMAGES)
    if isinstance(model, GraphClassifier):
        suite = [APGD(50, loss=margin), APGD(50, loss=cross_entropy), Square(300)]
        threat = JointBatch(IMAGES)
    found = [
        attack(model, inputs, labels, ball=LInf(EPSILON), method=method, threat=threat)
        for method in suite
    ]
    worst = worst_case(found)
    return {"clean": 100 * worst.clean_accuracy, "attacked": 100 * worst.accuracy}


def lipschitz(body: nn.Module) -> float:
    """Return a proven bound in norm 2: the product of the layers' norms; tanh adds nothing."""
    norms = [torch.linalg.matrix_norm(layer.weight.double(), 2) for layer in body[::2]]
    return torch.stack(norms).prod().item()


def heads(method: Method, seed: int) -> dict[str, nn.Module]:
    """Return the classifiers that share the trained features."""
    task, model = load("digits", seed), train(method, "digits", seed)
    near = NearestHead(model.body(task.inputs).detach(), task.labels)
    order = torch.randperm(len(task.labels), generator=Generator().manual_seed(seed))
    rank = torch.stack([(task.labels[order] == c).cumsum(0) for c in range(10)], dim=1)
    anchors = order[rank.gather(1, task.labels[order][:, None])[:, 0] <= 30]
    head = GraphHead(10, k=10)
    graph = GraphClassifier(model.body, head, task.inputs[anchors], task.labels[anchors])
    return {"read-out": model, "nearest": nn.Sequential(model.body, near), "graph": graph}


def run(method: Method, seed: int) -> dict[str, float]:
    """Train, and attack each head."""
    task = load("digits", seed)
    inputs, labels = task.test_inputs[:IMAGES], task.test_labels[:IMAGES]
    found, models = {}, heads(method, seed)
    for name, model in models.items():
        measures = measure(model.eval(), inputs, labels)
        found |= {f"{name} {key}": value for key, value in measures.items()}
    body, near = models["nearest"]
    bound = lipschitz(body)
    with torch.no_grad():
        features = body(inputs)
        radius = near.certified_radius(features, lipschitz=bound)
        right = near(features).argmax(1) == labels
    certified = right & (radius / inputs.shape[1] ** 0.5 > EPSILON)
    return found | {"L": bound, "nearest certified": 100 * certified.double().mean().item()}


def pixels(seed: int) -> dict[str, float]:
    """Let the nearest training image decide: no training, and a certificate."""
    task = load("digits", seed)
    inputs, labels = task.test_inputs[:IMAGES], task.test_labels[:IMAGES]
    head = NearestHead(task.inputs, task.labels, norm=torch.inf).eval()
    right = head(inputs).argmax(1) == labels
    certified = right & (head.certified_radius(inputs) > EPSILON)
    measures = measure(head, inputs, labels)
    found = {f"nearest {key}": value for key, value in measures.items()}
    return found | {"L": 1.0, "nearest certified": 100 * certified.double().mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    torch.set_num_threads(1)
    every: dict[str, Callable] = {"pixels, no training": pixels}
    every |= {name: partial(run, method) for name, method in kinds().items()}
    LEDGER.run("digits", every, range(parser.parse_args().seeds))
    columns = [
        f"{head} {key}"
        for head in ("read-out", "nearest", "graph")
        for key in ("clean", "attacked")
    ]
    print(LEDGER.table("digits", columns, digits=1), "\n")
    print(LEDGER.table("digits", ["L", "nearest certified"], digits=1))


if __name__ == "__main__":
    main()

"""Draw what the perturbations do on long-tailed digits, class by class: two figures, 30 seeds.

    python experiments/logits/figures.py

Trains four methods at the settings that digits.py chose, in a minute, and writes PNG files here;
one of them for the documentation too.
"""

import dataclasses
import warnings
from pathlib import Path

import matplotlib
import torch
from digits import GIVEN, SEEDS, la, lpl, margin
from scipy import stats as statistics
from setting import NUM_CLASSES, Method, Tasks, digits, predict, train
from sklearn.metrics import confusion_matrix
from torch import Tensor

from weft._check import WeftWarning
from weft.logits import loss_variation

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "figures"
METHODS = {"CE": Method(), "LA 1": la(1.0), "LPL 6": lpl(6.0), "margin 6": margin(6.0)}
DECAY = 5e-3  # what all of them chose
COLOURS = dict(zip(METHODS, ("#666666", "#4477aa", "#cc3311", "#ddaa33"), strict=True))


def by_rank(tasks: Tasks, table: Tensor) -> Tensor:
    """Order the last axis of (seeds, ..., classes) by class size, the largest first."""
    order = torch.stack([s.counts.argsort(descending=True) for s in tasks.stats])
    return table.gather(-1, order.view(len(order), *[1] * (table.ndim - 2), -1).expand_as(table))


def confusions(tasks: Tasks, logits: Tensor) -> Tensor:
    """Return for each seed the share of class i that is taken for class j, in order of size."""
    found = [
        torch.from_numpy(confusion_matrix(right, own.argmax(1), normalize="true"))
        for right, own in zip(tasks.test_targets, logits, strict=True)
    ]
    columns = by_rank(tasks, torch.stack(found))
    return by_rank(tasks, columns.mT).mT


def line(axes, values: Tensor, name: str) -> None:
    """Draw a mean over seeds by rank, with its 95 % t-interval."""
    ranks = range(1, NUM_CLASSES + 1)
    mean = values.nanmean(0).numpy()
    half = statistics.t.ppf(0.975, len(values) - 1) * statistics.sem(
        values.numpy(), nan_policy="omit"
    )
    axes.plot(ranks, mean, "o-", color=COLOURS[name], label=name, ms=3)
    axes.fill_between(ranks, mean - half, mean + half, color=COLOURS[name], alpha=0.2, lw=0)
    axes.set_xticks(ranks)
    axes.set_xlabel("class, by size (1: largest)")


def draw_classes(tasks: Tasks, early: Tensor, tables: dict[str, Tensor]) -> None:
    """Draw by how much each perturbation raises the loss of a class, and the accuracy it brings.

    The loss is that of the training samples under `early`, logits of a network that cross-entropy
    alone trained for a tenth of the epochs: all perturb the same, and no loss is zero yet.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, method in METHODS.items():
        if method.perturb:
            triples = zip(tasks.stats, early, tasks.targets, strict=True)
            found = [loss_variation(method.perturb(s), u, y) for s, u, y in triples]
            line(left, by_rank(tasks, torch.stack(found)), name)
        line(right, 100 * tables[name].diagonal(dim1=1, dim2=2), name)
    left.axhline(0, color="black", lw=0.5)
    left.set_ylabel("relative change of the loss")
    right.set_ylabel("accuracy on the class, %")
    right.legend(frameon=False)
    save(figure, HERE / "classes.png", DOCS / "logits.png")


def draw_confusion(tables: dict[str, Tensor]) -> None:
    figure, every = plt.subplots(1, len(tables), figsize=(10, 3), layout="constrained")
    for axes, (name, table) in zip(every, tables.items(), strict=True):
        wrong = 100 * table.mean(0)
        wrong.fill_diagonal_(0)
        image = axes.imshow(wrong, cmap="magma_r", vmin=0, vmax=15)
        axes.set_title(f"{name}: {100 * table.diagonal(dim1=1, dim2=2).mean():.1f} % right")
        axes.set_xticks(range(0, 10, 3), range(1, 11, 3))
        axes.set_yticks(range(0, 10, 3), range(1, 11, 3))
        axes.set_xlabel("taken for (by size)")
    every[0].set_ylabel("class (1: largest)")
    figure.colorbar(image, ax=every, label="% of the class", shrink=0.8)
    save(figure, HERE / "confusion.png")


def save(figure: plt.Figure, *paths: Path) -> None:
    for path in paths:
        figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", WeftWarning)
    tasks = digits(SEEDS, imbalance=50)
    early = train(tasks, GIVEN["CE"], epochs=10)(tasks.inputs).detach()
    tables = {}
    for name, method in METHODS.items():
        networks = train(tasks, dataclasses.replace(method, weight_decay=DECAY))
        tables[name] = confusions(tasks, predict(networks, tasks))
    draw_classes(tasks, early, tables)
    draw_confusion(tables)


if __name__ == "__main__":
    main()

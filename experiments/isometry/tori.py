"""A torus and a rolled sheet: what blocks trained one by one leave for the next.

    python experiments/isometry/tori.py ["torus 20" | "torus 40" | roll | tables | figures]

Rows are added to tori.csv as they come; what is there is not run again. Accuracies
are of points drawn anew, those "on the grid" of the points of the training.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from ledger import Ledger
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn

from weft.graph import geodesic_distances
from weft.isometry import (
    LocallyIsometricStack,
    Reduction,
    SquaredError,
    WithinClass,
    diagnose,
    fit_distances,
    pair_distances,
    train_levels,
)

HERE = Path(__file__).parent
LEDGER = Ledger(HERE / "tori.csv")
PAPER = {"discrepancy": SquaredError(), "reduction": Reduction.MATRIX}
PER_POINT = WithinClass(per_sample=8)


def torus(angles: Tensor) -> Tensor:
    """Return the points (n, 3) of angles (n, 2), around the hole and around the tube."""
    around, tube = angles.T
    out = 0.67 + 0.33 * tube.cos()
    return torch.stack([out * around.cos(), out * around.sin(), 0.33 * tube.sin()], dim=1)


def torus_labels(angles: Tensor) -> Tensor:
    """Return 2, 4 and 8 sectors of the tube."""
    sector = (angles[:, 1] / (2 * math.pi) * 8 + 1e-4).long() % 8
    return torch.stack([sector // 4, sector // 2, sector], dim=1)


def blocks(levels: int, layers: int, width: int = 20) -> list[nn.Module]:
    """Return blocks of tanh layers, orthogonal at the start, from 3 numbers to `width`."""
    found, size = [], 3
    for _ in range(levels):
        block = nn.Sequential()
        for incoming, outgoing in pairwise([size] + [width] * layers):
            linear = nn.Linear(incoming, outgoing)
            nn.init.orthogonal_(linear.weight)
            block.extend([linear, nn.Tanh()])
        found.append(block)
        size = width
    return found


def train(
    stack: LocallyIsometricStack,
    inputs: Tensor,
    labels: Tensor,
    epochs: int,
    weight: float,
    **options,
) -> LocallyIsometricStack:
    """Train all levels on the whole set, with Adam at 1e-3 as in the paper."""
    optimizer = torch.optim.Adam(stack.parameters(), 1e-3)
    for _ in range(epochs):
        train_levels(stack, inputs, labels, optimizer, weights=weight, **options)
    return stack.eval()


def measure(stack: LocallyIsometricStack, inputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, within-class correlation and stress of each level."""
    found = {}
    for level in range(stack.num_levels):
        with torch.no_grad():
            right = stack(inputs, level).argmax(1) == labels[:, level]
            fit = diagnose(inputs, stack.features(inputs, level), labels[:, level]).class_mean()
        found |= {
            f"accuracy {level + 1}": right.double().mean().item(),
            f"Pearson {level + 1}": fit.pearson,
            f"stress {level + 1}": fit.stress,
        }
    return found


def torus_stack(
    seed: int, *, weight: float, side: int, epochs: int, every_pair: bool = False
) -> tuple[LocallyIsometricStack, Tensor, Tensor]:
    """Train on a grid of side x side angles; also return the points and their labels."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    grid = torch.arange(side) * 2 * math.pi / side
    angles = torch.cartesian_prod(grid, grid)
    points, labels = torus(angles), torus_labels(angles)
    points += 1e-3 * torch.randn(len(angles), 3, generator=generator)
    stack = LocallyIsometricStack(blocks(3, 4), nn.Linear(20, 8))
    pairs = WithinClass() if every_pair else PER_POINT
    train(stack, points, labels, epochs, weight, pairs=pairs, generator=generator, **PAPER)
    return stack, points, labels


def torus_measures(seed: int, **options) -> dict[str, float]:
    stack, points, labels = torus_stack(seed, **options)
    on_grid = measure(stack, points, labels)
    fresh = 2 * math.pi * torch.rand(1000, 2, generator=Generator().manual_seed(seed))
    found = {name.replace("accuracy", "on the grid"): value for name, value in on_grid.items()}
    between = measure(stack, torus(fresh), torus_labels(fresh))
    return found | {name: value for name, value in between.items() if "accuracy" in name}


def roll(count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return points of a roll about as wide as 1, the sheet that it was, and its two halves."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=generator))
    height = 21 * torch.rand(count, generator=generator)
    points = torch.stack([angle * angle.cos(), height, angle * angle.sin()], dim=1)
    arc = (angle * (1 + angle.square()).sqrt() + angle.asinh()) / 2
    return points / 28, torch.stack([arc, height], dim=1) / 28, (angle > 3 * math.pi).long()


def roll_measures(
    seed: int, *, weight: float, geodesic: bool, epochs: int = 1000
) -> dict[str, float]:
    """One level, two classes: the inner and the outer half of the roll."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    points, sheet, labels = roll(1000, generator)
    pairs = PER_POINT(len(points), labels, generator, points.device).rows
    target = pair_distances(points, pairs)
    if geodesic:
        target = geodesic_distances(points, pairs, labels=labels, k=8)
    net = nn.Sequential(*blocks(1, 4, width=50))
    stack = LocallyIsometricStack([net], nn.Linear(50, 2))
    options = {"pairs": pairs, "distances": target}
    train(stack, points, labels[:, None], epochs, weight, **options)
    fits = {"known": fit_distances(pair_distances(sheet, pairs), target)}
    points, sheet, labels = roll(1000, generator)
    with torch.no_grad():
        features = stack.features(points)
        right = (stack(points).argmax(1) == labels).double().mean().item()
    pairs = WithinClass()(len(points), labels, None, points.device).rows
    truth = pair_distances(sheet, pairs)
    fits["features"] = fit_distances(truth, pair_distances(features, pairs))
    return {
        "accuracy": right,
        "target to sheet": fits["known"].pearson,
        "features to sheet": fits["features"].pearson,
        "stress": fits["features"].stress,
    }


def isometric(run: Callable, weights: tuple[float, ...], **options) -> dict[str, Callable]:
    """Name a run by its weight; zero is cross-entropy alone."""
    return {
        f"isometry {weight:g}" if weight else "cross-entropy": partial(
            run, weight=weight, **options
        )
        for weight in weights
    }


def experiments() -> dict[str, dict[str, Callable]]:
    small = partial(isometric, torus_measures, side=20, epochs=2000)
    return {
        "torus 20": small((0.0, 10.0))
        | {"isometry 10, every pair": small((10.0,), every_pair=True)["isometry 10"]},
        "torus 40": isometric(torus_measures, (0.0, 10.0), side=40, epochs=800),
        "roll": {
            "cross-entropy": partial(roll_measures, weight=0.0, geodesic=True),
            "straight distances": partial(roll_measures, weight=10.0, geodesic=False),
            "geodesic distances": partial(roll_measures, weight=10.0, geodesic=True),
        },
    }


def levels(measure: str, count: int) -> list[str]:
    return [f"{measure} {k + 1}" for k in range(count)]


def tables() -> None:
    for name in ("torus 20", "torus 40"):
        print(f"\n{name.capitalize()}: 2, 4, 8 sectors of the tube\n")
        print(LEDGER.table(name, levels("on the grid", 3) + levels("accuracy", 3)), "\n")
        print(LEDGER.table(name, levels("Pearson", 3) + levels("stress", 3)))
    print("\nRoll: correlation of within-class distances with those of the flat sheet\n")
    print(LEDGER.table("roll", ["accuracy", "target to sheet", "features to sheet", "stress"]))


def figures() -> None:
    """Draw what the blocks of a torus stack return, in their two principal directions."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    grid = figure.subplots(2, 3, squeeze=False)
    for row, weight in zip(grid, (0.0, 10.0), strict=True):
        stack, points, labels = torus_stack(0, weight=weight, side=40, epochs=800)
        for level, axes in enumerate(row):
            with torch.no_grad():
                features = stack.features(points, level)
                right = (stack(points, level).argmax(1) == labels[:, level]).double().mean()
            flat = torch.linalg.svd(features - features.mean(0), full_matrices=False)
            plane = (flat.U * flat.S)[:, :2]
            axes.scatter(*plane.T, c=labels[:, 2], cmap="turbo", s=4, linewidths=0)
            axes.set_title(
                f"level {level + 1}: {2 ** (level + 1)} classes, {right:.0%} right", size=10
            )
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal", adjustable="datalim")
        row[0].set_ylabel(f"isometry, weight {weight:g}" if weight else "cross-entropy alone")
    figure.suptitle("What each block hands on; colour: the 8 finest classes", size=11)
    figure.savefig(HERE / "torus.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=[*experiments(), "tables", "figures"])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for name, methods in experiments().items():
        if name in arguments.what:
            LEDGER.run(name, methods, range(arguments.seeds))
    if "tables" in arguments.what:
        tables()
    if "figures" in arguments.what:
        figures()


if __name__ == "__main__":
    main()

"""Train a few methods with seed 0 again and draw what they found.

python experiments/discrete/figures.py            # all; or name some: paths globe matches ...
"""

import argparse
from pathlib import Path

import explain
import grids
import house
import matplotlib.pyplot as plt
import numpy as np
import points
import torch
import tours
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from rows import data_root
from torch import Generator, Tensor
from torch.nn.functional import softplus

from weft.discrete import Assignment, GridPath, SolverLog, Tour

FIGURES = Path(__file__).resolve().parent / "figures"
TRUE, FOUND, WRONG = "#1b9e77", "#d95f02", "#d62728"


def paths() -> None:
    """Draw pictures, true and learned costs, and the cheapest paths by both."""
    shown = [
        ("terrain 12", "Identity"),
        ("terrain 12", "Identity, norm"),
        ("maps", "Identity, norm"),
    ]
    figure, axes = plt.subplots(3, 3, figsize=(6, 6), layout="constrained")
    for row, (problem_name, method) in zip(axes, shown, strict=True):
        problem = grids.PROBLEMS[problem_name]
        train, test = grids.make(problem, 0)
        model, _ = grids.train(problem, grids.METHODS[method], train, 0, SolverLog())
        index = 8 if problem_name == "maps" else 0
        with torch.no_grad():
            costs = softplus(model(test.pictures[index : index + 1]))
        path = GridPath()(costs)[0]
        row[0].imshow(test.pictures[index].permute(1, 2, 0).clamp(0, 1))
        row[0].set_ylabel(f"{problem_name}\n{method}")
        row[1].imshow(test.costs[index], cmap="Greys")
        row[2].imshow(costs[0], cmap="Greys")
        for axis, trail, colour in ((row[1], test.paths[index], TRUE), (row[2], path, FOUND)):
            at = trail.nonzero()
            axis.scatter(at[:, 1], at[:, 0], s=2500 / len(trail) ** 1.5, color=colour)
        ratio = (test.costs[index] * path).sum() / (test.costs[index] * test.paths[index]).sum()
        row[2].set_xlabel(f"{ratio:.3f} of the least cost")
    for axis, title in zip(axes[0], ("picture", "true costs", "learned costs"), strict=True):
        axis.set_title(title)
    finish(figure, axes, "paths")


def globe() -> None:
    """Draw TSPLIB's places, the true tour, and the tour by places that the network never saw."""
    figure, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
    worlds = tours.Worlds([0], 5)
    for row, method in zip(axes, ("Identity", "Identity, affine norm"), strict=True):
        problem = tours.PROBLEMS["5 places"]
        model, _ = tours.train(problem, tours.METHODS[method], worlds, [0], SolverLog())
        for axis, name in zip(row, tours.GEO, strict=True):
            places = tours.read_geo(name)
            codes = worlds.codes(places[None, None], Generator().manual_seed(2))
            with torch.no_grad():
                found = Tour()(tours.distances(tours.place(model, codes)))[0, 0]
            true = tours.distances(places)
            best = Tour()(true[None])[0]
            flat = face_on(places)
            axis.add_patch(Circle((0, 0), 1, fill=False, color="0.8"))
            i, j = torch.triu_indices(len(places), len(places), 1)
            for solution, colour, width in ((best, TRUE, 4), (found, FOUND, 1.5)):
                for edge in solution.nonzero()[:, 0].tolist():
                    ends = torch.stack([flat[i[edge]], flat[j[edge]]])
                    axis.plot(ends[:, 0], ends[:, 1], color=colour, lw=width)
            axis.scatter(flat[:, 0], flat[:, 1], s=18, color="black", zorder=3)
            axis.set_aspect("equal")
            ratio = (true * found).sum() / (true * best).sum()
            axis.set_xlabel(f"{ratio:.2f} of the shortest")
            axis.set_title(name if method == "Identity" else "")
        row[0].set_ylabel(method)
    finish(figure, axes, "globe")


def face_on(places: Tensor) -> Tensor:
    """Return the view of the sphere from above the middle of the places, (n, 2)."""
    middle = places.mean(0)
    turned = torch.linalg.qr(torch.cat([middle[:, None], torch.eye(3)[:, :2]], 1)).Q
    return places @ turned[:, 1:]


def matches() -> None:
    """Draw landmarks of two frames, 90 apart, and what is matched wrongly."""
    film, (seen, landmarks) = house.read_film(), house.split("landmarks", 0)
    points_of = np.load(data_root() / "cmu_house" / "cmu_house.npz")["keypoints"]
    pair = house.pairs(90, held_out=True)[:1]
    order, truth = house.shuffled(landmarks, 1, Generator().manual_seed(1))
    left, right = film.contexts[pair[..., None], order].unbind(1)
    unlearned = house.context_distance(left, right)
    method = house.METHODS["Identity, affine norm"]
    model, _ = house.train(method, film, seen, 0, SolverLog())
    with torch.no_grad():
        learned = house.pair_costs(model, film, pair, order)
    figure, axes = plt.subplots(2, 1, figsize=(5.6, 4.5), layout="constrained")
    frames = pair[0].tolist()
    folder = data_root() / "cmu_house" / "images"
    images = [np.asarray(Image.open(folder / f"house.seq{f}.png").convert("L")) for f in frames]
    shift = np.array([images[0].shape[1], 0])
    names = ("unlearned: shape contexts", "learned on other landmarks, in other frames")
    for axis, costs, name in zip(axes, (unlearned, learned), names, strict=True):
        axis.imshow(np.hstack(images), cmap="gray")
        found = Assignment()(costs)[0]
        for a, b in found.nonzero().tolist():
            ends = (
                points_of[frames[0], order[0, 0, a]],
                points_of[frames[1], order[0, 1, b]] + shift,
            )
            colour = TRUE if truth[0, a, b] else WRONG
            axis.plot(*np.stack(ends).T, "o-", color=colour, ms=3, lw=1)
        right_ones = int((found * truth[0]).sum())
        axis.set_title(f"{name}: {right_ones} of {len(landmarks)} right", fontsize=9)
    finish(figure, axes, "matches")


def masks() -> None:
    """Draw which eight pixels are chosen, for a digit of each class."""
    names = ("Identity", "Identity, std", "I-MLE")
    problem = explain.PROBLEMS["pixels"]
    test = problem.load()[1]
    digits = torch.stack([(test.labels[:, label] > 0).nonzero()[0, 0] for label in range(10)])
    figure, axes = plt.subplots(len(names), 10, figsize=(9, 3), layout="constrained")
    for row, name in zip(axes, names, strict=True):
        method = explain.METHODS[name]
        rule = method.rules[0]
        _, model = explain.train(problem, method, rule, 0.1, 0)
        part = test.rows(digits)
        shown = explain.chosen_entries(model, part, problem, method)
        shown = torch.zeros_like(part.inputs).scatter(1, part.entries, shown)
        for axis, image, mask in zip(row, test.inputs[digits], shown, strict=True):
            axis.imshow(image.view(8, 8), cmap="gray")
            at = mask.view(8, 8).nonzero()
            axis.scatter(at[:, 1], at[:, 0], s=12, marker="s", color=FOUND)
        row[0].set_ylabel(name, fontsize=8)
    finish(figure, axes, "masks")


def collapse() -> None:
    """Draw the length of the costs over training."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    problem = grids.PROBLEMS["terrain 12"]
    train = grids.make(problem, 0)[0]
    for name in ("Identity", "Blackbox", "Identity, noise 0.2", "Identity, norm"):
        lengths = grids.train(problem, grids.METHODS[name], train, 0, SolverLog())[1]
        axes[0].plot(lengths, label=name, lw=1)
    worlds, places = tours.Worlds([0], 5), tours.PROBLEMS["5 places"]
    for name in ("Identity", "Blackbox", "Identity, std, noise 0.2", "Identity, affine norm"):
        lengths = tours.train(places, tours.METHODS[name], worlds, [0], SolverLog())[1]
        axes[1].plot(torch.cat(lengths), label=name, lw=1)
    templates = points.Templates([0])
    for name in (
        "Identity",
        "Identity, noise 1",
        "Identity, linear Hamming, noise 1",
        "Identity, affine norm",
    ):
        lengths = points.train(points.METHODS[name], templates, [0], SolverLog())[1]
        axes[2].plot(torch.cat(lengths), label=name, lw=1)
    titles = ("terrain 12, by step", "tours of 5, by epoch", "matched points, by step")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, yscale="log")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("mean length of the costs")
    figure.savefig(FIGURES / "collapse.png", dpi=90)


def finish(figure: Figure, axes: np.ndarray, name: str) -> None:
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        for side in axis.spines.values():
            side.set_visible(False)
    figure.savefig(FIGURES / f"{name}.png", dpi=90)


if __name__ == "__main__":
    every = {f.__name__: f for f in (paths, globe, matches, masks, collapse)}
    parser = argparse.ArgumentParser(description="Draw the figures.")
    parser.add_argument("names", nargs="*", choices=[*every, []], default=list(every))
    FIGURES.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        every[name]()

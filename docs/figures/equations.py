"""Draw docs/figures/equations.png: two moons with three labels, as six equations see them.

Run: python docs/figures/equations.py
"""

from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from sklearn.datasets import make_moons

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from weft.graph import (
    WNLL,
    Equation,
    Laplace,
    Normalization,
    PLaplace,
    Poisson,
    Spreading,
    VolumeConstraint,
    knn_graph,
)

points, classes = (torch.from_numpy(part) for part in make_moons(300, noise=0.1, random_state=3))
order = classes.argsort(stable=True)
points, classes = points[order].double(), classes[order]
known = torch.zeros(300, dtype=torch.bool)
known[[10, 155, 250]] = True
labels = F.one_hot(classes, 2).double()
graph = knn_graph(points, 10)

panels: dict[str, tuple[Equation, Normalization | None]] = {
    "Laplace()": (Laplace(), None),
    "Laplace(reweighting=WNLL())": (Laplace(reweighting=WNLL()), None),
    "PLaplace(p=6)": (PLaplace(6.0), None),
    "Spreading(0.99)": (Spreading(0.99), None),
    "Poisson()": (Poisson(), None),
    "Poisson(), volumes known": (Poisson(), VolumeConstraint((1.0, 1.0))),
}
figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), sharex=True, sharey=True)
for axis, (title, (equation, volumes)) in zip(axes.flat, panels.items(), strict=True):
    scores = equation(graph, labels, known)
    if volumes is not None:
        scores = volumes(scores, labels, known, 1)
    lead = scores[:, 1] - scores[:, 0]
    bound = lead[~known].abs().max()
    colours = {"cmap": "coolwarm", "vmin": -bound, "vmax": bound}
    axis.scatter(*points.T, c=lead, s=7, **colours)
    axis.scatter(*points[known].T, c=classes[known], s=70, marker="*", cmap="coolwarm", ec="k")
    right = (scores.argmax(1) == classes)[~known].double().mean()
    axis.set_title(f"{title}: {right:.1%}", fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
figure.tight_layout()
figure.savefig(Path(__file__).with_suffix(".png"), dpi=90)

"""Draw docs/figures/moons.png: the graph, the prediction and the abstention of the classifier.

Run: python docs/figures/moons.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from sklearn.datasets import make_moons

from weft.estimators import GraphLearningClassifier

X, y = make_moons(160, noise=0.07, random_state=3)
known = np.isin(np.arange(160), np.r_[np.flatnonzero(y == 0)[:3], np.flatnonzero(y == 1)[:3]])
model = GraphLearningClassifier(10, tau=0.002).fit(X, np.where(known, y, -1))

east, north = np.meshgrid(np.linspace(-1.7, 2.7, 220), np.linspace(-1.2, 1.7, 145))
plane = np.stack([east.ravel(), north.ravel()], 1)
panels = {
    "the graph: six labels, 154 samples without": None,
    "probability of the second class": model.predict_proba(plane)[:, 1],
    "abstention": model.abstention(plane),
}

figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
for axis, (title, values) in zip(axes, panels.items(), strict=True):
    if values is None:
        graph = model.anchor_graph_.graph
        lines = LineCollection(X[graph.edges.T.numpy()], colors="0.75", linewidths=0.5)
        axis.add_collection(lines)
        axis.scatter(*X[~known].T, s=5, c="0.35")
        axis.set(xlim=(east.min(), east.max()), ylim=(north.min(), north.max()))
    else:
        colours = "coolwarm" if "probability" in title else "Greys"
        values = values.reshape(east.shape)
        shades = axis.pcolormesh(east, north, values, cmap=colours, vmin=0, vmax=1)
        figure.colorbar(shades, ax=axis, fraction=0.03, pad=0.02, ticks=[0, 0.5, 1])
        axis.scatter(*X[~known].T, s=2, c="0.35")
    colours = {"cmap": "coolwarm", "edgecolors": "white", "vmin": 0, "vmax": 1}
    axis.scatter(*X[known].T, s=60, c=y[known], **colours, linewidths=1.5, zorder=3)
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[], aspect="equal")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)

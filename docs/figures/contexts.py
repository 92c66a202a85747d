"""Draw docs/figures/contexts.png: accuracy in each context of prediction, digits, 100 labels.

The backbone is the identity, so the graph is that of the pixels: what differs is company alone.
One point for each of five choices of the anchors, and their mean.

Run: python docs/figures/contexts.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from weft.heads import Batches, GraphClassifier, GraphHead, Queries, Whole, choose_anchors, predict

CONTEXTS = {
    "whole set": Whole(),
    "batches of 500": Batches(500),
    "of 100": Batches(100),
    "of 20": Batches(20),
    "query, exact": Queries(exact=True),
    "query": Queries(),
}

digits = load_digits()
inputs, labels = torch.tensor(digits.data).float(), torch.tensor(digits.target)
panels = {"100 anchors, all labelled": 0, "1000 anchors, 100 labelled": 900}
results: dict[str, dict[str, list[float]]] = {title: {} for title in panels}
for seed in range(5):
    generator = torch.Generator().manual_seed(seed)
    labelled = choose_anchors(labels, 10, generator=generator)
    others = torch.ones(len(labels), dtype=torch.bool)
    others[labelled] = False
    others = others.nonzero().squeeze(1)
    others = others[torch.randperm(len(others), generator=generator)]
    test = others[900:]
    for title, extra in panels.items():
        anchors = torch.cat([labelled, others[:extra]])
        known = torch.cat([labels[labelled], torch.full((extra,), -1)])
        model = GraphClassifier(nn.Identity(), GraphHead(10, k=10), inputs[anchors], known)
        for name, context in CONTEXTS.items():
            right = predict(model, inputs[test], context).probabilities.argmax(1) == labels[test]
            results[title].setdefault(name, []).append(100 * right.float().mean().item())

figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True, layout="constrained")
for axis, (title, accuracy) in zip(axes, results.items(), strict=True):
    for place, (name, values) in enumerate(accuracy.items()):
        axis.plot([place] * 5, values, "o", color="C0", alpha=0.35, markersize=4)
        axis.plot([place - 0.3, place + 0.3], [np.mean(values)] * 2, color="C0", linewidth=2)
        print(f"{title}, {name}: {np.mean(values):.2f}")
    axis.set_title(title, fontsize=9)
    axis.set_xticks(range(len(accuracy)), list(accuracy), rotation=30, ha="right", fontsize=8)
    axis.grid(axis="y", alpha=0.3)
axes[0].set_ylabel("accuracy, %")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)

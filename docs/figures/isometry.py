"""Draw what isometry does to the distances of digits: python docs/figures/isometry.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

from weft.isometry import (
    IsometryRegularizer,
    WithinClass,
    boundary_distance,
    layer_profile,
    pair_distances,
    plot_profile,
    plot_ratios,
    plot_shepard,
)

LAYERS = [f"{2 * depth + 1}" for depth in range(5)]  # the five tanh
images, classes = load_digits(return_X_y=True)
parts = train_test_split(images / 16, classes, test_size=450, stratify=classes, random_state=0)
inputs, test_inputs = (torch.from_numpy(part).float() for part in parts[:2])
labels, test_labels = map(torch.from_numpy, parts[2:])


def train(weight: float) -> nn.Sequential:
    """Train five tanh layers of 100 and a read-out, with isometry at the last of the five."""
    torch.manual_seed(0)
    widths = [64, *[100] * 5]
    layers = [part for w in widths[:-1] for part in (nn.Linear(w, 100), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(100, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    with IsometryRegularizer(model, {LAYERS[-1]: weight}) as isometry:
        for _ in range(60):
            for rows in torch.randperm(len(labels), generator=generator).split(100):
                loss = cross_entropy(model(inputs[rows]), labels[rows]) + isometry(labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


pairs = WithinClass()(len(test_labels), test_labels, None, test_labels.device).rows
before = pair_distances(test_inputs, pairs)
figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
for row, (name, weight) in enumerate({"cross-entropy": 0.0, "with isometry": 10.0}.items()):
    model = train(weight)
    with torch.no_grad():
        features = model[:-1](test_inputs)
    profile = layer_profile(model, LAYERS, test_inputs, test_labels)
    boundary = boundary_distance(model, test_inputs)
    plot_shepard(before, pair_distances(features, pairs), axes=axes[row, 0])
    plot_profile(profile, axes=axes[row, 1])
    axes[row, 1].set(ylim=(0, 1.03), title="layer by layer")
    axes[row, 1].title.set_fontsize("medium")
    axes[row, 1].set_xticks(range(5), [f"tanh {depth}" for depth in range(1, 6)])
    plot_ratios(test_inputs, features, test_labels, boundary, axes=axes[row, 2])
    axes[row, 2].set_ylim(0, 2)
    axes[row, 2].set_xlabel("distance to the decision boundary")
    axes[row, 2].set_ylabel("stretch of pairs, over its median")
    axes[row, 0].set_ylabel(f"{name}\n\ndistance of features")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)

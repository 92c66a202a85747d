"""Draw the digits whose labels are most in doubt, with what speaks against them.

Run: python docs/figures/audits.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from weft.graph import knn_graph, label_noise, leave_one_out, leave_one_out_weights

SHOWN, REASONS = 4, 6
digits = load_digits()
inputs, classes = torch.tensor(digits.data) / 16, torch.tensor(digits.target)
generator = torch.Generator().manual_seed(0)
flipped = torch.randperm(1000, generator=generator)[:50]  # of the first 1000 labels
given = classes[:1000].clone()
given[flipped] = (given[flipped] + torch.randint(1, 10, (50,), generator=generator)) % 10

graph = knn_graph(inputs, 10)
known = torch.arange(len(inputs)) < 1000
labels = F.pad(F.one_hot(given, 10).double(), (0, 0, 0, len(inputs) - 1000))
fidelity = 0.2 * graph.degrees().mean().item()
told = leave_one_out(graph, labels, known, fidelity=fidelity)
noise = label_noise(told, labels)[known]
order = noise.argsort(descending=True)
found = torch.isin(order[:50], flipped).double().mean()
print(f"{found:.0%} of the 50 most doubtful labels were flipped")

# The first is one of the surest; the others are spread over the 50.
nodes = order[[2, 15, 30, 46]]
weights = leave_one_out_weights(graph, known, nodes, fidelity=fidelity)
figure, axes = plt.subplots(SHOWN, REASONS + 1, figsize=(8, 5.6), layout="constrained")
for row, node in zip(axes, nodes.tolist(), strict=True):
    place = int((nodes == node).nonzero()[0])
    against = weights[place].clone()
    against[labels[:, given[node]] > 0] = 0
    row[0].imshow(digits.images[node], cmap="gray_r")
    truth = " (flipped)" if node in flipped.tolist() else ""
    row[0].set_title(f"labelled {given[node]}{truth}\n{noise[node]:.1%} against", fontsize=8)
    for axis, reason in zip(row[1:], against.topk(REASONS).indices.tolist(), strict=True):
        axis.imshow(digits.images[reason], cmap="gray_r")
        axis.set_title(f"{against[reason]:.1%}: {given[reason]}", fontsize=8)
    for axis in row:
        axis.set_xticks([])
        axis.set_yticks([])
    row[0].spines[:].set_color("C3")
    row[0].spines[:].set_linewidth(2)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)

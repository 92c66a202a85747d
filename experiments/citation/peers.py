"""The same ideas in PyTorch Geometric, where it is installed: fifty steps instead of a solve."""

import torch
from setting import Method, Task
from spreading import ALPHAS, BASE, logistic
from torch import Tensor
from torch_geometric.nn import CorrectAndSmooth, LabelPropagation
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from weft.graph import Graph

LAYERS = 50  # as in the examples of PyTorch Geometric


def normalized(graph: Graph) -> tuple[Tensor, Tensor]:
    """Return edges both ways and D^-1/2 W D^-1/2 on them: both models take weights as they are."""
    return gcn_norm(*graph.to_edge_index(), graph.num_nodes, add_self_loops=False)


def label_propagation(task: Task, graph: Graph, seed: int, *, alpha: float, layers: int) -> Tensor:
    index, weights = normalized(graph)
    model = LabelPropagation(layers, alpha)
    return model(task.labels.float(), index, mask=task.known, edge_weight=weights)


def correct_and_smooth(
    task: Task, graph: Graph, seed: int, *, correct: float, smooth: float, C: float
) -> Tensor:
    index, weights = normalized(graph)
    train, base = task.data.train, logistic(task, None, seed, C=C)
    model = CorrectAndSmooth(LAYERS, correct, LAYERS, smooth)
    labels = task.labels[train].float()
    with torch.no_grad():
        corrected = model.correct(base, labels, train, index, weights)
        return model.smooth(corrected, labels, train, index, weights)


METHODS = {
    "PyG LabelPropagation": Method(label_propagation, {"alpha": ALPHAS, "layers": (10, LAYERS)}),
    "PyG CorrectAndSmooth": Method(
        correct_and_smooth, {"correct": ALPHAS, "smooth": ALPHAS, **BASE}
    ),
}

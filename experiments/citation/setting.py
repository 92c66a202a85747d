"""What every method gets: papers, their words, and three graphs to spread labels on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.graph import ExactNeighbors, Graph, knn_graph
from weft.lab.citation import CitationDataset, load_citation

MOST_NEIGHBORS = 30
GRAPHS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "none": {},
    "given": {},
    "features": {"k": (5, 10, 15, 30)},
    "both": {"k": (5, 10, 15, 30), "mix": (0.3, 1.0, 3.0, 10.0)},
}
"""No graph and three, with their options: `k` neighbours by cosine, `mix` times their weights."""


@dataclass(frozen=True, eq=False)
class Task:
    """A data set in one split, and its neighbours by cosine.

    Args:
        data: papers, labels and split.
        words: features, each row of length one; rows of zeros stay zero.
        worded: the papers that have words at all.
        near: their nearest others among themselves, nearest first, by place in `worded`.
    """

    data: CitationDataset
    words: Tensor
    worded: Tensor
    near: Tensor

    @classmethod
    def load(cls, name: str, root: Path) -> "Task":
        """Load a data set in the public split, and find its neighbours."""
        data = load_citation(name, root)
        words = F.normalize(data.features)
        # A row of zeros is nearer to every paper (cosine distance 1) than most papers are to each
        # other: left in, the fifteen such rows of Citeseer would be everyone's neighbours.
        worded = words.any(1).nonzero().squeeze(1)
        return cls(data, words, worded, ExactNeighbors()(words[worded], MOST_NEIGHBORS))

    def split(self, seed: int) -> "Task":
        """Return the same papers in a random split."""
        return replace(self, data=self.data.random_split(seed))

    @cached_property
    def labels(self) -> Tensor:
        """One-hot rows; zeros where unknown."""
        known = self.data.labels >= 0
        return F.one_hot(self.data.labels.clamp_min(0), self.data.num_classes) * known[:, None]

    @cached_property
    def known(self) -> Tensor:
        """Which papers have a label that training may see."""
        return torch.zeros_like(self.data.labels, dtype=torch.bool).index_fill(
            0, self.data.train, True
        )

    def graph(self, kind: str, k: int = 0, mix: float = 1.0) -> Graph | None:
        """Return nothing, the citations, the neighbours by cosine, or the sum of both."""
        if kind == "none":
            return None
        if kind == "given":
            return self.data.graph
        near = knn_graph(self.words[self.worded], k, neighbors=lambda _, k: self.near[:, :k])
        near = Graph.from_edge_index(
            self.worded[near.edges], near.weights, num_nodes=len(self.words)
        )
        if kind == "features":
            return near
        return self.data.graph + near.with_weights(mix * near.weights)

    def measure(self, scores: Tensor, nodes: Tensor) -> tuple[float, float]:
        """Return accuracy and share of abstentions, rows of zeros, which count as wrong."""
        scores = scores[nodes]
        abstains = (scores == 0).all(1)
        right = (scores.argmax(1) == self.data.labels[nodes]) & ~abstains
        return right.double().mean().item(), abstains.double().mean().item()


@dataclass(frozen=True)
class Method:
    """A way to predict the papers without label.

    Args:
        run: from task, graph, seed and options to scores.
        options: the values that are tried of each.
        graphs: which graphs it runs on; `none` for methods that see the words alone.
        seeded: whether it draws random numbers.
        own_graph: whether it builds the graph itself and has no options of one.
    """

    run: Callable[..., Tensor]
    options: Mapping[str, Sequence[Any]]
    graphs: Sequence[str] = ("given", "features", "both")
    seeded: bool = False
    own_graph: bool = False

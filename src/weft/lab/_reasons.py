"""Why the graph head said what it said, in the context "whole": labelled examples, neighbours."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft.graph import Graph, label_weights
from weft.heads import GraphClassifier

_CHUNK = 500  # samples explained in one solve: its memory is nodes x samples


class WholeGraph:
    """The graph of all anchors and samples, in this order, that `Whole()` predicts on.

    Args:
        model: a trained classifier.
        features: of the samples, as its backbone makes them.
        inputs: the samples.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: GraphClassifier,
        features: Float[Tensor, "n d"],
        inputs: Float[Tensor, "n *shape"],
    ) -> None:
        self._head = model.head
        self._num_anchors = len(model.anchor_labels)
        joined = torch.cat([model.anchor_features(), features])
        self.graph: Graph = model.head.graph(joined, model.beside(inputs.to(features.device)))
        self._known = torch.zeros(self.graph.num_nodes, dtype=torch.bool, device=features.device)
        self._known[: self._num_anchors] = model.anchor_labels >= 0

    @property
    def labelled(self) -> Bool[Tensor, " a"]:
        """Which anchors have a label."""
        return self._known[: self._num_anchors]

    @torch.no_grad()
    def reasons(self, samples: Int[Tensor, " q"]) -> Float[Tensor, "q l"]:
        """Return the exact weight of each labelled anchor in the scores of some samples.

        A row sums to one minus the abstention. The scores are those before class masses are
        normalised, which the head does where few nodes are labelled.
        """
        rows = [
            label_weights(
                self.graph,
                self._known,
                self._num_anchors + some.to(self._known.device),
                tau=self._head.tau,
                solver=self._head.solver,
            )[:, self._known]
            for some in samples.split(_CHUNK)
        ]
        return torch.cat(rows).cpu()

    def neighbors(
        self, samples: Int[Tensor, " m"], most: int
    ) -> tuple[Int[Tensor, "m q"], Float[Tensor, "m q"]]:
        """Return the strongest edges of some samples to each other and to labelled anchors.

        Returns:
            Positions in the list of these samples followed by the labelled anchors, and the
            weights of the edges; entries of weight zero are padding.
        """
        nodes = torch.cat([self._num_anchors + samples, self._known.cpu().nonzero().squeeze(1)])
        place = torch.full((self.graph.num_nodes,), -1)
        place[nodes] = torch.arange(len(nodes))
        ends = place[self.graph.edges.cpu()]
        start, end = torch.cat([ends, ends.flip(0)], dim=1)  # both directions
        weights = self.graph.weights.detach().cpu().repeat(2)
        kept = (start >= 0) & (start < len(samples)) & (end >= 0)
        start, end, weights = start[kept], end[kept], weights[kept]
        order = weights.argsort(descending=True, stable=True)
        order = order[start[order].argsort(stable=True)]  # by start, the strongest first
        start, end, weights = start[order], end[order], weights[order]
        counts = start.bincount(minlength=len(samples))
        rank = torch.arange(len(start)) - (counts.cumsum(0) - counts)[start]
        first = rank < most
        indices = torch.zeros(len(samples), most, dtype=torch.int64)
        strengths = torch.zeros(len(samples), most)
        indices[start[first], rank[first]] = end[first]
        strengths[start[first], rank[first]] = weights[first].float()
        return indices, strengths

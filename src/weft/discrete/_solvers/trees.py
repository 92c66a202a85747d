"""Spanning trees, by SciPy for a whole batch at once."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor

from weft.discrete._solvers.edges import check_count, check_edges, nodes_present
from weft.discrete._solvers.selection import FixedSum


@dataclass(frozen=True, eq=False)
class SpanningTree(FixedSum):
    """The cheapest edges that connect all nodes, which make a tree.

    Costs may have any sign; of equal ones the first is taken. With a mask, other edges are closed.
    A node without an edge is absent.

    Args:
        edges: pairs of nodes i < j, each once.

    Source: Kruskal, 1956, as scipy.sparse.csgraph.minimum_spanning_tree, which loses edges of cost
        zero: here it sees the ranks 1, 2, ... of the costs, on which alone the tree depends.
    """

    edges: Int[Tensor, "2 e"]

    def __post_init__(self) -> None:
        check_edges(self.edges)

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Put the instances side by side in one graph."""
        check_count(costs.shape[1], self.edges)
        batch, num_edges = costs.shape
        inside = torch.ones_like(costs, dtype=torch.bool) if mask is None else mask
        order = costs.sort(dim=1, stable=True).indices
        kept = inside.gather(1, order).numpy(force=True)
        first, order = self.edges.numpy(force=True), order.numpy(force=True)
        n = int(first.max()) + 1
        i, j = (first[:, order] + n * np.arange(batch)[:, None])[:, kept]
        ranks = np.broadcast_to(np.arange(1.0, num_edges + 1), kept.shape)[kept]
        forest = minimum_spanning_tree(coo_array((ranks, (i, j)), shape=(batch * n, batch * n)))
        rows, ranks = forest.tocoo().row, forest.tocoo().data.astype(int)
        solution = np.zeros(costs.shape, dtype=bool)
        solution[rows // n, order[rows // n, ranks - 1]] = True
        nodes = nodes_present(self.edges, inside.to(self.edges.device)).sum(1).numpy(force=True)
        split = solution.sum(1) < nodes - 1
        if split.any():
            which = int(split.argmax())
            raise ValueError(
                f"`edges` must connect all nodes, and in instance {which} of the batch "
                f"{nodes[which]} nodes fall into {nodes[which] - solution[which].sum()} parts: "
                "add edges, or look at the mask."
            )
        return torch.from_numpy(solution)

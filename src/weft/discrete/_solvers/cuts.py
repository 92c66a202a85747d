"""The cheapest labelling of nodes by 0 and 1 with costs on edges, by a minimum cut."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import Tensor

from weft.discrete._solver import Solver
from weft.discrete._solvers.edges import check_edges

_CAPACITY = 2.0**30  # of all edges together: SciPy counts flow in 32 bits


@dataclass(frozen=True, eq=False)
class MinimumCut(Solver):
    """The cheapest labels 0 or 1 of nodes, where an edge costs if its ends differ.

    Costs are one vector: first what label 1 costs at each node, of any sign, then what each edge
    costs when cut; below zero that counts as zero, since repelling ends make the problem hard. The
    solution holds the labels and then which edges are cut. This is the most probable state of a
    binary Markov random field with attractive edges. Of equally cheap labels the fewest ones.

    Args:
        edges: pairs of nodes i < j, each once.
        num_nodes: how many nodes; some may have no edge.

    Source: Greig, Porteous, Seheult, JRSS B 1989; scipy.sparse.csgraph.maximum_flow, whose
        capacities are integers: costs are rounded to 2^-30 of their sum.
    """

    edges: Int[Tensor, "2 e"]
    num_nodes: int

    def __post_init__(self) -> None:
        check_edges(self.edges)
        if self.num_nodes <= self.edges.max():
            raise ValueError(
                f"`num_nodes` must be more than the last node of `edges`, {int(self.edges.max())}, "
                f"got {self.num_nodes}: count the nodes from 0."
            )

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Cut each instance; masked nodes get label 0, masked edges are not there."""
        entries = self.num_nodes + self.edges.shape[1]
        if costs.shape[1] != entries:
            raise ValueError(
                f"`costs` must have {entries} entries, one for each of {self.num_nodes} nodes and "
                f"then of {self.edges.shape[1]} edges, got {costs.shape[1]}: concatenate them."
            )
        i, j = self.edges.numpy(force=True)
        numbers = costs.double().numpy(force=True)
        labels = np.stack([self._labels(own, i, j) for own in numbers])
        solution = torch.from_numpy(np.concatenate([labels, labels[:, i] != labels[:, j]], 1))
        return solution if mask is None else solution & mask.to(solution.device)

    def _labels(self, costs: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the nodes on the side of the source, node n; the sink is n + 1."""
        n = self.num_nodes
        unary, pair = costs[:n], costs[n:].clip(0)
        node = np.arange(n)
        start = np.concatenate([np.full(n, n), node, i, j])
        end = np.concatenate([node, np.full(n, n + 1), j, i])
        capacity = np.concatenate([(-unary).clip(0), unary.clip(0), pair, pair])
        capacity = np.rint(capacity * (_CAPACITY / (capacity.sum() or 1.0))).astype(np.int32)
        graph = coo_array((capacity, (start, end)), shape=(n + 2, n + 2)).tocsr()
        left = graph - maximum_flow(graph, n, n + 1).flow
        left.eliminate_zeros()
        reached = np.zeros(n + 2, dtype=bool)
        reached[breadth_first_order(left, n, return_predecessors=False)] = True
        return reached[:n]

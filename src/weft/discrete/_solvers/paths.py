"""The cheapest path through any graph, as the edges that it takes, by SciPy's Dijkstra."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from weft.discrete._solver import Solver
from weft.discrete._solvers.edges import check_count, check_edges

_NODES_AT_ONCE = 8192  # in one graph of many instances: larger heaps cost more than more calls


@dataclass(frozen=True, eq=False)
class GraphPath(Solver):
    """The edges of the cheapest path from one node to another; costs are not negative.

    With a mask, other edges are closed. Ties fall as SciPy breaks them, the same each time.

    Args:
        edges: pairs of nodes (from, to), each once; for both directions, both pairs.
        start: the first node.
        end: the last node.

    Source: Dijkstra, 1959, as scipy.sparse.csgraph.dijkstra: the instances of a batch lie side by
        side in one graph.
    """

    edges: Int[Tensor, "2 e"]
    start: int
    end: int

    nonnegative = True

    def __post_init__(self) -> None:
        check_edges(self.edges, directed=True)
        nodes = int(self.edges.max()) + 1
        for name, node in (("start", self.start), ("end", self.end)):
            if not 0 <= node < nodes:
                raise ValueError(
                    f"`{name}` must be a node of the graph, 0 to {nodes - 1}, got {node}: "
                    "choose one that has an edge."
                )

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Search many instances at a time, and walk back along the predecessors."""
        check_count(costs.shape[1], self.edges)
        if mask is not None:
            costs = costs.masked_fill(~mask, torch.inf)
        start, end = self.edges.numpy(force=True)
        order = np.lexsort((end, start))
        numbers = costs.double().numpy(force=True)[:, order]
        at_once = max(1, _NODES_AT_ONCE // (int(self.edges.max()) + 1))
        solution = np.zeros(costs.shape, dtype=bool)
        for at in range(0, len(numbers), at_once):
            part = numbers[at : at + at_once]
            solution[at : at + at_once, order] = self._search(part, start[order], end[order], at)
        return torch.from_numpy(solution)

    def _search(
        self, costs: np.ndarray, start: np.ndarray, end: np.ndarray, first: int
    ) -> np.ndarray:
        """Return the edges taken, for costs in the order of the sorted edges."""
        batch, num_edges = costs.shape
        n = int(max(start.max(), end.max())) + 1
        shift = n * np.arange(batch)[:, None]
        rows = np.searchsorted(start, np.arange(n)) + num_edges * np.arange(batch)[:, None]
        graph = csr_array(
            (costs.ravel(), (end + shift).ravel(), np.append(rows.ravel(), costs.size)),
            shape=(batch * n, batch * n),
        )
        starts = self.start + shift[:, 0]
        distances, previous, _ = dijkstra(
            graph, indices=starts, min_only=True, return_predecessors=True
        )
        here = self.end + shift[:, 0]
        if np.isinf(distances[here]).any():
            raise ValueError(
                f"`edges` must hold a path from node {self.start} to node {self.end}, and instance "
                f"{first + int(np.isinf(distances[here]).argmax())} of the batch has none: add "
                "edges, or look at the mask."
            )
        taken = np.zeros((batch, num_edges), dtype=bool)
        key = start * n + end
        instance = np.flatnonzero(here != starts)
        while len(instance):
            there = previous[here[instance]]
            step = (there - shift[instance, 0]) * n + here[instance] - shift[instance, 0]
            taken[instance, np.searchsorted(key, step)] = True
            here[instance] = there
            instance = instance[there != starts[instance]]
        return taken

    def equalities(self, item: torch.Size) -> Float[Tensor, "n e"]:
        """Return a row for each node: what leaves it less what enters it is fixed."""
        check_count(item.numel(), self.edges)
        nodes = torch.arange(int(self.edges.max()) + 1, device=self.edges.device)[:, None]
        leaves, enters = self.edges[:, None] == nodes
        return leaves.double() - enters.double()

    def project(
        self, costs: Float[Tensor, "*b e"], mask: Bool[Tensor, "*b e"] | None = None
    ) -> Float[Tensor, "*b e"]:
        """Remove the potentials of the nodes: with A the rows of `equalities`, A^T (A A^T)^+ A."""
        if mask is not None:
            return super().project(costs, mask)
        check_count(costs.shape[-1], self.edges)
        start, end = self.edges.to(costs.device)
        inverse = _inverse_laplacian(self).to(costs)
        net = costs.new_zeros(*costs.shape[:-1], len(inverse))
        net = net.index_add(-1, start, costs).index_add(-1, end, costs, alpha=-1)
        potentials = net @ inverse
        removed = potentials.index_select(-1, start) - potentials.index_select(-1, end)
        return costs - removed


@lru_cache(maxsize=32)
def _inverse_laplacian(solver: GraphPath) -> Float[Tensor, "n n"]:
    """Return (A A^T)^+, which every call of `project` needs again."""
    rows = solver.equalities(solver.edges[0].shape)
    return torch.linalg.pinv(rows @ rows.T, hermitian=True)

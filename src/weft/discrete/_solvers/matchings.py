"""Perfect matchings: by SciPy's assignment on bipartite graphs, by blossoms on all others."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor

from weft.discrete._solver import Solver
from weft.discrete._solvers.edges import check_count, check_edges, incidence, nodes_present
from weft.discrete._solvers.host import for_each


@dataclass(frozen=True, eq=False)
class PerfectMatching(Solver):
    """The cheapest edges that pair up all nodes.

    With a mask, other edges are closed. A node without an edge is absent. Bipartite graphs, such
    as grids, are many times faster; others need rustworkx, `pip install 'weft[matching]'`. Ties
    fall as these libraries break them, the same each time.

    Args:
        edges: pairs of nodes i < j, each once.

    Source: Edmonds, 1965; Galil, 1986, as rustworkx.max_weight_matching, whose weights are
        integers: costs are rounded to 2^-52 of the largest.
    """

    edges: Int[Tensor, "2 e"]

    def __post_init__(self) -> None:
        check_edges(self.edges)

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Solve each instance in double precision, on all threads."""
        check_count(costs.shape[1], self.edges)
        inside = torch.ones_like(costs, dtype=torch.bool) if mask is None else mask
        present = nodes_present(self.edges, inside.to(self.edges.device)).numpy(force=True)
        allowed, numbers = inside.numpy(force=True), costs.double().numpy(force=True)
        solution = np.zeros(costs.shape, dtype=bool)
        match = _match if self._side is None else self._assign

        def one(instance: int) -> None:
            use = allowed[instance].nonzero()[0]
            chosen = match(numbers[instance, use], self._ends[:, use], present[instance])
            solution[instance, use[chosen]] = True
            if 2 * len(chosen) < present[instance].sum():
                raise ValueError(
                    f"`edges` must hold a perfect matching, and instance {instance} of the batch "
                    f"has none for its {present[instance].sum()} nodes: add edges, or look at the "
                    "mask."
                )

        for_each(one, len(numbers))
        return torch.from_numpy(solution)

    def equalities(self, item: torch.Size) -> Float[Tensor, "n e"]:
        """Return a row for each node: one of its edges is in the matching."""
        check_count(item.numel(), self.edges)
        return incidence(self.edges)

    @cached_property
    def _ends(self) -> np.ndarray:
        return self.edges.numpy(force=True)

    @cached_property
    def _side(self) -> np.ndarray | None:
        """Which of two sides each node is on, or None where the graph is not bipartite."""
        i, j = self._ends
        graph = coo_array((np.ones(len(i)), (i, j)), shape=(self._ends.max() + 1,) * 2).tocsr()
        _, part = connected_components(graph, directed=False)
        roots = np.unique(part, return_index=True)[1]
        steps = dijkstra(graph, directed=False, indices=roots, unweighted=True, min_only=True)
        side = steps % 2 == 1
        return side if (side[i] != side[j]).all() else None

    def _assign(self, costs: np.ndarray, edges: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Return which edges are in the matching of a bipartite graph; none if there is none."""
        assert self._side is not None
        left, right = (present & ~self._side).nonzero()[0], (present & self._side).nonzero()[0]
        i, j = edges
        i, j = np.where(self._side[i], j, i), np.where(self._side[i], i, j)
        edge = np.full((len(present), len(present)), -1)
        edge[i, j] = np.arange(len(i))
        edge = edge[np.ix_(left, right)]
        try:
            rows, columns = linear_sum_assignment(np.append(costs, np.inf)[edge])
        except ValueError:
            return np.empty(0, dtype=int)
        return edge[rows, columns]


def _match(costs: np.ndarray, edges: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return which edges are in the matching, of greatest size and then least cost."""
    try:
        import rustworkx
    except ImportError as error:
        raise ImportError(
            "a perfect matching on a graph that is not bipartite needs rustworkx: "
            "pip install 'weft[matching]'."
        ) from error
    exponent = np.frexp(np.abs(costs).max())[1]
    weights = np.rint(np.ldexp(-costs, 52 - exponent)).astype(np.int64).tolist()
    graph = rustworkx.PyGraph()
    graph.add_nodes_from(range(len(present)))
    graph.add_edges_from([(i, j, e) for e, (i, j) in enumerate(edges.T.tolist())])
    pairs = rustworkx.max_weight_matching(
        graph, max_cardinality=True, weight_fn=weights.__getitem__
    )
    return np.array([graph.get_edge_data(i, j) for i, j in pairs], dtype=int)

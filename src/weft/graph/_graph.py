"""The graph: undirected edges, each stored once, with one weight each.

Everything else in the room takes or makes a `Graph`. Knows tensors; SciPy only at the borders.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor

from weft._check import on_values
from weft.graph._edges import csr_pattern, node_sums


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected weighted graph, or several of equal size side by side.

    Storing each edge once makes the Laplacian symmetric by construction and linear in each
    weight, which is all that the exact gradients need. Edges are in lexicographic order, so
    that two equal graphs are stored alike; `Graph.from_edge_index` brings any list into it.

    Args:
        edges: node pairs (i, j) with i < j, sorted, each once; int64.
        weights: one weight per edge, non-negative and finite, no unit.
        num_nodes: number of nodes, isolated ones included.
        num_graphs: how many graphs of equal size lie side by side (episodes); nodes of graph g
            are the g-th block of num_nodes / num_graphs, and no edge leaves its block.

    Raises:
        TypeError: weights in half precision.
        ValueError: edges are out of order or range, or weights are negative or not finite.
    """

    edges: Int[Tensor, "2 e"]
    weights: Float[Tensor, " e"]
    num_nodes: int
    num_graphs: int = 1

    def __post_init__(self) -> None:
        edges, weights = self.edges, self.weights
        if not weights.is_floating_point() or weights.shape != edges.shape[-1:]:
            raise ValueError(
                f"`weights` must be floating point of shape ({edges.shape[-1]},), got "
                f"{weights.dtype} of shape {tuple(weights.shape)}: one weight per edge."
            )
        if weights.dtype.itemsize < 4:
            raise TypeError(
                f"`weights` must be float32 or float64, got {weights.dtype}: call .float(), "
                "half precision is too coarse to solve in."
            )
        check_edges(edges, self.num_nodes, self.num_graphs)
        check_weights(edges, weights)

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Int[Tensor, "2 m"],
        weights: Float[Tensor, " m"] | None = None,
        *,
        num_nodes: int | None = None,
    ) -> "Graph":
        """Build a graph from any list of edges: directed, repeated or with loops.

        An edge given more than once, in either direction, keeps its largest weight (the union);
        loops are dropped, since a Laplacian does not see them. Differentiable in `weights`.

        Args:
            edge_index: source and target nodes, as PyTorch Geometric has them; integers.
            weights: one per column; ones when left out.
            num_nodes: number of nodes; the largest index plus one when left out.
        """
        if edge_index.ndim != 2 or len(edge_index) != 2 or edge_index.is_floating_point():
            raise ValueError(
                f"`edge_index` must hold integers in shape (2, m), got {edge_index.dtype} of shape "
                f"{tuple(edge_index.shape)}: transpose or cast it."
            )
        edge_index = edge_index.long()
        if num_nodes is None:
            num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
        if (
            edge_index.numel()
            and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes
        ):
            raise ValueError(
                f"`edge_index` must hold nodes 0..{num_nodes - 1}, got {int(edge_index.min())} to "
                f"{int(edge_index.max())}: pass the right `num_nodes`."
            )
        if weights is None:
            weights = torch.ones(edge_index.shape[1], device=edge_index.device)
        if weights.shape != edge_index.shape[1:]:
            raise ValueError(
                f"`weights` must have shape ({edge_index.shape[1]},), got {tuple(weights.shape)}: "
                "one weight per column of `edge_index`."
            )
        check_weights(edge_index, weights)  # before a larger one, or a dropped loop, hides them
        proper = edge_index[0] != edge_index[1]
        source, target = edge_index[:, proper]
        key = torch.minimum(source, target) * num_nodes + torch.maximum(source, target)
        unique, place = torch.unique(key, return_inverse=True)
        merged = weights.new_zeros(len(unique)).scatter_reduce(
            0, place, weights[proper], "amax", include_self=False
        )
        return cls(_unpack(unique, num_nodes), merged, num_nodes)

    @classmethod
    def from_scipy(cls, matrix: Any) -> "Graph":
        """Build a graph from a symmetric SciPy sparse matrix of weights; the diagonal is dropped.

        Raises:
            ValueError: the matrix is not square, or not symmetric.
        """
        matrix = sparse.csr_array(matrix, copy=True)
        matrix.sum_duplicates()
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"`matrix` must be square, got shape {matrix.shape}: rows are nodes.")
        if (abs(matrix - matrix.T) > 0).nnz:
            raise ValueError(
                "`matrix` must be symmetric, got two weights for one edge: "
                "symmetrise it first, for example with matrix.maximum(matrix.T)."
            )
        upper = sparse.triu(matrix, k=1).tocoo()
        edges = torch.from_numpy(np.stack([upper.row, upper.col]).astype(np.int64))
        weights = torch.from_numpy(np.asarray(upper.data, dtype=_floating(upper.dtype)))
        return cls.from_edge_index(edges, weights, num_nodes=matrix.shape[0])

    def to_scipy(self) -> Any:
        """Return the symmetric weight matrix as a SciPy CSR array, on the CPU, without gradient."""
        pattern = csr_pattern(self.edges, self.num_nodes)
        crow, columns, edge_of = (part.cpu().numpy() for part in pattern)
        weights = self.weights.detach().cpu().numpy()[edge_of]
        return sparse.csr_array((weights, columns, crow), (self.num_nodes, self.num_nodes))

    def to_edge_index(self) -> tuple[Int[Tensor, "2 2e"], Float[Tensor, " 2e"]]:
        """Return every edge in both directions with its weight, as PyTorch Geometric has them."""
        both = torch.cat([self.edges, self.edges.flip(0)], dim=1)
        return both, torch.cat([self.weights, self.weights])

    def with_weights(self, weights: Float[Tensor, " e"]) -> "Graph":
        """Return the same edges with other weights."""
        return replace(self, weights=weights)

    def __add__(self, other: "Graph") -> "Graph":
        """Join the edges of two graphs on the same nodes; where both have an edge, weights add.

        The Laplacian of the sum is the sum of the Laplacians. Differentiable in both weights.
        """
        if (self.num_nodes, self.num_graphs) != (other.num_nodes, other.num_graphs):
            raise ValueError(
                "Graphs must have the same nodes to be added, got "
                f"{self.num_nodes} in {self.num_graphs} and {other.num_nodes} in "
                f"{other.num_graphs} graphs: build them from the same rows."
            )
        both = torch.cat([self.edges, other.edges], dim=1)
        key, place = torch.unique(both[0] * self.num_nodes + both[1], return_inverse=True)
        weights = torch.cat([self.weights, other.weights])
        summed = weights.new_zeros(len(key)).index_add(0, place, weights)
        return Graph(_unpack(key, self.num_nodes), summed, self.num_nodes, self.num_graphs)

    def degrees(self) -> Float[Tensor, " n"]:
        """Return the sum of the weights at each node. Differentiable in the weights."""
        return node_sums(self.weights, self.edges, self.num_nodes)

    def laplacian(self) -> Float[Tensor, "n n"]:
        """Return L = D - W as a dense matrix. Differentiable in the weights."""
        i, j = self.edges
        matrix = torch.diag(self.degrees())
        matrix = matrix.index_put((i, j), -self.weights)
        return matrix.index_put((j, i), -self.weights)

    def laplacian_csr(self) -> Tensor:
        """Return L = D - W as a torch CSR tensor, without gradient (torch's CSR has none twice)."""
        i, j = self.edges
        node = torch.arange(self.num_nodes, device=i.device)
        places = torch.stack([torch.cat([i, j, node]), torch.cat([j, i, node])])
        weights = self.weights.detach()
        values = torch.cat([-weights, -weights, self.degrees().detach()])
        size = (self.num_nodes, self.num_nodes)
        matrix = torch.sparse_coo_tensor(places, values, size, check_invariants=False)
        return matrix.to_sparse_csr()

    def components(self) -> Int[Tensor, " n"]:
        """Return each node's connected component over edges of positive weight, from 0."""
        positive = (self.weights.detach() > 0).nonzero().squeeze(1)
        return connected_components(self.edges[:, positive], self.num_nodes)


def check_edges(edges: Tensor, num_nodes: int, num_graphs: int) -> None:
    """Refuse edges that are not i < j, sorted, each once, inside `num_graphs` equal blocks."""
    if edges.ndim != 2 or len(edges) != 2 or edges.dtype != torch.long:
        raise ValueError(
            f"`edges` must be an int64 tensor of shape (2, e), got {edges.dtype} of shape "
            f"{tuple(edges.shape)}: one column per undirected edge."
        )
    if num_nodes < 0:
        raise ValueError(
            f"`num_nodes` must not be negative, got {num_nodes}: count isolated nodes too."
        )
    if num_graphs < 1 or num_nodes % num_graphs:
        raise ValueError(
            f"`num_graphs` must divide `num_nodes`, got {num_graphs} graphs and "
            f"{num_nodes} nodes: the graphs have equal size."
        )
    if not edges.shape[1]:
        return
    key = edges[0] * num_nodes + edges[1]
    in_order = (edges[0] < edges[1]).all() & (key[1:] > key[:-1]).all()
    if not (in_order & (edges[0, 0] >= 0) & (edges[1].max() < num_nodes)):
        raise ValueError(
            f"`edges` must be pairs i < j of nodes 0..{num_nodes - 1}, sorted, each once: "
            "bring other lists into this form with Graph.from_edge_index."
        )
    block = num_nodes // num_graphs
    if num_graphs > 1 and (edges[0] // block != edges[1] // block).any():
        raise ValueError("`edges` must stay inside their graph: an edge joins two blocks.")


def check_weights(edges: Tensor, weights: Tensor) -> None:
    """Refuse weights that are negative, infinite or NaN, naming the first edge with one."""
    sound = torch.isfinite(weights) & (weights >= 0)
    if not sound.all():
        edge = int((~sound).nonzero()[0])
        raise ValueError(
            f"`weights` must be finite and not negative, got {weights[edge].item():g} for edge "
            f"{edges[:, edge].tolist()}: clean or shift the similarities first."
        )


@on_values
def connected_components(edges: Int[Tensor, "2 e"], num_nodes: int) -> Int[Tensor, " n"]:
    """Return each node's connected component, from 0; SciPy searches, on the CPU."""
    i, j = edges.cpu().numpy()
    pattern = sparse.coo_array((np.ones(len(i), np.int8), (i, j)), (num_nodes, num_nodes))
    _, component = csgraph.connected_components(pattern, directed=False)
    return torch.from_numpy(component.astype(np.int64)).to(edges.device)


@on_values
def reachable(
    edges: Int[Tensor, "2 e"],
    weights: Float[Tensor, " e"],
    least: Float[Tensor, " n"],
    start: Bool[Tensor, " n"],
) -> Bool[Tensor, " n"]:
    """Return which nodes a walk from `start` can enter.

    An edge is passed where its weight is above `least` of the node it enters. A few sweeps over
    the edges, on their device, settle graphs whose nodes are near `start`; SciPy the long ones.
    """
    i, j = edges
    into_j, into_i = weights > least[j], weights > least[i]
    reached, count = start.clone(), -1
    for _ in range(8):
        before, count = count, int(reached.sum())
        if count in (before, len(reached)):
            return reached
        reached[j[into_j & reached[i]]] = True
        reached[i[into_i & reached[j]]] = True
    tail, head = torch.cat([i[into_j], j[into_i]]), torch.cat([j[into_j], i[into_i]])
    return _reachable_by_search(tail, head, reached)


def _reachable_by_search(tail: Tensor, head: Tensor, start: Tensor) -> Tensor:
    """Do what `reachable` does along directed edges; SciPy searches, on the CPU."""
    # The search has one node to begin with: one more, which leads to all of `start`.
    num_nodes, first = len(start), start.nonzero().squeeze(1)
    ends = torch.stack([tail, head]), torch.stack([torch.full_like(first, num_nodes), first])
    ends = torch.cat(ends, dim=1).cpu().numpy()
    ones = np.ones(ends.shape[1])
    pattern = sparse.coo_array((ones, tuple(ends)), (num_nodes + 1, num_nodes + 1))
    entered = csgraph.breadth_first_order(pattern, num_nodes, return_predecessors=False)
    reached = torch.zeros(num_nodes + 1, dtype=torch.bool)
    reached[torch.from_numpy(entered.astype(np.int64))] = True
    return reached[:-1].to(start.device)


@on_values
def unique_edges(
    source: Int[Tensor, "*m"], target: Int[Tensor, "*m"], num_nodes: int
) -> tuple[Int[Tensor, "2 e"], Int[Tensor, " e"]]:
    """Join directed pairs, broadcast, into undirected edges; also return their keys i * n + j."""
    key = torch.minimum(source, target).mul_(num_nodes).add_(torch.maximum(source, target))
    key = torch.unique_consecutive(key.flatten().sort().values)
    return _unpack(key, num_nodes), key


def _unpack(key: Tensor, num_nodes: int) -> Tensor:
    return torch.stack([key // num_nodes, key % num_nodes]) if num_nodes else key.new_zeros(2, 0)


def _floating(dtype: np.dtype[Any]) -> Any:
    return dtype if dtype in (np.float32, np.float64) else np.float64

"""Fix the values of some nodes; what is left is a smaller system for the free ones.

Every equation with hard labels is this reduction and one solve. Knows graphs and tensors.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft.graph._edges import node_sums
from weft.graph._graph import Graph, reachable


@dataclass(frozen=True, eq=False)
class FreeSystem:
    """The Laplacian restricted to the free nodes, and the edges that cross to fixed ones.

    Args:
        nodes: the free nodes' numbers in the graph, ascending.
        edges: edges between free nodes, numbered among themselves.
        weights: their weights.
        inside: for each crossing edge its free end, numbered among the free nodes.
        outside: its fixed end, numbered in the graph.
        crossing: its weight.
        num_nodes: nodes of the whole graph.
        num_graphs: equal blocks among the free nodes; one where the blocks have become unequal.
    """

    nodes: Int[Tensor, " f"]
    edges: Int[Tensor, "2 e"]
    weights: Float[Tensor, " e"]
    inside: Int[Tensor, " b"]
    outside: Int[Tensor, " b"]
    crossing: Float[Tensor, " b"]
    num_nodes: int
    num_graphs: int

    @classmethod
    def of(
        cls, graph: Graph, fixed: Bool[Tensor, " n"], lost: Bool[Tensor, " n"] | None = None
    ) -> "FreeSystem":
        """Split the graph's edges by what they join. Differentiable in the weights.

        Lost nodes are neither free nor fixed: they are cut off with their edges, since a node
        that nothing reaches would follow its neighbours and take no value from them.
        """
        free = ~fixed if lost is None else ~(fixed | lost)
        place = free.cumsum(0) - 1
        i, j = graph.edges
        free_i, free_j = free[i], free[j]
        inner = (free_i & free_j).nonzero().squeeze(1)
        to_j = (free_i & fixed[j]).nonzero().squeeze(1)
        to_i = (free_j & fixed[i]).nonzero().squeeze(1)
        per_graph = free.view(graph.num_graphs, -1).sum(1)
        equal = bool((per_graph == per_graph[0]).all())
        return cls(
            nodes=free.nonzero().squeeze(1),
            edges=place[graph.edges[:, inner]],
            weights=graph.weights.index_select(0, inner),
            inside=place[torch.cat([i[to_j], j[to_i]])],
            outside=torch.cat([j[to_j], i[to_i]]),
            crossing=graph.weights.index_select(0, torch.cat([to_j, to_i])),
            num_nodes=graph.num_nodes,
            num_graphs=graph.num_graphs if equal else 1,
        )

    def diagonal(self) -> Float[Tensor, " f"]:
        """Return what the crossing edges add to the diagonal."""
        return self.crossing.new_zeros(len(self.nodes)).index_add(0, self.inside, self.crossing)

    def inflow(self, values: Float[Tensor, "n c"]) -> Float[Tensor, "f c"]:
        """Return, for each free node, the weighted sum of the fixed values it touches."""
        carried = self.crossing[:, None] * values.index_select(0, self.outside)
        return values.new_zeros(len(self.nodes), values.shape[1]).index_add(0, self.inside, carried)

    def outflow(self, values: Float[Tensor, "f c"]) -> Float[Tensor, "n c"]:
        """Return the transpose of `inflow`: each fixed node's weighted sum of free values."""
        carried = self.crossing[:, None] * values.index_select(0, self.inside)
        return values.new_zeros(self.num_nodes, values.shape[1]).index_add(0, self.outside, carried)


FAINT = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Share of a node's degree below which an edge or a source is lost: ten times the default
tolerance of the iterative solver, so that what depends on it would come out as noise."""


def unreached(graph: Graph, sources: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Return the nodes that no source can reach over edges that count.

    Where a component has no label and no decay the system is singular, and where it hangs on
    edges beyond the precision of its dtype it might as well be. So values flow along an edge into
    a node if its weight is not lost against that node's degree, and a source counts likewise: a
    far point that sees only labelled hubs is reached, whatever the hubs' degrees.

    Args:
        graph: the graph.
        sources: what grounds each node: infinity for a fixed value, else decay or fidelity, in
            the unit of the weights.
    """
    weights = graph.weights.detach()
    faint = FAINT[weights.dtype] * node_sums(weights, graph.edges, graph.num_nodes)
    return ~reachable(graph.edges, weights, faint, sources.detach() > faint)

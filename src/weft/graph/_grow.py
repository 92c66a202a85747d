"""One more node on a graph that is solved already: its edges, its system, its factor.

Knows graphs and solvers; autograd off.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.graph._boundary import FreeSystem
from weft.graph._graph import Graph
from weft.graph._linear_solvers import LinearSolver


def with_node(graph: Graph, near: Int[Tensor, " s"], weights: Float[Tensor, " s"]) -> Graph:
    """Return the graph with one more node, the last, joined to some others.

    Args:
        graph: the graph.
        near: the others, ascending, each once.
        weights: of the edges to them.
    """
    new = torch.stack([near, torch.full_like(near, graph.num_nodes)])
    # In lexicographic order, the edge (a, n) comes after all others that start at a.
    at = torch.searchsorted(graph.edges[0].contiguous(), near, right=True)
    at = at + torch.arange(len(near), device=near.device)
    old = torch.ones(len(graph.weights) + len(near), dtype=torch.bool, device=near.device)
    old[at] = False
    edges = new.new_empty(2, len(old))
    edges[:, old], edges[:, at] = graph.edges, new
    joined = weights.new_empty(len(old))
    joined[old], joined[at] = graph.weights, weights
    return Graph(edges, joined, graph.num_nodes + 1)


def with_fixed_node(
    system: FreeSystem, near: Int[Tensor, " s"], weights: Float[Tensor, " s"]
) -> FreeSystem:
    """Return the system with one more fixed node, joined to some of the free ones.

    Args:
        system: the system.
        near: numbers among the free nodes.
        weights: of the edges to them.
    """
    return replace(
        system,
        inside=torch.cat([system.inside, near]),
        outside=torch.cat([system.outside, torch.full_like(near, system.num_nodes)]),
        crossing=torch.cat([system.crossing, weights]),
        num_nodes=system.num_nodes + 1,
    )


@dataclass(frozen=True)
class Grounded:
    """Solves with A + diag(added), where another solver has factored A and few nodes were added to.

    Each addition takes Q Q' away from the inverse, with as many columns in Q as nodes. They lie
    beside each other after the other solver's factor, so many additions cost one product.

    Args:
        base: the solver that factored A.
    """

    base: LinearSolver

    def factor(self, edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> list:
        """Factor a matrix that has not grown yet."""
        factor = self.base.factor(edges, weights, diagonal, num_graphs)
        return [*factor, diagonal.new_zeros(len(diagonal), 0)]

    def solve(self, factor: list[Tensor], rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Solve with the factor before the additions, then correct."""
        *before, taken = factor
        solution, residual = self.base.solve(before, rhs)
        return solution - taken @ (taken.T @ rhs), residual

    def ground(
        self, factor: list[Tensor], nodes: Int[Tensor, " s"], added: Float[Tensor, " s"]
    ) -> tuple[list[Tensor], Float[Tensor, "f s"]]:
        """Add to the diagonal at distinct nodes.

        With G the inverse, G_S its columns at the nodes and D = diag(added), the new inverse is
            G - G_S M^-1 G_S',   M = D^-1 + G_SS = R R'   (Woodbury).

        Args:
            factor: of the matrix so far.
            nodes: where to add.
            added: how much; positive.

        Returns:
            The factor of the grown matrix, and G_S M^-1: where the solution goes if those nodes are
            pulled by `added` to values that differ by one from what they were.
        """
        units = added.new_zeros(len(factor[-1]), len(nodes))
        units[nodes, torch.arange(len(nodes), device=nodes.device)] = 1
        green = self.solve(factor, units)[0]
        capacity = (green[nodes] + torch.diag(1 / added)).double()
        root = torch.linalg.cholesky((capacity + capacity.T) / 2)
        taken = torch.linalg.solve_triangular(root, green.T.double(), upper=False).T
        pulled = torch.linalg.solve_triangular(root, taken, upper=False, left=False)
        grown = torch.cat([factor[-1], taken.to(green.dtype)], 1)
        return [*factor[:-1], grown], pulled.to(green.dtype)

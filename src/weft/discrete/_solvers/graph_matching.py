"""Match the nodes of two graphs, at costs of nodes and edges: quadratic assignment, heuristic."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from weft.discrete._solver import Solver
from weft.discrete._solvers.assignment import Assignment
from weft.discrete._solvers.edges import check_edges

_STEPS = 30  # at most; each solves one assignment per instance
_ENOUGH = 1e-9  # of the largest cost: what a further step could still gain


@dataclass(frozen=True, eq=False)
class GraphMatching(Solver):
    """Assign the nodes of a left graph to those of a right one, cheap in nodes and in edges.

    Costs are one vector: num_left * num_right for a node assigned to a node, then left edges times
    right edges for an edge laid on an edge, either way round. The solution is in the same order.
    The problem is NP-hard, and this a **heuristic**: feasible, often but not always the cheapest.
    With a mask, its node part is that of `Assignment`; edges outside cost nothing.

    Args:
        left: edges of the left graph, pairs i < j, each once.
        right: of the right graph.
        num_left: nodes of the left graph.
        num_right: of the right graph.

    Source: Vogelstein et al., PLoS ONE 2015 (FAQ), for costs of any pair of edges (Lawler's form):
        Frank-Wolfe from the barycentre, with the best assignment that was seen on the way.
    """

    left: Int[Tensor, "2 e"]
    right: Int[Tensor, "2 f"]
    num_left: int
    num_right: int

    exact = False

    def __post_init__(self) -> None:
        for name, edges, nodes in (
            ("left", self.left, self.num_left),
            ("right", self.right, self.num_right),
        ):
            check_edges(edges)
            if nodes <= edges.max():
                raise ValueError(
                    f"`num_{name}` must be more than the last node of `{name}`, "
                    f"{int(edges.max())}, got {nodes}: count the nodes from 0."
                )

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Descend by steps to assignments, and keep the best of these."""
        nodes, edges = self._split(costs.double())
        allowed = torch.ones_like(nodes, dtype=torch.bool)
        if mask is not None:
            allowed, _ = self._split(mask)
        longer = torch.maximum(allowed.any(2).sum(1), allowed.any(1).sum(1))
        place = allowed / longer[:, None, None].clamp_min(1).double()
        seen = [self._nearest(nodes, allowed)]
        for _ in range(_STEPS):
            slope = nodes + self._slope(edges, place)
            seen.append(self._nearest(slope, allowed))
            move = seen[-1] - place
            gain = -(slope * move).sum((1, 2))
            if (gain <= _ENOUGH * costs.abs().amax(1)).all():
                break
            bend = (self._slope(edges, move) * move).sum((1, 2))  # twice the quadratic part
            size = torch.where(bend > gain, gain / bend, 1.0)
            place = place + size[:, None, None] * move
        values = torch.stack([self._value(nodes, edges, assigned) for assigned in seen])
        instance = torch.arange(len(costs), device=costs.device)
        best = torch.stack(seen)[values.argmin(0), instance]
        solution = torch.cat([best.flatten(1), self._laid(best).flatten(1)], 1)
        return solution if mask is None else solution.where(mask, 0.0)

    def equalities(self, item: torch.Size) -> Float[Tensor, "r n"]:
        """Return those of the assignment; of edges none are known."""
        nodes = Assignment().equalities(torch.Size([self.num_left, self.num_right]))
        return torch.nn.functional.pad(nodes, (0, item.numel() - nodes.shape[1]))

    def project(
        self, costs: Float[Tensor, "*b n"], mask: Bool[Tensor, "*b n"] | None = None
    ) -> Float[Tensor, "*b n"]:
        """Centre the costs of nodes as for an assignment, and leave those of edges."""
        nodes, edges = self._split(costs if mask is None else costs.where(mask, 0.0))
        allowed = None if mask is None else self._split(mask.expand(costs.shape))[0]
        nodes = Assignment().project(nodes, allowed)
        return torch.cat([nodes.flatten(-2), edges.flatten(-2)], -1)

    def _split(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the costs of nodes, (*b, left, right), and of edges."""
        nodes = (self.num_left, self.num_right)
        edges = (self.left.shape[1], self.right.shape[1])
        first, second = nodes[0] * nodes[1], edges[0] * edges[1]
        if costs.shape[-1] != first + second:
            raise ValueError(
                f"`costs` must have {first + second} entries, {nodes[0]} x {nodes[1]} for nodes "
                f"and then {edges[0]} x {edges[1]} for edges, got {costs.shape[-1]}: flatten and "
                "concatenate them."
            )
        return (
            costs[..., :first].unflatten(-1, nodes),
            costs[..., first:].unflatten(-1, edges),
        )

    def _nearest(self, slope: Tensor, allowed: Tensor) -> Tensor:
        return Assignment()(slope.where(allowed, 0.0), allowed)

    def _laid(self, place: Tensor) -> Tensor:
        """Return how much of each left edge lies on each right edge."""
        (i, j), (k, m) = self.left, self.right
        at = place[:, :, k], place[:, :, m]
        return at[0][:, i] * at[1][:, j] + at[1][:, i] * at[0][:, j]

    def _value(self, nodes: Tensor, edges: Tensor, place: Tensor) -> Tensor:
        return (nodes * place).sum((1, 2)) + (edges * self._laid(place)).sum((1, 2))

    def _slope(self, edges: Tensor, place: Tensor) -> Tensor:
        """Return the derivative of <edges, laid(place)> by `place`."""
        left = [one_hot(side, self.num_left).to(edges) for side in self.left]
        right = [one_hot(side, self.num_right).to(edges) for side in self.right]
        slope = torch.zeros_like(place)
        for i, j in ((0, 1), (1, 0)):
            for k, m in ((0, 1), (1, 0)):
                other = place[:, self.left[j]][:, :, self.right[m]]
                slope += left[i].T @ (edges * other) @ right[k]
        return slope

"""What a rule sees: one batch of instances to solve, counted, and the two methods it must have."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.discrete._solver import Solver


@dataclass
class SolverLog:
    """What one or more calls of a layer cost; pass one in to have it filled.

    Args:
        calls: times the solver was called, each time for a whole batch.
        instances: instances solved in these calls, backward included.
        floored: instances whose projected costs were too short to normalise.
    """

    calls: int = 0
    instances: int = 0
    floored: int = 0


@dataclass(frozen=True)
class Problem:
    """A solver with the mask of one batch: what a rule may ask in forward and backward."""

    solver: Solver
    mask: Bool[Tensor, "b *item"] | None
    log: SolverLog

    @property
    def item_axes(self) -> tuple[int, ...]:
        """The axes of one instance, counted from the end."""
        return tuple(range(-self.solver.item_dims, 0))

    def solve(self, costs: Float[Tensor, "b *s_item"], *, moved: bool = False) -> Tensor:
        """Solve costs (b, *item), or several variants of each instance, (b, s, *item).

        Args:
            costs: what to minimise.
            moved: whether the rule made them; where the solver wants none, costs below zero are
                then set to zero, as the authors of blackbox differentiation do.
        """
        if moved and self.solver.nonnegative:
            costs = costs.clamp_min(0)
        mask = self.mask
        if mask is not None and costs.ndim > mask.ndim:
            mask = mask[:, None]
        self.log.calls += 1
        self.log.instances += costs.shape[: costs.ndim - self.solver.item_dims].numel()
        return self.solver(costs, mask)

    def norm(self, tensor: Tensor) -> Tensor:
        """Return the Euclidean norm of each instance, its axes kept with size one."""
        return torch.linalg.vector_norm(tensor, dim=self.item_axes, keepdim=True)


class Rule(Protocol):
    """How a solution is differentiated: a forward, and what it returns in place of a gradient.

    Both are called with plain tensors whose batch is one axis, and without gradient. Outside the
    mask, costs and gradient are zero; what is returned there is not used.
    """

    def forward(
        self, problem: Problem, costs: Float[Tensor, "b *item"]
    ) -> tuple[Float[Tensor, "b *item"], ...]:
        """Return the solution, and after it tensors (b, ...) that `backward` needs again."""
        ...

    def backward(
        self,
        problem: Problem,
        grad: Float[Tensor, "b *item"],
        costs: Float[Tensor, "b *item"],
        outputs: tuple[Tensor, ...],
    ) -> Float[Tensor, "b *item"]:
        """Return what goes into the gradient of `costs`, from the gradient of the solution.

        `outputs` is what `forward` returned.
        """
        ...

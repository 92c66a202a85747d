"""Projections of costs that leave the solution as it is, and take useless gradients away.

The part of a gradient that no solution can follow still reaches the network's weights, where it
may drown the rest. A projection P with argmin <P(costs), y> = argmin <costs, y> removes it.
"""

from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.discrete._problem import Problem
from weft.discrete._solver import Solver, check_costs

FLOOR = 1e-6
"""Least norm of projected costs that is divided by: shorter ones are rounding, not direction."""


class Projection(Enum):
    """What is removed from costs, per instance. All but `MEAN` and `STD` fit every solver.

    Source: Sahoo et al., arXiv 2205.15213, section 3.4; `AFFINE` generalises its eq. 12.
    """

    NONE = "none"
    """Nothing."""
    MEAN = "mean"
    """The mean: valid where all solutions have one sum, such as top-k; not for free binaries."""
    NORM = "norm"
    """The length: costs / |costs|. Valid always, an argmin has no scale."""
    STD = "std"
    """`MEAN`, then `NORM`."""
    AFFINE = "affine"
    """All that the solver's equalities fix (`solver.project`); nothing where it knows none."""
    AFFINE_NORM = "affine_norm"
    """`AFFINE`, then `NORM`: as much as is known to be useless."""

    @property
    def normalizes(self) -> bool:
        """Whether the length is removed at last."""
        return self in (Projection.NORM, Projection.STD, Projection.AFFINE_NORM)

    def plane(self, costs: Tensor, solver: Solver, mask: Tensor | None = None) -> Tensor:
        """Apply the linear part, which is symmetric; entries outside `mask` become zero."""
        if self in (Projection.AFFINE, Projection.AFFINE_NORM):
            return solver.project(costs, mask)
        if mask is not None:
            costs = costs.where(mask, 0.0)
        if self in (Projection.NONE, Projection.NORM):
            return costs
        axes = tuple(range(-solver.item_dims, 0))
        if mask is None:
            return costs - costs.mean(axes, keepdim=True)
        count = mask.expand(costs.shape).sum(axes, keepdim=True).clamp_min(1)
        return (costs - costs.sum(axes, keepdim=True) / count).where(mask, 0.0)


def project_costs(
    costs: Float[Tensor, "*b"],
    solver: Solver,
    projection: Projection = Projection.AFFINE_NORM,
    *,
    mask: Bool[Tensor, "*b"] | None = None,
) -> Float[Tensor, "*b"]:
    """Project costs before they are solved, so that a rule's strength acts on projected costs.

    That is for `Blackbox`. `Identity` projects in its backward alone: the gradient is the same, and
    the solver sees the costs as they are (centred ones are negative, which path solvers refuse).
    Differentiable to any order.

    Args:
        costs: (*batch, *item).
        solver: whose instances and equalities they are.
        projection: what to remove.
        mask: which entries belong to their instance; others become zero.

    Returns:
        The projected costs, with the shape of `costs`. Lengths below 1e-6 are taken for 1e-6.

    Raises:
        TypeError, ValueError: costs or mask of a wrong type or shape.
    """
    check_costs(costs, mask, solver.item_dims)
    check_projection_type(projection)
    costs = projection.plane(costs, solver, mask)
    if not projection.normalizes:
        return costs
    axes = tuple(range(-solver.item_dims, 0))
    squared = costs.square().sum(axes, keepdim=True)
    return costs / squared.clamp_min(FLOOR**2).sqrt()  # a norm's own gradient is NaN at zero


def check_projection_type(projection: Projection) -> None:
    """Refuse names of projections."""
    if not isinstance(projection, Projection):
        raise TypeError(
            f"a projection must be a member of `Projection`, got {projection!r}: pass "
            "Projection.NORM, or another."
        )


def pull_through(projection: Projection, problem: Problem, grad: Tensor, costs: Tensor) -> Tensor:
    """Return -P'(costs)^T grad in closed form; count the instances that were too short.

    With p the linear part of P, a symmetric projection, and u = p(costs), eq. 14 gives
    -(p(grad) - a u) / |u|  with a = <u, p(grad)> / |u|^2.
    """
    step = projection.plane(grad, problem.solver, problem.mask)
    if not projection.normalizes:
        return -step
    useful = projection.plane(costs, problem.solver, problem.mask)
    norm = problem.norm(useful)
    short = norm < FLOOR
    problem.log.floored += int(short.sum())
    scale = norm.clamp_min(FLOOR).reciprocal()
    inner = torch.linalg.vecdot(useful.flatten(1), step.flatten(1)).view_as(norm)
    along = (inner * scale * scale).masked_fill(short, 0.0)
    return (step * -scale).addcmul_(useful, along * scale)

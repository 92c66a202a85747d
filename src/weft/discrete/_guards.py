"""Guards: what goes wrong in silence with solvers in networks, measured and said aloud.

A projection that changes the solution, costs that collapse, a loss that pushes on where nothing is
wrong, and what becomes of a gradient on its way through a rule.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft._check import WeftWarning
from weft.discrete._noise import Normal
from weft.discrete._problem import Problem, SolverLog
from weft.discrete._projections import Projection
from weft.discrete._rules import check_positive
from weft.discrete._solver import Solver, as_solver, check_costs


def check_projection(
    solver: Solver | Callable[..., Tensor],
    projection: Projection,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator,
    samples: int = 64,
) -> None:
    """Refuse a projection that can change the solver's solution, with two solutions that show it.

    A linear projection leaves every argmin as it is if and only if what it removes is the same for
    all solutions. That is compared between the solutions of random costs. The solver never sees
    projected costs, so one that refuses negative costs is checked too.

    Args:
        solver: a solver, or a function of vectors.
        projection: to check; its division by the length is always valid.
        shape: of one instance.
        generator: of the random costs; they and the check are on its device.
        samples: how many random costs; few may miss what few solutions show.

    Raises:
        ValueError: two solutions differ in what is removed.
    """
    solver = as_solver(solver)
    costs = random_costs(solver, (samples, *shape), generator)
    solutions = solver(costs)
    removed = (solutions - projection.plane(solutions, solver)).flatten(1)
    gap = (removed - removed[0]).norm(dim=1)
    if gap.max() > 1e-9 * (1 + solutions[0].norm()):
        one, other = solutions[0].tolist(), solutions[int(gap.argmax())].tolist()
        raise ValueError(
            f"`{projection}` must remove the same from all solutions of {solver}, got {one} and "
            f"{other}, of which it removes parts that differ by {gap.max().item():.3g}: costs "
            "along that part decide between the two, so use Projection.NORM, or AFFINE_NORM with "
            "the right equalities."
        )


@dataclass(frozen=True)
class CostReport:
    """How far costs are from collapse, each a mean over instances.

    Args:
        norm: length of the costs.
        spread: length of the part that can change the solution, `solver.project(costs)`.
        noise: length of the noise that the spread was compared with.
        flip_rate: share of instances whose solution this noise changes.
    """

    norm: float
    spread: float
    noise: float
    flip_rate: float


def check_collapse(
    costs: Float[Tensor, "*b"],
    solver: Solver | Callable[..., Tensor],
    *,
    generator: torch.Generator,
    noise: float = 0.01,
    mask: Bool[Tensor, "*b"] | None = None,
) -> CostReport:
    """Warn where costs have collapsed: what decides the solution is smaller than small noise.

    Costs may shrink to zero, or to one value for all where only differences count. Either way each
    step of training overturns solutions. Call it now and then, on the costs of a batch; it solves
    twice. Not differentiable.

    Args:
        costs: (*batch, *item), at least one instance.
        solver: as in `solve_discrete`.
        generator: of the noise, on the device of `costs`.
        noise: standard deviation of each entry, in the unit of `costs`: about what a few steps of
            training may do to one.
        mask: which entries belong to their instance.

    Returns:
        The report. Warned is where `spread` is less than the length of the noise.

    Raises:
        TypeError, ValueError: as `solve_discrete`, or an empty batch.
    """
    solver = as_solver(solver)
    check_costs(costs, mask, solver.item_dims)
    check_positive("noise", noise)
    if not costs.numel():
        raise ValueError(
            f"`costs` must have an instance, got shape {tuple(costs.shape)}: skip empty batches."
        )
    item = costs.shape[costs.ndim - solver.item_dims :]
    if mask is not None:
        mask = mask.expand(costs.shape).reshape(-1, *item)
    costs = costs.detach().reshape(-1, *item)
    problem = Problem(solver, mask, SolverLog())
    shift = noise * Normal().sample(costs, generator)
    if mask is not None:
        costs, shift = costs.where(mask, 0.0), shift.where(mask, 0.0)
    flipped = problem.solve(costs) != problem.solve(costs + shift, moved=True)
    report = CostReport(
        norm=problem.norm(costs).mean().item(),
        spread=problem.norm(solver.project(costs, mask)).mean().item(),
        noise=problem.norm(shift).mean().item(),
        flip_rate=flipped.flatten(1).any(1).double().mean().item(),
    )
    if report.spread < report.noise:
        warnings.warn(
            f"costs have collapsed: the part that decides the solution has length "
            f"{report.spread:.2g}, less than noise of length {report.noise:.2g}, which changes "
            f"{report.flip_rate:.0%} of the solutions; use a projection that ends in NORM, or a "
            "margin.",
            WeftWarning,
            stacklevel=2,
        )
    return report


def check_loss(
    loss: Callable[[Tensor], Tensor], solution: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """Warn if a loss still has a gradient where the solution is right.

    `Identity` passes that gradient on for ever: costs grow and nothing is learned. The Hamming
    distance written as y (1 - t) + (1 - y) t is the usual case; `hamming_l1` is free of it.

    Args:
        loss: a function of the solution, its target held.
        solution: the right one.

    Returns:
        The gradient at `solution`.
    """
    point = solution.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(point).sum()
    (grad,) = torch.autograd.grad(value, point)
    if grad.any():
        warnings.warn(
            f"the loss has a gradient of norm {grad.norm().item():.3g} where the solution is "
            "right, and Identity follows it for ever: use one that is flat there, such as "
            "hamming_l1, or the rule Blackbox.",
            WeftWarning,
            stacklevel=2,
        )
    return grad


@dataclass(frozen=True)
class GradientReport:
    """What a rule made of a gradient, one number per instance.

    Args:
        incoming: norm of the gradient in the solution.
        returned: norm of the gradient in the costs.
        cosine: of the angle between the returned gradient and the negative incoming one: 1 for the
            identity without projection, zero where either norm is.
    """

    incoming: Float[Tensor, " *batch"]
    returned: Float[Tensor, " *batch"]
    cosine: Float[Tensor, " *batch"]


def compare_gradients(
    incoming: Float[Tensor, "*b"], returned: Float[Tensor, "*b"], *, item_dims: int = 1
) -> GradientReport:
    """Compare the gradient in the solution with what a rule returned for the costs.

    Both come from one call: `torch.autograd.grad(loss, (solution, costs))`. Minimising is assumed;
    where the layer maximises, pass `-returned`.

    Raises:
        ValueError: the shapes differ.

    Source: the cosine is that of Sahoo et al., arXiv 2205.15213, figure 7.
    """
    if incoming.shape != returned.shape:
        raise ValueError(
            f"`incoming` and `returned` must have one shape, got {tuple(incoming.shape)} and "
            f"{tuple(returned.shape)}: pass the gradients in the solution and in its costs."
        )
    axes = tuple(range(-item_dims, 0))
    before = torch.linalg.vector_norm(incoming, dim=axes)
    after = torch.linalg.vector_norm(returned, dim=axes)
    cosine = -(incoming * returned).sum(axes) / (before * after)
    return GradientReport(before, after, cosine.where(before * after > 0, 0.0))


def random_costs(solver: Solver, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random costs in float64 that the solver takes: normal, or their absolute values."""
    costs = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return costs.abs() if solver.nonnegative else costs

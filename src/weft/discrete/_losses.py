"""Losses whose gradient comes from a solver: nothing needs to be differentiated through.

Each is a value with the gradient that belongs to it, one per instance: take the mean. Costs are
minimised, as everywhere in the room; for scores pass `-scores`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.discrete._layer import solve_discrete
from weft.discrete._noise import Noise, Normal
from weft.discrete._problem import Problem, SolverLog
from weft.discrete._rules import check_count, check_positive
from weft.discrete._solver import Solver, as_solver, check_costs


def spo_plus_loss(
    costs: Float[Tensor, "*b"],
    true_costs: Float[Tensor, "*b"],
    solver: Solver | Callable[..., Tensor],
    *,
    mask: Bool[Tensor, "*b"] | None = None,
    log: SolverLog | None = None,
) -> Float[Tensor, " *batch"]:
    """Bound the regret of deciding by predicted costs, convex in them.

    With p = costs, c = true costs and y(c) the true solution, the loss is
    2 <p, y(c)> - <c, y(c)> - min <2 p - c, y>; its subgradient in p is 2 (y(c) - y(2 p - c)).
    Differentiable once in `costs`.

    Args:
        costs: predicted, (*batch, *item).
        true_costs: of the same shape.
        solver: exact; it must take 2 p - c, which may be negative.
        mask: which entries belong to their instance.
        log: counts the calls of the solver: two, none in backward.

    Returns:
        One loss per instance, at least the regret <c, y(p)> - <c, y(c)>, zero at p = c.

    Raises:
        TypeError, ValueError: as `solve_discrete`, or shapes that differ.

    Source: Elmachtoub and Grigas, Management Science 2022 (SPO+).
    """
    solver = as_solver(solver)
    _check_shape("true_costs", true_costs, costs)
    true_costs = true_costs.detach().to(costs)
    best = solve_discrete(true_costs, solver, _Fixed(), mask=mask, log=log)
    low = _minimum(2 * costs - true_costs, solver, mask, log)
    return _inner(2 * costs - true_costs, best, solver, mask) - low


def fenchel_young_loss(
    costs: Float[Tensor, "*b"],
    target: Float[Tensor, "*b"],
    solver: Solver | Callable[..., Tensor],
    *,
    generator: torch.Generator,
    scale: float = 1.0,
    samples: int = 10,
    noise: Noise = Normal(),  # noqa: B008, frozen
    mask: Bool[Tensor, "*b"] | None = None,
    log: SolverLog | None = None,
) -> Float[Tensor, " *batch"]:
    """Compare costs with the true solution under noise: <costs, target> - E min <costs - z, y>.

    Value and gradient, target - E y(costs - z), belong to each other, sample by sample: the
    finite difference of the one, on the same noise, is the other. Convex. The constant that would
    make its least value zero is unknown and left out. Differentiable once in `costs`.

    Args:
        costs: (*batch, *item).
        target: the true solutions, of the same shape; also means of several.
        solver: exact; it must take costs moved by noise, which may be negative.
        generator: of the noise, on the device of `costs`.
        scale: of the noise, in the unit of `costs`.
        samples: of the noise for each instance, all solved in one call.
        noise: its distribution.
        mask: which entries belong to their instance.
        log: counts the calls of the solver: one, none in backward.

    Returns:
        One loss per instance.

    Raises:
        TypeError, ValueError: as `solve_discrete`, shapes that differ, or no sample.

    Source: Berthet et al., NeurIPS 2020, with the sign of the costs turned.
    """
    solver = as_solver(solver)
    check_costs(costs, mask, solver.item_dims)
    _check_shape("target", target, costs)
    check_positive("scale", scale)
    check_count("samples", samples)
    axis = costs.ndim - solver.item_dims
    repeated = costs.unsqueeze(axis).expand(*costs.shape[:axis], samples, *costs.shape[axis:])
    each = None if mask is None else mask.expand(costs.shape).unsqueeze(axis)
    moved = repeated - scale * noise.sample(repeated, generator)
    low = _minimum(moved, solver, each, log).mean(-1)
    return _inner(costs, target.to(costs), solver, mask) - low


def hamming_l1(solution: Float[Tensor, "*b"], target: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """Return the mean of |solution - target|: the share of wrong entries, if all are zero or one.

    Its gradient is zero wherever an entry is right. That of y (1 - t) + (1 - y) t, which has the
    same values, is not, and rules such as `Identity` then push right solutions for ever. Twice
    differentiable.
    """
    _check_shape("target", target, solution)
    return (solution - target).abs().mean()


def recall_loss(
    ranks: Float[Tensor, "*q n"], relevant: Bool[Tensor, "*q n"], *, flat: bool = False
) -> Float[Tensor, " *q"]:
    """Penalise each relevant item by log(1 + log(1 + m)), with m irrelevant ones ranked before it.

    A sum of recall@K losses over all K, with weights 1 / (K log K). The gradient is in the ranks
    of relevant items only. Twice differentiable in `ranks`.

    Args:
        ranks: from 1, the best, as ranking solvers return them; one list per row.
        relevant: which items of a list should come first.
        flat: whether items that nothing irrelevant precedes, m = 0, have no gradient. As published
            they keep one, for the right-hand derivative at zero is 1. With `Blackbox` that works
            as a margin; `Identity` follows it for ever, and wants a flat loss.

    Returns:
        One loss per list, the mean over its relevant items; zero where there are none.

    Source: Rolinek et al., CVPR 2020; Sahoo et al., arXiv 2205.15213, eq. 26.
    """
    among = _ranks_among(ranks, relevant)
    before = (_stop(ranks, among) if flat else ranks) - among
    return _mean_where(relevant, before.clamp_min(0).log1p().log1p())


def average_precision_loss(
    ranks: Float[Tensor, "*q n"], relevant: Bool[Tensor, "*q n"], *, flat: bool = False
) -> Float[Tensor, " *q"]:
    """Return one minus the average precision of each list. Twice differentiable in `ranks`.

    The precision at a relevant item is its rank among the relevant, held fixed, by its rank.

    Args:
        ranks: from 1, the best, as ranking solvers return them; one list per row.
        relevant: which items of a list should come first.
        flat: as in `recall_loss`.

    Returns:
        One loss per list, from zero to one; zero where nothing is relevant.

    Source: Rolinek et al., CVPR 2020.
    """
    among = _ranks_among(ranks, relevant)
    return _mean_where(relevant, 1 - among / (_stop(ranks, among) if flat else ranks))


@dataclass(frozen=True)
class _Fixed:
    """The rule of an envelope: the minimiser may be held fixed where the minimum is differentiated.

    It returns zeros through the layer all the same, so that a second derivative is refused.
    """

    def forward(self, problem: Problem, costs: Tensor) -> tuple[Tensor, ...]:
        return (problem.solve(costs),)

    def backward(
        self, problem: Problem, grad: Tensor, costs: Tensor, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        return torch.zeros_like(grad)


def _minimum(costs: Tensor, solver: Solver, mask: Tensor | None, log: SolverLog | None) -> Tensor:
    """Return min <costs, y> of each instance; its gradient is y."""
    solution = solve_discrete(costs, solver, _Fixed(), mask=mask, log=log)
    return _inner(costs, solution, solver, mask)


def _inner(costs: Tensor, solution: Tensor, solver: Solver, mask: Tensor | None) -> Tensor:
    """Return <costs, solution> of each instance; costs outside the mask may be anything."""
    if mask is not None:
        costs = costs.where(mask, 0.0)
    return (costs * solution).sum(tuple(range(-solver.item_dims, 0)))


def _ranks_among(ranks: Tensor, relevant: Tensor) -> Tensor:
    """Return the rank of each relevant item among the relevant ones, without gradient."""
    _check_shape("relevant", relevant, ranks)
    if relevant.dtype != torch.bool:
        raise TypeError(
            f"`relevant` must be a boolean mask, got {relevant.dtype}: compare, do not cast."
        )
    order = ranks.detach().argsort(-1)
    counted = relevant.gather(-1, order).cumsum(-1)
    return torch.empty_like(counted).scatter_(-1, order, counted).to(ranks)


def _stop(ranks: Tensor, among: Tensor) -> Tensor:
    """Return the ranks, without gradient where no irrelevant item comes before."""
    return torch.where(ranks > among, ranks, ranks.detach())


def _mean_where(relevant: Tensor, values: Tensor) -> Tensor:
    return values.where(relevant, 0.0).sum(-1) / relevant.sum(-1).clamp_min(1)


def _check_shape(name: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.shape != other.shape:
        raise ValueError(
            f"`{name}` must have shape {tuple(other.shape)}, got {tuple(tensor.shape)}: "
            "one entry for each cost or rank."
        )

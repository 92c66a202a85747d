"""Relaxations: smooth stand-ins for solutions, as layers of their own or behind `StraightThrough`.

Costs in, the relaxed minimiser out; at temperature zero it is the solution. Ordinary autograd,
differentiable to any order.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from weft.discrete._rules import check_count, check_positive
from weft.discrete._solver import check_costs


def soft_argmin(
    costs: Float[Tensor, "*b n"], *, temperature: float = 1.0, alpha: float = 1.0
) -> Float[Tensor, "*b n"]:
    """Relax the choice of the cheapest entry: alpha-entmax of -costs / temperature.

    Args:
        costs: one choice in each row.
        temperature: in the unit of `costs`.
        alpha: 1 is the softmax; 2 the sparsemax, the nearest point of the simplex. From above 1
            on, dear entries get exactly zero; differentiable once. Other than 1 needs the package
            `entmax`.

    Returns:
        Non-negative rows that sum to one.

    Raises:
        ModuleNotFoundError: `entmax` is needed and missing.
        ValueError: `temperature` is not positive, or `alpha` less than 1.

    Source: Peters, Niculae, Martins, ACL 2019; Martins and Astudillo, ICML 2016 (sparsemax).
    """
    check_costs(costs, None, 1)
    check_positive("temperature", temperature)
    logits = -costs / temperature
    if alpha == 1:
        return logits.softmax(-1)
    if not 1 < alpha < float("inf"):
        raise ValueError(f"`alpha` must be 1 or more, got {alpha}: 1 is softmax, 2 sparsemax.")
    try:
        import entmax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "`alpha` other than 1 needs the package entmax: pip install 'weft[relax]'.",
            name="entmax",
        ) from error
    if alpha == 2:
        return cast(Tensor, entmax.sparsemax(logits, dim=-1))
    return cast(Tensor, entmax.entmax_bisect(logits, alpha=alpha, dim=-1))


def sinkhorn(
    costs: Float[Tensor, "*b n n"], *, temperature: float, iterations: int = 100
) -> Float[Tensor, "*b n n"]:
    """Relax the assignment: scale exp(-costs / temperature) until rows and columns sum to one.

    Rows and columns are normalised in turn, in logarithms; columns last, so these are exact and
    rows are as good as the iterations. Low temperatures need many.

    Args:
        costs: square matrices.
        temperature: in the unit of `costs`.
        iterations: of both normalisations; all are differentiated.

    Returns:
        Nearly doubly stochastic matrices.

    Raises:
        ValueError: a matrix is not square, or a setting not positive.

    Source: Cuturi, NeurIPS 2013; in logarithms, Mena et al., ICLR 2018.
    """
    check_costs(costs, None, 2)
    check_positive("temperature", temperature)
    check_count("iterations", iterations)
    if costs.shape[-1] != costs.shape[-2]:
        raise ValueError(
            f"`costs` must be square, got shape {tuple(costs.shape)}: add rows or columns of a "
            "constant cost for what may stay alone."
        )
    log_plan = -costs / temperature
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(-1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(-2, keepdim=True)
    return log_plan.exp()


def soft_sort(costs: Float[Tensor, "*b n"], *, temperature: float) -> Float[Tensor, "*b n n"]:
    """Relax the permutation that puts the largest cost first, by distance to the sorted costs.

    Row i is softmax(-|sorted_i - costs| / temperature); at temperature zero, `rows @ costs` is
    sorted, and `1 ... n @ rows` are the ranks, from 1 for the largest.

    Args:
        costs: one list in each row.
        temperature: in the unit of `costs`.

    Returns:
        Matrices whose rows sum to one.

    Source: Prillo and Eisenschlos, ICML 2020, with d = |.|.
    """
    check_costs(costs, None, 1)
    check_positive("temperature", temperature)
    ordered = costs.sort(-1, descending=True).values
    return (-(ordered[..., :, None] - costs[..., None, :]).abs() / temperature).softmax(-1)


def neural_sort(costs: Float[Tensor, "*b n"], *, temperature: float) -> Float[Tensor, "*b n n"]:
    """Do what `soft_sort` does without sorting: continuous in the costs, also where they meet.

    Row i is softmax(((n + 1 - 2 i) costs - sum_k |costs - costs_k|) / temperature).

    Args:
        costs: one list in each row.
        temperature: in the unit of `costs`.

    Returns:
        Matrices whose rows sum to one.

    Source: Grover et al., ICLR 2019.
    """
    check_costs(costs, None, 1)
    check_positive("temperature", temperature)
    n = costs.shape[-1]
    gaps = (costs[..., :, None] - costs[..., None, :]).abs().sum(-1)
    slope = n - 1 - 2 * torch.arange(n, device=costs.device)
    return ((slope[:, None] * costs[..., None, :] - gaps[..., None, :]) / temperature).softmax(-1)


def soft_rank(costs: Float[Tensor, "*b n"], *, temperature: float) -> Float[Tensor, "*b n"]:
    """Relax the ranks, 1 for the largest cost: the nearest point of their hull to -costs / t.

    The minimiser of <costs, y> + t |y|^2 / 2 over the permutahedron, t the temperature; where
    costs are apart by t or more, these are the ranks themselves. Time and memory grow with n^2.
    The second derivative is zero.

    Args:
        costs: one list in each row.
        temperature: in the unit of `costs`.

    Returns:
        Ranks from 1 to n, between the whole numbers too; rows sum to n (n + 1) / 2.

    Source: Blondel et al., ICML 2020. Its isotonic regression is here the least over the left end,
        of the largest over the right end, of the mean between: of all segments with an entry.
    """
    check_costs(costs, None, 1)
    check_positive("temperature", temperature)
    n = costs.shape[-1]
    ordered, order = (-costs / temperature).sort(-1, descending=True)
    gaps = ordered - torch.arange(n, 0, -1, device=costs.device)
    place = torch.arange(n, device=costs.device)
    length = place - place[:, None] + 1  # of the segment from row to column
    sums = gaps.cumsum(-1)[..., None, :] - (gaps.cumsum(-1) - gaps)[..., :, None]
    means = (sums / length.clamp_min(1)).masked_fill(length < 1, -torch.inf)
    largest = means.flip(-1).cummax(-1).values.flip(-1).masked_fill(length < 1, torch.inf)
    return torch.zeros_like(costs).scatter(-1, order, ordered - largest.amin(-2))

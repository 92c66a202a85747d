"""Relaxations of the k cheapest entries: exact marginals of random subsets, and a projection."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.discrete._rules import check_positive
from weft.discrete._solver import check_costs

_NEVER = -1e30
"""The logarithm of a weight of zero: finite, or its derivative would be NaN."""


def subset_marginals(
    costs: Float[Tensor, "*b n"],
    mask: Bool[Tensor, "*b n"] | None = None,
    *,
    k: int,
    temperature: float = 1.0,
) -> Float[Tensor, "*b n"]:
    """Relax the choice of the k cheapest entries: the chance of each to be in a random k-subset.

    A subset S of k entries has probability proportional to exp(-sum of costs in S / temperature).
    As a rule, `StraightThrough(partial(subset_marginals, k=k))` takes the cheapest subset forward
    and these marginals' derivative backward. Differentiable to any order.

    Args:
        costs: one choice in each row.
        mask: which entries may be chosen; at least k in each row.
        k: how many are.
        temperature: in the unit of `costs`.

    Returns:
        Marginals from zero to one; rows sum to k.

    Raises:
        ValueError: fewer than k entries may be chosen, or `temperature` is not positive.

    Source: Ahmed et al., ICLR 2023 (SIMPLE): the gradient of log e_k(exp(theta)), with e_k the
        elementary symmetric polynomial; here by products of polynomials in pairs, so that it
        takes log2(n) steps.
    """
    check_costs(costs, mask, 1)
    check_positive("temperature", temperature)
    _check_k(costs, mask, k)
    logits = -costs / temperature
    if mask is not None:
        logits = logits.where(mask, _NEVER)
    # Under torch.func.grad, unlike torch.autograd.grad, transforms and no_grad outside are fine.
    return torch.func.grad(lambda theta: log_subset_sum(theta, k).sum())(logits)


def log_subset_sum(theta: Float[Tensor, "*b n"], k: int) -> Float[Tensor, "*b"]:
    """Return log e_k(exp(theta)): the log of the sum over k-subsets of exp(sum of theta).

    e_k is the coefficient of x^k in the product of all (1 + exp(theta_i) x). Neighbours are
    multiplied in pairs, and terms above x^k dropped.
    """
    polynomials = torch.stack([torch.zeros_like(theta), theta], -1)  # (*b, n, degree + 1)
    while (count := polynomials.shape[-2]) > 1:
        if count % 2:
            one = torch.full_like(polynomials[..., :1, :], _NEVER)
            one[..., 0] = 0.0
            polynomials = torch.cat([polynomials, one], -2)
        polynomials = _multiply(polynomials[..., ::2, :], polynomials[..., 1::2, :])
        polynomials = polynomials[..., : k + 1]
    return polynomials[..., 0, k]


def soft_top_k(
    costs: Float[Tensor, "*b n"],
    mask: Bool[Tensor, "*b n"] | None = None,
    *,
    k: int,
    temperature: float = 1.0,
) -> Float[Tensor, "*b n"]:
    """Relax the choice of the k cheapest entries by sigmoids whose sum is k: cheap, for large k.

    The minimiser of <costs, y> / temperature minus the entropies of the entries, over 0 < y < 1
    with sum k, is sigmoid(nu - costs / temperature). nu is found by bisection; two Newton steps
    then carry the derivatives, which are exact to second order.

    Args:
        costs: one choice in each row.
        mask: which entries may be chosen; more than k in each row.
        k: how many are.
        temperature: in the unit of `costs`.

    Returns:
        Entries between zero and one; rows sum to k.

    Raises:
        ValueError: at most k entries may be chosen, or `temperature` is not positive.

    Source: Amos, Koltun, Kolter, arXiv 1906.08707 (LML).
    """
    check_costs(costs, mask, 1)
    check_positive("temperature", temperature)
    _check_k(costs, mask, k, spare=1)
    logits = -costs / temperature
    if mask is None:
        mask = torch.ones_like(costs, dtype=torch.bool)
    shift = _bisect(logits.detach(), mask, k)
    logits = logits.where(mask, _NEVER)
    for _ in range(2):
        values = (logits + shift).sigmoid()
        slope = (values * (1 - values)).sum(-1, keepdim=True)
        flat = slope < torch.finfo(slope.dtype).eps ** 0.5  # all is decided: leave it
        step = (values.sum(-1, keepdim=True) - k) / slope.masked_fill(flat, 1.0)
        shift = shift - step.masked_fill(flat, 0.0)
    return (logits + shift).sigmoid()


def _bisect(logits: Tensor, mask: Tensor, k: int) -> Tensor:
    """Return the shift with which the sigmoids in the mask sum to k, (*b, 1)."""
    share = (k / mask.sum(-1, keepdim=True)).to(logits.dtype).logit()
    low = share - logits.where(mask, -torch.inf).amax(-1, keepdim=True)  # no entry above its share
    high = share - logits.where(mask, torch.inf).amin(-1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        over = (logits + middle).sigmoid().where(mask, 0.0).sum(-1, keepdim=True) > k
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (low + high) / 2


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return the log-coefficients of products of polynomials given by theirs."""
    size = left.shape[-1]
    terms = left[..., :, None] + right[..., None, :]
    # Shift row i by i, so that terms of one degree stand in one column: pad each row by `size`,
    # read the lot as one line, and cut it into rows that are one shorter.
    padded = torch.nn.functional.pad(terms, (0, size), value=_NEVER).flatten(-2)
    return padded[..., :-size].unflatten(-1, (size, 2 * size - 1)).logsumexp(-2)


def _check_k(costs: Tensor, mask: Tensor | None, k: int, spare: int = 0) -> None:
    """Refuse fewer than k + spare entries."""
    if not 1 <= k <= costs.shape[-1] - spare:
        raise ValueError(
            f"`k` must lie between 1 and {costs.shape[-1] - spare} for rows of "
            f"{costs.shape[-1]} entries, got {k}: choose fewer."
        )
    if mask is not None and bool((mask.sum(-1) < k + spare).any()):
        raise ValueError(
            f"`mask` must leave at least {k + spare} entries in each row for k = {k}, got "
            f"{int(mask.sum(-1).min())}: choose fewer."
        )

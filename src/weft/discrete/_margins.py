"""Margins: costs are moved against the solution before they are solved, in training only.

A network that wins by a hair gives costs that the next step overturns. With a margin it must win
clearly. These are plain functions on costs: `solve_discrete(noise_margin(costs, ...), ...)`. In
evaluation, leave them out.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def noise_margin(
    costs: Float[Tensor, "*b"], size: float, *, generator: torch.Generator
) -> Float[Tensor, "*b"]:
    """Add +size/2 or -size/2 to each cost, by the toss of a coin. Needs no labels.

    Differentiable to any order.

    Args:
        costs: any shape.
        size: alpha, in the unit of `costs`, not negative. Solvers that refuse negative costs need
            costs of at least size/2 before.
        generator: on the device of `costs`.

    Raises:
        ValueError: `size` is negative or not finite.

    Source: Sahoo et al., arXiv 2205.15213, section 3.6: noise from the set {-alpha/2, alpha/2}.
    """
    _check_size(size)
    coins = torch.empty_like(costs).bernoulli_(0.5, generator=generator)
    return costs + size * (coins - 0.5)


def informed_margin(
    costs: Float[Tensor, "*b"], target: Float[Tensor, "*b"], size: float
) -> Float[Tensor, "*b"]:
    """Make the true solution dearer by size/2, and all other entries cheaper by as much.

    Differentiable to any order. Scores that are maximised are negative costs: pass `-scores`.

    Args:
        costs: any shape.
        target: the true solution, entries of zero and one.
        size: alpha, in the unit of `costs`, not negative.

    Raises:
        ValueError: `size` is negative or not finite, or the shapes differ.

    Source: Rolinek et al., CVPR 2020, as in Sahoo et al., arXiv 2205.15213, section 3.6.
    """
    _check_size(size)
    if target.shape != costs.shape:
        raise ValueError(
            f"`target` must have the shape of `costs`, {tuple(costs.shape)}, got "
            f"{tuple(target.shape)}: one entry of the true solution for each cost."
        )
    return costs + size * (target.to(costs) - 0.5)


def margin_size(size: float, step: int, *, hold: int, fade: int = 0) -> float:
    """Return a margin's size at a step: `size` for `hold` steps, then down to zero in `fade` more.

    The published tours were learned with noise for the first half of the training.
    """
    _check_size(size)
    if hold < 0 or fade < 0:
        raise ValueError(
            f"`hold` and `fade` must not be negative, got {hold} and {fade}: they count steps."
        )
    if step < hold:
        return size
    return size * (1 - (step - hold) / fade) if step < hold + fade else 0.0


def _check_size(size: float) -> None:
    if not 0 <= size < float("inf"):
        raise ValueError(f"`size` must be finite and not negative, got {size}: pass 0 for none.")

"""How two lists of distances differ: by value, up to scale, up to an affine change, or in order.

Knows tensors only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Discrepancy = Callable[[Float[Tensor, " p"], Float[Tensor, " p"]], Float[Tensor, ""]]
"""A discrepancy takes the distances of inputs and those of features, one entry per pair, at least
one, and returns a number: zero where the features keep what it asks for."""


@dataclass(frozen=True)
class SquaredError:
    """The mean of (scale d - D)^2: distances themselves are kept, d = D / scale.

    Invariant to rotations, reflections and translations of the features.

    Args:
        scale: K of the paper; positive.

    Source: Beshkov, Verhellen, Lepperød, arXiv 2211.01236.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"`scale` must be positive, got {self.scale}: take 1.")

    def __call__(self, inputs: Float[Tensor, " p"], features: Float[Tensor, " p"]) -> Tensor:
        """Return the mean."""
        return (self.scale * features - inputs).square().mean()


@dataclass(frozen=True)
class Stress:
    """The squared stress sum (D - s d)^2 / sum D^2 at its best scale s = sum D d / sum d^2.

    In [0, 1]; zero where distances are kept up to one common scale. Invariant to the scale of
    inputs and of features, so its gradient grows as features shrink. Zero where all inputs are
    equal.

    Source: Kruskal, Psychometrika 1964 (stress-1, squared); s is the least-squares scale.
    """

    def __call__(self, inputs: Float[Tensor, " p"], features: Float[Tensor, " p"]) -> Tensor:
        """Return the squared stress."""
        squares = features.square().sum()
        scale = (inputs * features).sum() / torch.where(squares > 0, squares, 1.0)
        total = inputs.square().sum()
        return (inputs - scale * features).square().sum() / torch.where(total > 0, total, 1.0)


@dataclass(frozen=True)
class Correlation:
    """1 - r, with r Pearson's correlation of the two distances: in [0, 2].

    Zero where d = a D + b with a > 0; invariant to such changes of either side. Zero where all
    inputs are equally far apart (nothing is asked for), one where all features are.
    """

    def __call__(self, inputs: Float[Tensor, " p"], features: Float[Tensor, " p"]) -> Tensor:
        """Return 1 - r, as half the squared distance of the two unit vectors."""
        (u, nothing), (v, collapsed) = _centred(inputs), _centred(features)
        gap = torch.where(collapsed, 1 - (u * v).sum(), (u - v).square().sum() / 2)
        return torch.where(nothing, 0.0, gap)


@dataclass(frozen=True)
class Ranking:
    """1 - G, with G the Gini correlation: which pairs are farther apart than which, in [0, 2].

        1 - G = 1 - sum sign(D_a - D_b) (d_a - d_b) / sum |d_a - d_b|

    over all pairs a, b of pairs with D_a != D_b: twice the share of the differences d_a - d_b that
    have the wrong sign. Zero where the order is kept. Invariant to every increasing change of D,
    and to d -> a d + b with a > 0. Both sums follow from ranks, exactly, in O(p log p), and are
    linear in d while its order stays: differentiable to any order in the features where no two of
    their distances are equal (else a subgradient), and not in the inputs, of which only the order
    counts. Zero where all inputs are equally far apart, one where all features are.

    Source: Schechtman and Yitzhaki, Communications in Statistics 1987.
    """

    def __call__(self, inputs: Float[Tensor, " p"], features: Float[Tensor, " p"]) -> Tensor:
        """Return 1 - G."""
        with torch.no_grad():
            signs, most = _rank_sums(inputs, features)
        collapsed = _centred(features.detach())[1]
        spread = (most * features).sum()
        wrong = ((most - signs) * features).sum() / torch.where(spread > 0, spread, 1.0)
        return torch.where(collapsed & signs.any(), 1 - (signs * features).sum(), wrong)


def _centred(distances: Float[Tensor, " p"]) -> tuple[Float[Tensor, " p"], Tensor]:
    """Return the centred unit vector, and whether the entries are equal up to rounding.

    Then the vector is centred alone.
    """
    centred = distances - distances.mean()
    squares = centred.square().sum()
    noise = 4 * torch.finfo(distances.dtype).eps * distances.detach().abs().amax()
    flat = squares.detach() <= len(distances) * noise.square()
    return centred / torch.where(flat, 1.0, squares).sqrt(), flat


def _rank_sums(inputs: Tensor, features: Tensor) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """Return the coefficients of d_a in sum sign(D_a - D_b) (d_a - d_b) and in sum |d_a - d_b|.

    Both sums are over unordered pairs with D_a != D_b: from all that |d_a - d_b| would contribute,
    what pairs with equal D do is taken away: it is what ordering by d changes in an order by D.
    """
    group, place = (part.unique(return_inverse=True)[1] for part in (inputs, features))
    by_inputs, by_features = _signs(group), _signs(place)
    by_both = _signs(group * len(inputs) + place)
    most = by_features - (by_both - by_inputs)
    return by_inputs.to(features.dtype), most.to(features.dtype)


def _signs(keys: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
    """Return sum_b sign(x_a - x_b): how many are smaller, less how many are larger."""
    _, at, count = keys.unique(return_inverse=True, return_counts=True)
    return (2 * count.cumsum(0) - count)[at] - len(keys)

"""Noise for rules and losses that perturb costs: normal, Gumbel, and sums of Gammas.

A distribution is a frozen object of unit scale; who uses it multiplies.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Noise(Protocol):
    """A distribution of independent entries."""

    def sample(self, like: Float[Tensor, "*b"], generator: torch.Generator) -> Float[Tensor, "*b"]:
        """Draw a tensor with the shape, dtype and device of `like`."""
        ...


class SmoothNoise(Noise, Protocol):
    """A distribution with a differentiable density exp(-nu)."""

    def score(self, noise: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Return the derivative of nu at each entry."""
        ...


@dataclass(frozen=True)
class Normal:
    """The standard normal distribution."""

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw entries."""
        return torch.empty_like(like).normal_(generator=generator)

    def score(self, noise: Tensor) -> Tensor:
        """Return z, the derivative of z^2 / 2."""
        return noise


@dataclass(frozen=True)
class Gumbel:
    """The standard Gumbel distribution: with it an argmax is a sample of the softmax."""

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw entries."""
        # -log of an exponential variable; that is zero about once in 2^24 draws of float32.
        waiting = torch.empty_like(like).exponential_(generator=generator)
        return -waiting.clamp_min(torch.finfo(like.dtype).tiny).log()

    def score(self, noise: Tensor) -> Tensor:
        """Return 1 - exp(-z), the derivative of z + exp(-z)."""
        return 1 - (-noise).exp()


@dataclass(frozen=True)
class SumOfGamma:
    """Noise of which k entries sum to a Gumbel variable: for solutions with k ones.

    (1 / k) (sum over i = 1 ... terms of Gamma(shape 1/k, scale k/i) - log(terms)). The scale is
    k/i: an implementation that passes i/k, or the same to a library that wants the inverse scale,
    draws noise of less than half the variance.

    Args:
        k: the number of ones in a solution.
        terms: of the series; the sum of k draws has the variance of the first `terms` of
            pi^2 / 6 = sum of 1 / i^2.

    Source: Niepert, Minervini, Franceschi, NeurIPS 2021, theorem 1; Sahoo et al., eq. 23.
    """

    k: int
    terms: int = 10

    def __post_init__(self) -> None:
        if self.k < 1 or self.terms < 1:
            raise ValueError(
                f"`k` and `terms` must be at least 1, got {self.k} and {self.terms}: "
                "they count ones and terms of a series."
            )

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw entries."""
        total = torch.full_like(like, -math.log(self.terms))
        shape = torch.full_like(like, 1 / self.k)
        for term in range(1, self.terms + 1):
            # torch.distributions.Gamma draws by the same function, but takes no generator.
            gamma = torch._standard_gamma(shape, generator=generator)  # pyright: ignore
            total += self.k / term * gamma
        return total / self.k

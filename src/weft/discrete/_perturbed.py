"""Rules that average solutions under noise: a smooth function of the costs, and its gradient.

The output is a mean of solutions, not a solution. The gradient is an unbiased estimate of that of
the expectation, from the same samples.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from weft.discrete._noise import Normal, SmoothNoise
from weft.discrete._problem import Problem
from weft.discrete._rules import check_count, check_positive


@dataclass(frozen=True)
class Perturbed:
    """Costs with added noise: the output is E y(costs - scale Z), estimated from samples.

    With g the incoming gradient and nu the negative log-density of Z, what is returned is
    -E <g, y(costs - scale Z) - y(costs)> nu'(Z) / scale. The unperturbed solution is subtracted
    because it changes the variance and not the mean, as E nu'(Z) = 0; it is solved with the
    samples, in one call. With `Gumbel` noise and one-hot solutions the expectation is the softmax
    of -costs / scale. Where the solver wants no negative costs, those that noise makes so are set
    to zero, and the expectation is of that.

    Args:
        scale: of the noise, in the unit of the costs.
        samples: of the noise for each instance.
        generator: of the noise, on the device of the costs.
        noise: `Normal()`, `Gumbel()`, or another with a score.

    Source: Berthet et al., NeurIPS 2020, with the sign of the costs turned.
    """

    scale: float
    samples: int
    generator: torch.Generator = field(kw_only=True)
    noise: SmoothNoise = field(default=Normal(), kw_only=True)

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        check_count("samples", self.samples)

    def forward(self, problem: Problem, costs: Tensor) -> tuple[Tensor, ...]:
        """Return the mean of the samples' solutions, and what told them apart."""
        repeated = _repeat(costs, self.samples)
        noise = self.noise.sample(repeated, self.generator)
        return _solve_samples(problem, costs, repeated - self.scale * noise, noise)

    def backward(
        self, problem: Problem, grad: Tensor, costs: Tensor, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Weigh the noise of each sample by what it changed."""
        _, noise, change = outputs
        return -_weigh(problem, grad, self.noise.score(noise), change) / self.scale


@dataclass(frozen=True)
class PerturbedMultiplicative:
    """Costs times noise that keeps their sign: E y(costs exp(scale Z - scale^2 / 2)), Z normal.

    For solvers that refuse negative costs. The noise has mean one. What is returned is
    E <g, y(costs exp(...)) - y(costs)> Z / (scale costs), and zero for costs of zero, which no
    noise moves.

    Args:
        scale: of the noise, relative to the costs.
        samples: of the noise for each instance.
        generator: of the noise, on the device of the costs.

    Source: Dalle, Baty, Bouvier, Parmentier, arXiv 2207.13513.
    """

    scale: float
    samples: int
    generator: torch.Generator = field(kw_only=True)

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        check_count("samples", self.samples)

    def forward(self, problem: Problem, costs: Tensor) -> tuple[Tensor, ...]:
        """Return the mean of the samples' solutions, and what told them apart."""
        repeated = _repeat(costs, self.samples)
        noise = Normal().sample(repeated, self.generator)
        factor = (self.scale * noise - self.scale**2 / 2).exp()
        return _solve_samples(problem, costs, repeated * factor, noise)

    def backward(
        self, problem: Problem, grad: Tensor, costs: Tensor, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Weigh the noise of each sample by what it changed."""
        _, noise, change = outputs
        pulled = _weigh(problem, grad, noise, change)
        return (pulled / (self.scale * costs)).where(costs != 0, 0.0)


def _repeat(costs: Tensor, samples: int) -> Tensor:
    """Return (b, samples, *item)."""
    return costs[:, None].expand(-1, samples, *costs.shape[1:])


def _solve_samples(
    problem: Problem, costs: Tensor, moved: Tensor, noise: Tensor
) -> tuple[Tensor, ...]:
    """Return the mean solution, the noise, and how each solution differs from the unmoved one."""
    solutions = problem.solve(torch.cat([costs[:, None], moved], 1), moved=True)
    samples = solutions[:, 1:]
    return samples.mean(1), noise, samples - solutions[:, :1]


def _weigh(problem: Problem, grad: Tensor, score: Tensor, change: Tensor) -> Tensor:
    """Return the mean over samples of <grad, change> score."""
    effect = (grad[:, None] * change).sum(problem.item_axes, keepdim=True)
    return (effect * score).mean(1)

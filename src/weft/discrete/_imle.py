"""Implicit maximum likelihood: blackbox interpolation of a sample, with its noise held fixed."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from weft.discrete._noise import Gumbel, Noise
from weft.discrete._problem import Problem
from weft.discrete._rules import Blackbox, check_positive


@dataclass(frozen=True)
class IMLE:
    """Solve costs with noise; in backward solve them again, moved along the gradient.

    The output is a solution, a sample. With z = temperature times noise, what is returned is
    (y(costs - z + strength grad) - y(costs - z)) / strength with the same z: without noise, that
    is `Blackbox`. For a mean over several samples, expand the costs before the layer and take the
    mean of the losses after it.

    Args:
        strength: lambda, in costs per gradient.
        generator: of the noise, on the device of the costs.
        temperature: tau, of the noise, in the unit of the costs.
        noise: its distribution; `SumOfGamma(k)` fits solutions with k ones, of which `Gumbel()`
            is the case of one.
        two_sided: whether to look as far to the other side too, at the price of a third call.

    Source: Niepert, Minervini, Franceschi, NeurIPS 2021, algorithm 1, divided by lambda.
    """

    strength: float
    generator: torch.Generator = field(kw_only=True)
    temperature: float = field(default=1.0, kw_only=True)
    noise: Noise = field(default=Gumbel(), kw_only=True)
    two_sided: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_positive("strength", self.strength)
        _check_temperature(self.temperature)

    def forward(self, problem: Problem, costs: Tensor) -> tuple[Tensor, ...]:
        """Return the solution under noise, and the costs that had it."""
        noisy = costs - self.temperature * self.noise.sample(costs, self.generator)
        return problem.solve(noisy, moved=True), noisy

    def backward(
        self, problem: Problem, grad: Tensor, costs: Tensor, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Do what `Blackbox` does, on the costs with noise."""
        solution, noisy = outputs
        rule = Blackbox(self.strength, two_sided=self.two_sided)
        return rule.backward(problem, grad, noisy, (solution,))


@dataclass
class AdaptiveIMLE:
    """`IMLE` that finds its strength: beta |costs| / |grad|, with beta led by how much is learned.

    The strength of each instance makes a gradient ten times as large come out ten times as large.
    After each backward, beta rises by `step` if fewer than `target` entries per instance had a
    gradient, in the running mean, and falls if more. So this rule has a state: `beta` and
    `density`, plain numbers. Save them with the training; share the rule between layers only if
    they should share them.

    Args:
        generator: of the noise, on the device of the costs.
        temperature: tau, of the noise, in the unit of the costs.
        noise: its distribution, as in `IMLE`.
        two_sided: whether to look as far to the other side too, at the price of a third call.
        target: entries with a gradient that an instance should have.
        step: change of beta at each backward.
        decay: of the running mean.
        beta: where it starts.
        density: running mean of the entries per instance with a gradient.

    Source: Minervini, Franceschi, Niepert, AAAI 2023, with norms for each instance
        where its code takes those of the batch.
    """

    generator: torch.Generator = field(kw_only=True)
    temperature: float = field(default=1.0, kw_only=True)
    noise: Noise = field(default=Gumbel(), kw_only=True)
    two_sided: bool = field(default=False, kw_only=True)
    target: float = field(default=1.0, kw_only=True)
    step: float = field(default=1e-4, kw_only=True)
    decay: float = field(default=0.9, kw_only=True)
    beta: float = field(default=1.0, kw_only=True)
    density: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        check_positive("target", self.target)
        check_positive("step", self.step)
        check_positive("beta", self.beta)
        if not 0 <= self.decay < 1:
            raise ValueError(f"`decay` must lie in [0, 1), got {self.decay}: 0.9 is usual.")

    def forward(self, problem: Problem, costs: Tensor) -> tuple[Tensor, ...]:
        """Return the solution under noise, and the costs that had it."""
        noisy = costs - self.temperature * self.noise.sample(costs, self.generator)
        return problem.solve(noisy, moved=True), noisy

    def backward(
        self, problem: Problem, grad: Tensor, costs: Tensor, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Move by a length that is relative to the costs, and lead beta."""
        solution, noisy = outputs
        length = problem.norm(grad)
        strength = self.beta * problem.norm(costs) / length
        # No gradient, nothing to move; no costs, no scale to move by: both return zero.
        useful = (length > 0) & (strength > 0)
        strength = strength.where(useful, 1.0)
        ahead = problem.solve(noisy + strength * grad, moved=True)
        if self.two_sided:
            behind = problem.solve(noisy - strength * grad, moved=True)
            pulled = (ahead - behind) / (2 * strength)
        else:
            pulled = (ahead - solution) / strength
        pulled = pulled.where(useful, 0.0)
        self._lead(pulled)
        return pulled

    def _lead(self, pulled: Tensor) -> None:
        if not len(pulled):
            return
        count = pulled.count_nonzero().item() / len(pulled)
        self.density = self.decay * self.density + (1 - self.decay) * count
        self.beta = max(self.beta + (self.step if self.density < self.target else -self.step), 0.0)


def _check_temperature(temperature: float) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"`temperature` must be finite and not negative, got {temperature}: 0 is no noise."
        )

"""Rules that see one solution: identity with projections, blackbox interpolation, straight-through.

A rule is a frozen object: what it returns in place of a gradient that is zero or undefined.
Everything here is for minimisation; `solve_discrete` turns the signs for maximisation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from weft.discrete._problem import Problem
from weft.discrete._projections import Projection, check_projection_type, pull_through


@dataclass(frozen=True)
class Identity:
    """The solver as a negative identity: d loss / d costs = -P'(costs)^T d loss / d solution.

    No second call of the solver and nothing to tune. A higher cost means less of that entry, hence
    the sign. The projection acts in the backward alone. By default it removes all that is known to
    be useless: the directions that the solver's equalities fix, then the length. Without it costs
    can collapse to zero, where every solution is one rounding away.

    Args:
        projection: what to remove; see `Projection`.

    Source: Sahoo et al., arXiv 2205.15213, eq. 3 and 11.
    """

    projection: Projection = Projection.AFFINE_NORM

    def __post_init__(self) -> None:
        check_projection_type(self.projection)

    def forward(self, problem: Problem, costs: Tensor) -> tuple[Tensor, ...]:
        """Solve."""
        return (problem.solve(costs),)

    def backward(
        self, problem: Problem, grad: Tensor, costs: Tensor, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Return the projected gradient, its sign turned."""
        del outputs
        return pull_through(self.projection, problem, grad, costs)


@dataclass(frozen=True)
class Blackbox:
    """The gradient of a piecewise affine interpolation: one more call of the solver, in backward.

    d loss / d costs = (y(costs + strength grad) - y(costs)) / strength. To project the costs too,
    write `solve_discrete(project_costs(costs, solver), solver, Blackbox(...))`.

    Args:
        strength: lambda, in costs per gradient: how far to look. It depends on the scales of
            costs and loss, so there is no default; 20 for paths and tours, 80 for matching and 0.2
            for ranks divided by their number have been used.
        two_sided: whether to look as far to the other side too, at the price of a third call.

    Source: Vlastelica et al., ICLR 2020, algorithm 1; in this form Sahoo et al., eq. 4.
    """

    strength: float
    two_sided: bool = False

    def __post_init__(self) -> None:
        check_positive("strength", self.strength)

    def forward(self, problem: Problem, costs: Tensor) -> tuple[Tensor, ...]:
        """Solve."""
        return (problem.solve(costs),)

    def backward(
        self, problem: Problem, grad: Tensor, costs: Tensor, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Solve again with the costs moved along the gradient."""
        ahead = problem.solve(costs + self.strength * grad, moved=True)
        if not self.two_sided:
            return (ahead - outputs[0]) / self.strength
        behind = problem.solve(costs - self.strength * grad, moved=True)
        return (ahead - behind) / (2 * self.strength)


@dataclass(frozen=True)
class StraightThrough:
    """A solution forward, the derivative of a relaxation backward.

    With the relaxation -costs that is `Identity(Projection.NONE)`; others know the set better:
    `partial(sinkhorn, temperature=0.1)` for assignments, `partial(subset_marginals, k=5)` for
    subsets. With Gumbel noise on the costs and `soft_argmin` it is the straight-through
    Gumbel-softmax.

    Args:
        relaxation: a differentiable function of costs (b, *item) to relaxed solutions of the same
            shape, called as `relaxation(costs, mask)` where there is a mask.

    Source: Bengio, Léonard, Courville, arXiv 1308.3432; Jang, Gu, Poole, ICLR 2017, section 2.2.
    """

    relaxation: Callable[..., Tensor]

    def forward(self, problem: Problem, costs: Tensor) -> tuple[Tensor, ...]:
        """Solve."""
        return (problem.solve(costs),)

    def backward(
        self, problem: Problem, grad: Tensor, costs: Tensor, outputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Pull the gradient back through the relaxation."""
        del outputs
        extra = () if problem.mask is None else (problem.mask,)
        pulled: Any = torch.func.vjp(lambda costs: self.relaxation(costs, *extra), costs)
        relaxed, pull = pulled
        if relaxed.shape != grad.shape:
            raise ValueError(
                f"a relaxation must return the shape it was given, {tuple(grad.shape)}, got "
                f"{tuple(relaxed.shape)}: one entry for each cost."
            )
        return pull(grad)[0]


def check_count(name: str, value: int) -> None:
    """Refuse what is not a whole number of one or more."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number, 1 or more, got {value}: count them.")


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not positive and finite."""
    if not 0 < value < float("inf"):
        raise ValueError(f"`{name}` must be positive and finite, got {value}: pass such a number.")

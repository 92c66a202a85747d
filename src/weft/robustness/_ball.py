"""How far an attack may go: balls around the clean inputs, cut by the box of pixels, [0, 1].

Knows tensors. All operations act on each row by itself; none is differentiated.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Ball(Protocol):
    """The perturbations that are allowed; a frozen object. `LInf` and `L2` are the two of weft."""

    @property
    def epsilon(self) -> float:
        """The radius, for pixels in [0, 1]."""
        ...

    def project(
        self, points: Float[Tensor, "n *shape"], centre: Float[Tensor, "n *shape"]
    ) -> Float[Tensor, "n *shape"]:
        """Bring points into ball and box; what lies inside stays as it is."""
        ...

    def sample(
        self, centre: Float[Tensor, "n *shape"], generator: torch.Generator
    ) -> Float[Tensor, "n *shape"]:
        """Draw one random point of ball and box for each row."""
        ...

    def ascent(self, gradient: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Return the step of length one, in the ball's norm, that climbs most; 0 where flat."""
        ...

    def distance(
        self, points: Float[Tensor, "n *shape"], centre: Float[Tensor, "n *shape"]
    ) -> Float[Tensor, " n"]:
        """Return how far each row went, in the ball's norm."""
        ...


@dataclass(frozen=True)
class LInf:
    """No pixel changes by more than epsilon.

    Args:
        epsilon: the radius, for pixels in [0, 1]; not negative.
    """

    epsilon: float

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    @classmethod
    def normalised(cls, epsilon: float, std: float) -> "LInf":
        """Return the ball that a paper means whose pixels have been divided by `std`.

        GLL's curves on MNIST run to an epsilon of 1 in pixels less 0.1307 over 0.3081: its box is
        the same [0, 1], and its radius 0.3081 here.
        """
        if not std > 0:
            raise ValueError(f"`std` must be positive, got {std}: pixels are divided by it.")
        return cls(epsilon * std)

    def __str__(self) -> str:
        return f"L-infinity {self.epsilon:g}"

    def project(self, points: Tensor, centre: Tensor) -> Tensor:
        """Clip each pixel: the nearest point of ball and box."""
        inside = points.clamp(centre - self.epsilon, centre + self.epsilon)
        return inside.clamp(0, 1)

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Draw each pixel's change uniformly."""
        moved = 2 * draw_uniform(centre, generator) - 1
        return self.project(centre + self.epsilon * moved, centre)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return the gradient's signs."""
        return gradient.sign()

    def distance(self, points: Tensor, centre: Tensor) -> Tensor:
        """Return the largest change of a pixel in each row."""
        return (points - centre).flatten(1).abs().amax(1)


@dataclass(frozen=True)
class L2:
    """The change of an input has Euclidean norm epsilon at most.

    Args:
        epsilon: the radius, for pixels in [0, 1]; not negative. `math.inf` leaves the box alone,
            for attacks that look for the smallest change.
    """

    epsilon: float

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def __str__(self) -> str:
        return f"L2 {self.epsilon:g}"

    def project(self, points: Tensor, centre: Tensor) -> Tensor:
        """Shorten the change, then clip: a point of both sets, not always the nearest one.

        Clipping brings a point nearer to every point of the box, and the centre is one.
        """
        if self.epsilon == math.inf:
            return points.clamp(0, 1)
        change = points - centre
        norms = as_rows(self.distance(points, centre), change)
        # Rounding of the norm must not carry a point out: aim a few units in the last place short.
        radius = self.epsilon * (1 - 8 * torch.finfo(change.dtype).eps)
        scale = torch.where(norms > radius, radius / norms, 1.0)
        return torch.where(scale < 1, centre + scale * change, points).clamp(0, 1)

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a direction, and a radius such that the volume is filled evenly."""
        if self.epsilon == math.inf:
            return draw_uniform(centre, generator)
        direction = self.ascent(draw_normal(centre, generator))
        size = math.prod(centre.shape[1:])
        radius = draw_uniform(centre.flatten(1)[:, 0], generator).pow(1 / size)
        return self.project(centre + self.epsilon * as_rows(radius, centre) * direction, centre)

    def ascent(self, gradient: Tensor) -> Tensor:
        """Return each row's gradient at length one."""
        # Divided by the largest entry first: squares of small gradients would underflow.
        largest = as_rows(gradient.flatten(1).abs().amax(1), gradient)
        scaled = gradient / torch.where(largest > 0, largest, 1.0)
        norms = as_rows(scaled.flatten(1).norm(dim=1), gradient)
        return scaled / torch.where(norms > 0, norms, 1.0)

    def distance(self, points: Tensor, centre: Tensor) -> Tensor:
        """Return the Euclidean norm of each row's change."""
        return (points - centre).flatten(1).norm(dim=1)


def as_rows(values: Float[Tensor, " n"], like: Float[Tensor, "n *shape"]) -> Tensor:
    """Return one number per row in a shape that broadcasts over the rows of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def draw_uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers in the shape of `like`, the same for each dtype and device."""
    return torch.rand(like.shape, **_source(generator)).to(like)


def draw_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw normal numbers in the shape of `like`, the same for each dtype and device."""
    return torch.randn(like.shape, **_source(generator)).to(like)


def _source(generator: torch.Generator) -> dict[str, Any]:
    return {"generator": generator, "device": generator.device, "dtype": torch.float32}


def _check_epsilon(epsilon: float) -> None:
    if not epsilon >= 0:  # also refuses nan
        raise ValueError(
            f"`epsilon` must not be negative, got {epsilon}: give a radius for pixels in [0, 1]."
        )

"""Pairs of an input and itself, moved a little: distances off the data, and no label.

Pairs within a class say nothing about directions that leave the data, where attacks go. Knows
tensors only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from weft._check import at_least_float32
from weft.isometry._discrepancies import Discrepancy, SquaredError
from weft.isometry._distances import Euclidean, Metric, flat_rows
from weft.isometry._losses import check_one_batch, isometry_loss

Encoder = Callable[[Float[Tensor, "n *shape"]], Float[Tensor, "n *features"]]
"""From inputs to features: a module, or any function of each row by itself."""
Box = tuple[float, float] | None
"""The least and the greatest value that an entry of an input can have; `None`: any."""

_PIXELS = (0.0, 1.0)
_KEEP = SquaredError()
_EUCLIDEAN = Euclidean()


@dataclass(frozen=True)
class Expansion:
    """The mean of relu(d - D)^2: pairs may come closer, and must not move apart.

    Zero for every map that is 1-Lipschitz on the pairs.
    """

    def __call__(self, inputs: Float[Tensor, " p"], features: Float[Tensor, " p"]) -> Tensor:
        """Return the mean."""
        return (features - inputs).relu().square().mean()


@dataclass(frozen=True)
class Contraction:
    """The mean of d^2: pairs are drawn together, whatever their distance was."""

    def __call__(self, inputs: Float[Tensor, " p"], features: Float[Tensor, " p"]) -> Tensor:
        """Return the mean."""
        return features.square().mean()


class Perturbation(Protocol):
    """How inputs are moved: a frozen object, callable."""

    def __call__(
        self,
        encoder: Encoder,
        inputs: Float[Tensor, "n *shape"],
        generator: torch.Generator,
    ) -> Float[Tensor, "n *shape"]:
        """Return the moved inputs, without gradient."""
        ...


@dataclass(frozen=True)
class RandomSigns:
    """Every entry moves by epsilon, up or down by chance: a corner of the L-infinity ball.

    Args:
        epsilon: how far, in the unit of the inputs; positive.
        box: entries are cut to it.
    """

    epsilon: float
    box: Box = _PIXELS

    def __post_init__(self) -> None:
        _check_size("epsilon", self.epsilon, self.box)

    def __call__(self, encoder: Encoder, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the moved inputs; the encoder is not asked."""
        signs = _uniform(inputs.float(), generator).sub(0.5).sign()  # in half precision, some are 0
        return _cut(inputs + self.epsilon * signs.to(inputs), self.box)


@dataclass(frozen=True)
class GaussianNoise:
    """Every entry moves by a normal number.

    Args:
        sigma: its standard deviation, in the unit of the inputs; positive.
        box: entries are cut to it.
    """

    sigma: float
    box: Box = _PIXELS

    def __post_init__(self) -> None:
        _check_size("sigma", self.sigma, self.box)

    def __call__(self, encoder: Encoder, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the moved inputs; the encoder is not asked."""
        noise = torch.randn(inputs.shape, generator=generator, device=generator.device)
        return _cut(inputs + self.sigma * noise.to(inputs), self.box)


@dataclass(frozen=True)
class WorstDirection:
    """Inputs move to where features move most: signed gradient steps that climb their distance.

    From a uniform draw in the ball, since the distance has no slope at the input itself. No label
    and no classification loss is involved. Each step costs a forward and a backward pass of the
    encoder; no gradient is left on its parameters, but layers that keep statistics in training
    see the moved inputs.

    Args:
        epsilon: radius of the L-infinity ball, in the unit of the inputs; positive.
        steps: how many, each of 2.5 epsilon / steps, so that every corner can be reached.
        box: entries are cut to it.
        metric: of the features.
    """

    epsilon: float
    steps: int = 3
    box: Box = _PIXELS
    metric: Metric = _EUCLIDEAN

    def __post_init__(self) -> None:
        _check_size("epsilon", self.epsilon, self.box)
        if self.steps < 1:
            raise ValueError(
                f"`steps` must be at least 1, got {self.steps}: for none, take RandomSigns."
            )

    def __call__(self, encoder: Encoder, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the moved inputs."""
        inputs = inputs.detach()
        with torch.no_grad():
            clean = encoder(inputs).flatten(1)
        lowest, highest = inputs - self.epsilon, inputs + self.epsilon
        moved = lowest + 2 * self.epsilon * _uniform(inputs, generator)
        for _ in range(self.steps):
            moved = _cut(moved, self.box).requires_grad_()
            with torch.enable_grad():
                apart = self.metric(encoder(moved).flatten(1), clean).sum()
                (slope,) = torch.autograd.grad(apart, moved)
            step = 2.5 * self.epsilon / self.steps * slope.sign()
            moved = (moved.detach() + step).clamp(lowest, highest)
        return _cut(moved, self.box)


def perturbation_loss(
    encoder: Encoder,
    inputs: Float[Tensor, "n *shape"],
    perturbation: Perturbation,
    *,
    discrepancy: Discrepancy = _KEEP,
    features: Float[Tensor, "n *features"] | None = None,
    metric: Metric = _EUCLIDEAN,
    feature_metric: Metric = _EUCLIDEAN,
    relative: bool = False,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return how far the encoder is from keeping the distance of inputs to their moved selves.

    With x' the moved inputs, d = |phi(x') - phi(x)| and D = |x' - x|, one pair per row:

        SquaredError()   mean (d - D)^2        keeps the distance
        Expansion()      mean relu(d - D)^2    only asks that it does not grow
        Contraction()    mean d^2              asks that nothing moves

    A head that sees no scale, such as a self-tuned graph or one of features of length one, gains
    nothing by that: features shrink until it holds, and no prediction changes. For those, let the
    encoder end in what the head sees, and take `relative` distances: each in units of how far the
    batch's rows are from one another, as a root mean square.

    Differentiable to any order in the encoder's parameters, through both ends of each pair and
    through the unit; x' is taken as given. Which of the three helps, and how much, is an empirical
    question: this is no certificate.

    Args:
        encoder: inputs to features.
        inputs: the batch.
        perturbation: `RandomSigns`, `GaussianNoise`, `WorstDirection`, or another.
        discrepancy: compares the distances.
        features: encoder(inputs), where they are at hand: saves a pass.
        metric: of inputs, flattened.
        feature_metric: of features, flattened.
        relative: divide distances of inputs by the spread of the inputs, and distances of features
            by the spread of the features; invariant to the scale of either.
        generator: draws the perturbations.

    Returns:
        A number with the dtype of the features, float32 for half precision. Zero without rows.

    Raises:
        TypeError: inputs or features are not floating point.
        ValueError: NaN or infinite entries, inputs outside the perturbation's box, not one row
            of features per input, or a single row where distances are to be relative.

    Source: ours.
    """
    flat_rows("inputs", inputs)
    _check_inside(inputs, getattr(perturbation, "box", None))
    with torch.no_grad():
        moved = perturbation(encoder, inputs.detach(), generator)
    both = [encoder(inputs) if features is None else features, encoder(moved)]
    for end in both:
        check_one_batch(len(inputs), len(end))
    row = torch.arange(len(inputs), device=inputs.device)
    before, after = torch.cat([inputs, moved]), torch.cat([end.flatten(1) for end in both])
    if relative and len(inputs):
        before = at_least_float32(before) / _spread(inputs)
        after = at_least_float32(after) / _spread(both[0])
    return isometry_loss(
        before,
        after,
        discrepancy=discrepancy,
        pairs=torch.stack([row, row + len(inputs)]),
        metric=metric,
        feature_metric=feature_metric,
    )


def _spread(rows: Float[Tensor, "n *shape"]) -> Float[Tensor, ""]:
    """Return the root mean square distance of two rows of a batch."""
    if len(rows) < 2:
        raise ValueError(
            f"`relative` distances need at least two rows to be relative to, got {len(rows)}: pass "
            "a larger batch, or relative=False."
        )
    squares = 2 * at_least_float32(rows).flatten(1).var(0).sum()
    return (squares + _EUCLIDEAN.epsilon**2).sqrt()  # differentiable where all rows are equal


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=generator.device).to(like)


def _cut(points: Tensor, box: Box) -> Tensor:
    return points if box is None else points.clamp(*box)


def _check_inside(inputs: Tensor, box: Box) -> None:
    if box is None or not inputs.numel():
        return
    low, high = inputs.detach().aminmax()
    if low < box[0] or high > box[1]:
        raise ValueError(
            f"`inputs` must lie in the perturbation's box {box}, got {low:.4g} to {high:.4g}: give "
            "it the box of your inputs, or box=None."
        )


def _check_size(name: str, size: float, box: Box) -> None:
    if not 0 < size < torch.inf:
        raise ValueError(f"`{name}` must be positive, got {size}: inputs have to move.")
    if box is not None and not box[0] < box[1]:
        raise ValueError(f"`box` must be (least, greatest), got {box}: or None for no bounds.")

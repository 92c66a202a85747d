"""What became of the distances: correlation, stress, ratios, separation, local stretching.

Numbers to look at, without gradient. Knows tensors and torch modules.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft._check import at_least_float32, check_finite, check_floating
from weft.isometry._capture import Capture
from weft.isometry._discrepancies import Stress
from weft.isometry._distances import Euclidean, Metric, checked_distances, flat_rows
from weft.isometry._losses import check_one_batch
from weft.isometry._pairs import AllPairs, WithinClass

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_WITHIN_CLASS, _EUCLIDEAN = WithinClass(), Euclidean()


@dataclass(frozen=True)
class DistanceFit:
    """How the distances d of features follow the distances D of inputs.

    Args:
        pearson: their correlation; NaN where one of them does not vary.
        spearman: that of their ranks, ties ranked in the middle.
        stress: Kruskal's stress-1 at the best scale, sqrt(sum (D - s d)^2 / sum D^2), in [0, 1].
        ratios: quantiles of d / D, over pairs with D > 0, at 5, 25, 50, 75 and 95 %.
    """

    pearson: float
    spearman: float
    stress: float
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Diagnosis:
    """The fit within each class and of all such pairs together, and how far classes are apart.

    Args:
        classes: by class number, for each class with a pair.
        pooled: pairs within classes, taken together.
        separation: mean distance of features between classes over that within classes.
        input_separation: the same of the inputs.
    """

    classes: Mapping[int, DistanceFit]
    pooled: DistanceFit
    separation: float
    input_separation: float

    def class_mean(self) -> DistanceFit:
        """Return the mean of each number over the classes, NaN left out."""
        fits = [
            (fit.pearson, fit.spearman, fit.stress, *fit.ratios) for fit in self.classes.values()
        ]
        pearson, spearman, stress, *ratios = (
            torch.tensor(fits, dtype=torch.float64).nanmean(0).tolist()
        )
        return DistanceFit(pearson, spearman, stress, tuple(ratios))


@torch.no_grad()
def fit_distances(inputs: Float[Tensor, " p"], features: Float[Tensor, " p"]) -> DistanceFit:
    """Compare two lists of distances of the same pairs.

    Args:
        inputs: D, such as `pair_distances` or geodesic ones; not negative.
        features: d; not negative.

    Raises:
        TypeError: not floating point.
        ValueError: NaN, no pair, or lists of unlike length.
    """
    for name, distances in (("inputs", inputs), ("features", features)):
        check_floating(name, distances, "p")
        check_finite(name, distances)
    if inputs.shape != features.shape or not len(inputs):
        raise ValueError(
            f"`inputs` and `features` must hold distances of the same pairs, got {len(inputs)} and "
            f"{len(features)}: one entry per pair, at least one."
        )
    wide, found = inputs.double(), features.double()
    ratios = (found / wide)[wide > 0]
    levels = torch.tensor(LEVELS, dtype=ratios.dtype, device=ratios.device)
    return DistanceFit(
        pearson=_correlation(wide, found),
        spearman=_correlation(_ranks(wide), _ranks(found)),
        stress=Stress()(wide, found).sqrt().item(),
        ratios=tuple(quantiles(ratios, levels).tolist()),
    )


@torch.no_grad()
def diagnose(
    inputs: Float[Tensor, "n *shape"],
    features: Float[Tensor, "n *features"],
    labels: Int[Tensor, " n"],
    *,
    pairs: WithinClass = _WITHIN_CLASS,
    metric: Metric = _EUCLIDEAN,
    feature_metric: Metric = _EUCLIDEAN,
    generator: torch.Generator | None = None,
) -> Diagnosis:
    """Say how well distances within classes were kept, and how far classes are apart.

    Args:
        inputs: rows of any shape, flattened.
        features: of the same rows.
        labels: class numbers; rows with a negative one are not looked at.
        pairs: every pair, or `WithinClass(per_sample=k)` for k n of them within, and as many
            drawn for those between classes.
        metric: of inputs.
        feature_metric: of features.
        generator: draws pairs.

    Raises:
        TypeError: inputs or features are not floating point.
        ValueError: NaN or infinite entries, sizes that do not fit, or no class with two rows.
    """
    rows = {"inputs": flat_rows("inputs", inputs), "features": flat_rows("features", features)}
    check_one_batch(len(inputs), len(features))
    check_one_batch(len(inputs), len(labels))
    within = pairs(len(labels), labels, generator, inputs.device).rows
    if not within.shape[1]:
        raise ValueError(
            "`labels` must have a class with two rows, got none: there is no pair to look at."
        )
    every = AllPairs(pairs.per_sample)(len(labels), None, generator, inputs.device).rows
    first, second = labels[every]
    between = every[:, (first != second) & (first >= 0) & (second >= 0)]
    metrics = {"inputs": metric, "features": feature_metric}
    inside, separation = {}, {}
    for name, points in rows.items():
        inside[name] = checked_distances(points, within, metrics[name])
        across = checked_distances(points, between, metrics[name])
        separation[name] = (across.double().mean() / inside[name].double().mean()).item()
    own = labels[within[0]]
    return Diagnosis(
        classes={
            int(label): fit_distances(*(part[own == label] for part in inside.values()))
            for label in own.unique()
        },
        pooled=fit_distances(*inside.values()),
        separation=separation["features"],
        input_separation=separation["inputs"],
    )


def layer_profile(
    model: nn.Module,
    layers: Iterable[str],
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, " n"],
    *,
    read: Callable[[Any], Float[Tensor, "n d"]] | None = None,
    **options: Any,
) -> dict[str, Diagnosis]:
    """Return the diagnosis of each layer's output, from one call of the model.

    Args:
        model: is called with the inputs, in the mode that it is in: `eval()` it first.
        layers: names as in `model.named_modules()`, "" for the model's own output.
        inputs: the rows to look at.
        labels: of these rows.
        read: makes rows (n, d) of what a layer returns, as in `IsometryRegularizer`.
        options: those of `diagnose`.
    """
    capture = Capture(model, layers, read)
    try:
        with torch.enable_grad():  # what runs without is not captured
            model(inputs)
        found = capture.features()
    finally:
        capture.close()
    return {
        name: diagnose(inputs, rows.detach(), labels, **options) for name, rows in found.items()
    }


def local_lipschitz(
    function: Callable[[Float[Tensor, "n *shape"]], Float[Tensor, "n *features"]],
    inputs: Float[Tensor, "n *shape"],
    *,
    steps: int = 20,
    generator: torch.Generator,
) -> Float[Tensor, " n"]:
    """Estimate how much a function stretches at each input: the largest singular value of J.

    Power iteration on J'J, by one forward and one backward derivative a step, for all rows at
    once. The estimate grows with the steps and never exceeds the true value, which itself holds
    at this point alone: no bound on what happens nearby.

    Args:
        function: of each row by itself; a module in evaluation mode.
        inputs: where.
        steps: of the iteration; at least 1.
        generator: draws the first directions.

    Raises:
        ValueError: `steps` below 1, or not one row out per row in.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}: take 20.")
    inputs = at_least_float32(inputs.detach())
    draw = torch.randn(inputs.shape, generator=generator, device=generator.device)
    direction = draw.to(inputs)
    image, pull, *_ = torch.func.vjp(function, inputs)
    check_one_batch(len(inputs), len(image))
    stretch = inputs.new_zeros(len(inputs))
    for step in range(steps):
        moved = torch.func.jvp(function, (inputs,), (_unit(direction),))[1]
        stretch = moved.detach().flatten(1).norm(dim=1)
        if step < steps - 1:
            (direction,) = pull(moved)
    return stretch


def lipschitz_profile(
    model: nn.Module,
    layers: Iterable[str],
    inputs: Float[Tensor, "n *shape"],
    *,
    read: Callable[[Any], Float[Tensor, "n d"]] | None = None,
    steps: int = 20,
    generator: torch.Generator,
) -> dict[str, Float[Tensor, " n"]]:
    """Return `local_lipschitz` of the map from the inputs to each layer's output."""
    found = {}
    for name in list(layers):
        capture = Capture(model, [name], read)

        def upto(rows: Tensor, capture: Capture = capture, name: str = name) -> Tensor:
            model(rows)
            return capture.features()[name]

        try:
            found[name] = local_lipschitz(upto, inputs, steps=steps, generator=generator)
        finally:
            capture.close()
    return found


def boundary_distance(
    model: Callable[[Float[Tensor, "n *shape"]], Float[Tensor, "n c"]],
    inputs: Float[Tensor, "n *shape"],
) -> Float[Tensor, " n"]:
    """Estimate how far each input is from where another class wins, to first order.

    The least over classes of (z_own - z_c) / |gradient of (z_own - z_c)|: exact for a linear
    model.

    Args:
        model: inputs to logits, of each row by itself; in evaluation mode.
        inputs: where.
    """
    inputs = at_least_float32(inputs.detach()).requires_grad_()
    with torch.enable_grad():
        logits = model(inputs)
        own = logits.argmax(1, keepdim=True)
        gaps = logits.gather(1, own) - logits
        least = torch.full_like(gaps[:, 0], torch.inf).detach()
        for c in range(gaps.shape[1]):
            (slope,) = torch.autograd.grad(gaps[:, c].sum(), inputs, retain_graph=True)
            away = gaps[:, c].detach() / slope.flatten(1).norm(dim=1)
            least = torch.where(own[:, 0] == c, least, torch.minimum(least, away))
    return least


def quantiles(values: Float[Tensor, " p"], levels: Float[Tensor, " q"]) -> Float[Tensor, " q"]:
    """Return what `values.quantile(levels)` does, which stops at 2^24 values; NaN for none."""
    if not len(values):
        return torch.full_like(levels, torch.nan)
    ordered = values.sort().values
    place = levels * (len(values) - 1)
    below = place.floor().long()
    return torch.lerp(ordered[below], ordered[place.ceil().long()], place - below)


def _correlation(x: Float[Tensor, " p"], y: Float[Tensor, " p"]) -> float:
    return torch.corrcoef(torch.stack([x, y]))[0, 1].item() if len(x) > 1 else torch.nan


def _ranks(values: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Return ranks from one on; equal values share the middle of theirs."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2)[place].to(values)


def _unit(direction: Tensor) -> Tensor:
    norm = direction.flatten(1).norm(dim=1)
    return direction / torch.where(norm > 0, norm, 1.0).reshape(-1, *[1] * (direction.ndim - 1))

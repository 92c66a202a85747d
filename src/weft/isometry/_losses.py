"""How far features are from keeping the distances of the inputs.

Pairs are chosen, distances of inputs and of features are taken on them, and a discrepancy compares
the two. Knows tensors only.
"""

from enum import Enum
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import check_finite, check_floating
from weft.isometry._discrepancies import Discrepancy, Stress
from weft.isometry._distances import (
    Euclidean,
    Metric,
    check_pairs,
    checked_distances,
    flat_rows,
)
from weft.isometry._pairs import Pairs, WithinClass


class Reduction(Enum):
    """What the discrepancy of the chosen pairs stands for."""

    PAIRS = "pairs"
    """The chosen pairs: a squared error is a mean over pairs."""
    MATRIX = "matrix"
    """The batch x batch matrix of the paper: the value for pairs, times the share of the matrix's
    entries that belong to pairs. A squared error is then the sum over ordered pairs / n^2."""


class Target(NamedTuple):
    """What features are compared with.

    Args:
        pairs: which rows.
        distances: of the inputs, one per pair.
        factor: what the reduction multiplies with.
    """

    pairs: Int[Tensor, "2 p"]
    distances: Float[Tensor, " p"]
    factor: float


_STRESS, _WITHIN_CLASS, _EUCLIDEAN = Stress(), WithinClass(), Euclidean()


def isometry_loss(
    inputs: Float[Tensor, "n *shape"] | None,
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"] | None = None,
    *,
    discrepancy: Discrepancy = _STRESS,
    pairs: Pairs | Int[Tensor, "2 p"] = _WITHIN_CLASS,
    metric: Metric = _EUCLIDEAN,
    feature_metric: Metric = _EUCLIDEAN,
    distances: Float[Tensor, " p"] | None = None,
    reduction: Reduction = Reduction.PAIRS,
    differentiate_inputs: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Return how far the features are from keeping the distances of the inputs.

    Differentiable to any order in the features, and in the inputs if so asked, as far as metric and
    discrepancy are: the defaults are, also where rows are equal.

    The paper's loss is `beta * isometry_loss(..., discrepancy=SquaredError(scale=K),
    reduction=Reduction.MATRIX)`.

    Args:
        inputs: rows of any shape, flattened; `None` if `distances` are given.
        features: what is regularised; rows of any shape, flattened.
        labels: class numbers; rows with a negative label take part in no pair within a class.
        discrepancy: compares the two distances.
        pairs: `WithinClass()`, `AllPairs()`, or the pairs themselves, which are taken as they are.
        metric: of inputs.
        feature_metric: of features.
        distances: of inputs, one per given pair, in place of those that `metric` would compute:
            geodesic ones, for example.
        reduction: what the number stands for.
        differentiate_inputs: let gradients into the inputs through their distances too.
        generator: for rules that draw pairs.

    Returns:
        A number with the dtype of the features, float32 for half precision, also inside autocast.
        Zero, with gradient zero, where there is no pair.

    Raises:
        TypeError: inputs or features are not floating point, labels are no class numbers.
        ValueError: NaN or infinite entries, or sizes that do not fit.

    Source: Beshkov, Verhellen, Lepperød, arXiv 2211.01236, whose paper has the squared error; the
        other discrepancies, the sampling and the mean over pairs are ours.
    """
    features = flat_rows("features", features)
    if distances is None:
        if inputs is None:
            raise ValueError(
                "`inputs` are needed, got None: pass them, or `distances` for given `pairs`."
            )
        if not differentiate_inputs:
            inputs = inputs.detach()
        target = choose_target(inputs, labels, pairs, metric, reduction, generator)
        check_one_batch(len(inputs), len(features))
    else:
        target = given_target(distances, pairs, len(features), reduction)
        if not differentiate_inputs:
            target = target._replace(distances=target.distances.detach())
    return compare(target, features, discrepancy, feature_metric)


def choose_target(
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, " n"] | None,
    pairs: Pairs | Int[Tensor, "2 p"],
    metric: Metric,
    reduction: Reduction,
    generator: torch.Generator | None,
) -> Target:
    """Choose the pairs and take the distances of the inputs on them."""
    inputs = flat_rows("inputs", inputs)
    if labels is not None:
        _check_labels(labels, len(inputs))
    if isinstance(pairs, Tensor):
        check_pairs(pairs, len(inputs))
        rows, population = pairs, pairs.shape[1]
    else:
        rows, population = pairs(len(inputs), labels, generator, inputs.device)
    distances = checked_distances(inputs, rows, metric)
    return Target(rows, distances, _factor(reduction, population, len(inputs)))


def compare(
    target: Target, features: Float[Tensor, "n d"], discrepancy: Discrepancy, metric: Metric
) -> Float[Tensor, ""]:
    """Compare the features' distances with the target."""
    found = checked_distances(features, target.pairs, metric)
    if not len(found):
        return found.sum()  # zero, and part of the graph, so that backward works
    with torch.autocast(found.device.type, enabled=False):
        return target.factor * discrepancy(target.distances.to(found.dtype), found)


def check_one_batch(num_inputs: int, num_features: int) -> None:
    """Refuse features that cannot be those of the inputs."""
    if num_inputs != num_features:
        raise ValueError(
            f"`inputs` and `features` must be of one batch, got {num_inputs} and {num_features} "
            "rows: pass the inputs that the features were computed from."
        )


def given_target(
    distances: Tensor, pairs: Pairs | Tensor, num_rows: int, reduction: Reduction
) -> Target:
    if not isinstance(pairs, Tensor):
        raise ValueError(
            f"`distances` belong to pairs that are given, got pairs={pairs}: pass the pairs as a "
            "tensor of shape (2, p)."
        )
    check_pairs(pairs, num_rows)
    check_floating("distances", distances, "p")
    check_finite("distances", distances.detach())
    if len(distances) != pairs.shape[1]:
        raise ValueError(
            f"`distances` must have one entry for each of {pairs.shape[1]} pairs, got "
            f"{len(distances)}: take both from the same call."
        )
    return Target(pairs, distances, _factor(reduction, pairs.shape[1], num_rows))


def _factor(reduction: Reduction, population: int, num_rows: int) -> float:
    return 1.0 if reduction is Reduction.PAIRS else 2 * population / max(1, num_rows) ** 2


def _check_labels(labels: Tensor, num_rows: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        came = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"`labels` must be a tensor of class numbers, got {came}: call .long().")
    if labels.shape != (num_rows,):
        raise ValueError(
            f"`labels` must have one entry for each of {num_rows} rows, got shape "
            f"{tuple(labels.shape)}: pass the labels of this batch, -1 where there is none."
        )

"""Isometry at any layers of a model: a term to be added to any loss."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft._check import at_least_float32
from weft.isometry._capture import Capture
from weft.isometry._discrepancies import Discrepancy, Stress
from weft.isometry._distances import Euclidean, Metric
from weft.isometry._losses import Reduction, choose_target, compare, given_target
from weft.isometry._pairs import Pairs, WithinClass

Weight = float | Callable[[int], float]
"""The weight of a layer's loss: a number, or a function of the training step, from 0 on."""

_STRESS, _WITHIN_CLASS, _EUCLIDEAN = Stress(), WithinClass(), Euclidean()


@dataclass(frozen=True)
class WarmUp:
    """A weight that grows in equal parts over the first steps.

    Args:
        weight: in the end; not negative.
        steps: how many until then; at least 1.
    """

    weight: float
    steps: int

    def __post_init__(self) -> None:
        _check_weight("weight", self.weight)
        if self.steps < 1:
            raise ValueError(
                f"`steps` must be at least 1, got {self.steps}: without a warm-up, give the number."
            )

    def __call__(self, step: int) -> float:
        """Return the weight in a step."""
        return self.weight * min(1.0, (step + 1) / self.steps)


@dataclass(frozen=True)
class EveryFew:
    """A weight that is zero but in every so many-th step, and then as many times as large.

    On average the same loss, at a fraction of the cost: a step whose weights are all zero draws no
    pair, takes no distance and returns a zero without gradient.

    Args:
        weight: on average; not negative.
        steps: how many there are for each one that counts; at least 1.
    """

    weight: float
    steps: int

    def __post_init__(self) -> None:
        _check_weight("weight", self.weight)
        if self.steps < 1:
            raise ValueError(
                f"`steps` must be at least 1, got {self.steps}: for every step, give the number."
            )

    def __call__(self, step: int) -> float:
        """Return the weight in a step."""
        return 0.0 if step % self.steps else self.weight * self.steps


class IsometryRegularizer:
    """Let layers of a model keep distances of its inputs; to be added to any loss.

        with IsometryRegularizer(model, {"layers.4": 10.0}) as isometry:
            loss = F.cross_entropy(model(inputs), labels) + isometry(labels)

    Each call takes the loss of the model's last call that ran with gradient, and forgets it. All
    layers are compared on the same pairs. What runs without gradient is not looked at: evaluation,
    or the stored anchors of a memory bank. The model computes what it computes without hooks, its
    parameters and `state_dict` are its own, and copies of it (`deepcopy`, pickle) have hooks that
    do nothing. `close()`, or the end of the `with` block, takes the hooks away.

    Layers may change what others returned in place, and parts may be checkpointed with
    `use_reentrant=False`. A layer that runs twice in one call is refused, and so are replicas of
    `DataParallel`; under `DistributedDataParallel`, pairs are those of each process.

    Args:
        model: what is called with inputs as its first argument. Every row must pass the layers
            once: of a `GraphClassifier`, pass the `backbone`, which sees anchors and inputs in one
            batch, and then labels of both.
        layers: names as in `model.named_modules()`, "" for the model's own output, each with its
            weight; names alone have weight 1.
        discrepancy: as in `isometry_loss`, like the next four.
        pairs: `WithinClass(per_sample=...)`, or any other rule.
        metric: of inputs.
        feature_metric: of what layers return.
        reduction: what a loss stands for.
        read: makes rows (n, d) of what a layer returns. By default it must be such; for
            convolutions choose `flattened` or `pooled`, for tuples a function that picks.
        generator: for rules that draw pairs.

    Raises:
        ValueError: a layer that is not there (near names are suggested), or a negative weight.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Weight] | Iterable[str],
        *,
        discrepancy: Discrepancy = _STRESS,
        pairs: Pairs = _WITHIN_CLASS,
        metric: Metric = _EUCLIDEAN,
        feature_metric: Metric = _EUCLIDEAN,
        reduction: Reduction = Reduction.PAIRS,
        read: Callable[[Any], Float[Tensor, "n d"]] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if isinstance(layers, str):
            layers = [layers]
        self.weights = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
        for name, weight in self.weights.items():
            if not callable(weight):
                _check_weight(f"layers[{name!r}]", weight)
        self.discrepancy, self.pairs = discrepancy, pairs
        self.metric, self.feature_metric = metric, feature_metric
        self.reduction, self.generator = reduction, generator
        self._capture = Capture(model, self.weights, read)

    def __call__(
        self,
        labels: Int[Tensor, " n"] | None = None,
        *,
        inputs: Float[Tensor, "n *shape"] | None = None,
        pairs: Int[Tensor, "2 p"] | None = None,
        distances: Float[Tensor, " p"] | None = None,
        step: int | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the layers' losses, times their weights.

        Args:
            labels: of the rows that the model was called with, -1 where there is none.
            inputs: what distances are taken of; by default what the model was called with.
            pairs: in place of those that the rule would choose.
            distances: of given pairs, in place of those that the metric would compute.
            step: of the training, from 0 on, for weights that change.

        Raises:
            ValueError: the model has not been called since, a layer ran twice or not at all, or
                sizes do not fit.
        """
        losses = self.losses(labels, inputs=inputs, pairs=pairs, distances=distances, step=step)
        return torch.stack(list(losses.values())).sum()

    def losses(
        self,
        labels: Int[Tensor, " n"] | None = None,
        *,
        inputs: Float[Tensor, "n *shape"] | None = None,
        pairs: Int[Tensor, "2 p"] | None = None,
        distances: Float[Tensor, " p"] | None = None,
        step: int | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return what a call sums: the loss of each layer, times its weight."""
        weights = {name: _weight(name, weight, step) for name, weight in self.weights.items()}
        features = self._capture.features()
        if not any(weights.values()):
            self._capture.forget()
            return {name: at_least_float32(rows.new_zeros(())) for name, rows in features.items()}
        chosen = self.pairs if pairs is None else pairs
        num_rows = self._capture.num_rows() if inputs is None else len(inputs)
        for name, rows in features.items():
            _check_rows(name, len(rows), num_rows)
        if distances is not None:
            target = given_target(distances.detach(), chosen, num_rows, self.reduction)
        else:
            inputs = self._capture.inputs() if inputs is None else inputs.detach()
            target = choose_target(
                inputs, labels, chosen, self.metric, self.reduction, self.generator
            )
        self._capture.forget()
        return {
            name: weights[name] * compare(target, rows, self.discrepancy, self.feature_metric)
            for name, rows in features.items()
        }

    def close(self) -> None:
        """Take the hooks away; the model is as it was."""
        self._capture.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _weight(name: str, weight: Weight, step: int | None) -> float:
    if not callable(weight):
        return weight
    if step is None:
        raise ValueError(
            f"`step` is needed, got None: the weight of layer `{name}` changes with it; pass the "
            "number of the training step."
        )
    value = weight(step)
    _check_weight(f"layers[{name!r}]({step})", value)
    return value


def _check_weight(name: str, weight: float) -> None:
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"`{name}` must be a number from 0 on, got {weight}: take 1.")


def _check_rows(name: str, num_rows: int, num_inputs: int) -> None:
    if num_rows != num_inputs:
        raise ValueError(
            f"layer `{name}` must see the rows of the inputs, got {num_rows} rows for {num_inputs} "
            "inputs: regularize the part of the model that all rows enter, which is the backbone "
            "of a graph classifier, and pass labels of all: anchors first, then inputs."
        )

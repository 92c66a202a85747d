"""What an attack climbs: functions of (logits, labels), one number per row, larger is worse.

Knows tensors. Each is differentiable in its first argument, piecewise to any order.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import check_finite, check_floating


class Loss(Protocol):
    """Says how wrong each row is; a function, or a frozen object that is called.

    With a surrogate that returns features, the first argument is features.
    """

    def __call__(
        self, logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Return one number per row; an attack makes it large."""
        ...


def cross_entropy(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return minus the log-probability of the label.

    Its gradient vanishes where the prediction is sure of itself: that alone makes a head look
    robust. Never the only loss of an evaluation.
    """
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the largest wrong logit minus the label's: positive where the answer is wrong.

    Source: Carlini, Wagner, S&P 2017, f_6 with its sign turned and no bound.
    """
    return _best_wrong(logits, labels) - _of_label(logits, labels)


def dlr(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the difference of logits ratio: the margin over the first logit minus the third.

    No scale or shift of the logits changes it, so that a saturated head cannot hide behind either.

    Raises:
        ValueError: fewer than three classes.

    Source: Croce, Hein, ICML 2020, equation 6.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"`dlr` must have 3 classes or more, got {logits.shape[1]}: climb `margin` instead."
        )
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, labels) / (first - third + torch.finfo(logits.dtype).tiny ** 0.5)


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """Draws features away from references of their own class, towards the nearest of another.

        log sum_{j: y_j != y} exp(-|z - f_j|^2 / T)  -  log sum_{j: y_j = y} exp(-|z - f_j|^2 / T)

    It needs no gradient of the head, and so sees what a masked head hides. For use with a
    `surrogate` that maps inputs to the same features.

    Args:
        features: the references, such as the anchors' features.
        labels: their classes, two or more; -1 for references to leave out.
        temperature: T in units of the references' mean squared distance to their mean. Small:
            only the nearest count.
    """

    features: Float[Tensor, "m d"]
    labels: Int[Tensor, " m"]
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_floating("features", self.features, "m d")
        check_finite("features", self.features)
        if self.labels.shape != self.features.shape[:1]:
            raise ValueError(
                f"`labels` must have one class per reference ({len(self.features)}), got shape "
                f"{tuple(self.labels.shape)}: the two must go together."
            )
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}.")

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of features, which come in the place of logits."""
        known = self.labels >= 0
        references, classes = self.features[known].to(logits), self.labels[known].to(labels)
        spread = references.var(0, unbiased=False).sum()
        squared = (logits[:, None] - references).square().sum(2)
        closeness = -squared / (self.temperature * torch.where(spread > 0, spread, 1.0))
        own = classes == labels[:, None]
        if not (own.any(1) & (~own).any(1)).all():
            raise ValueError(
                "`labels` of the references must name every class that is attacked, and one more; "
                f"got {classes.unique().tolist()}: add references of the others."
            )
        away = closeness.masked_fill(own, -torch.inf).logsumexp(1)
        return away - closeness.masked_fill(~own, -torch.inf).logsumexp(1)


def name_of(loss: Loss) -> str:
    """Return the name of a loss, for tables."""
    return getattr(loss, "__name__", type(loss).__name__)


def _of_label(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None]).squeeze(1)


def _best_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1)

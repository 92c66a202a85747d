"""How far each class may be pushed, and which way: signed bounds s_c epsilon_c.

A positive bound raises the loss of a class (the model tries harder on it), a negative one lowers
it. Bounds are functions of class counts and mean confidences; class ids play no part.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from weft._check import WeftWarning

SAFE_HEAD_BOUND = -4.0
"""Below this, the accuracy on classes pushed down was seen to fall steeply."""


class Bounds(Protocol):
    """Maps what is known of the classes to signed bounds; a frozen object, callable."""

    adaptive: ClassVar[bool]
    """Whether the bounds follow the confidence, and so change with every batch."""

    def __call__(
        self, counts: Float[Tensor, " c"], confidence: Float[Tensor, " c"]
    ) -> Float[Tensor, " c"]:
        """Return s_c epsilon_c; zero for classes without counts or, if read, confidence."""
        ...


@dataclass(frozen=True)
class BySize:
    """Large classes are pushed down, small ones up; the further from the split, the more.

    With classes in order of size, the largest round(head_share * classes) are the head:

        head:  -head_scale (epsilon + delta_epsilon n_c / n_max)
        tail:               epsilon + delta_epsilon n_min / n_c

    Classes of equal size get equal bounds: those that straddle the split go where their mean
    rank lies. Classes without samples have no rank, and bound zero.

    Args:
        epsilon: the part of the bound that all classes share, in logits.
        delta_epsilon: the part that grows away from the split, in logits. Choose by validation,
            from 1, 2, 4, 8; the more unequal the classes, the more; 1 on top of logit adjustment.
        head_scale: strength on the head, relative to the tail; 0 leaves the head alone.
        head_share: share of the classes in the head.

    Source: Li, Su, Wu, Zhang, arXiv 2209.05668, the long-tail split and bounds, on counts as in
        their released code; `head_scale` is ours, ties too.
    """

    epsilon: float = 0.0
    delta_epsilon: float = 1.0
    head_scale: float = 0.6
    head_share: float = 0.4
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta_epsilon", "head_scale"):
            _check_not_negative(name, getattr(self, name))
        if not 0 <= self.head_share <= 1:
            raise ValueError(
                f"`head_share` must be a share of classes in [0, 1], got {self.head_share}."
            )

    def __call__(self, counts: Float[Tensor, " c"], confidence: Float[Tensor, " c"]) -> Tensor:
        """Return s_c epsilon_c from the counts."""
        present = counts > 0
        own = counts[present]
        largest_first = own.sort(descending=True).values
        ascending = largest_first.flip(0).contiguous()
        smaller = torch.searchsorted(ascending, own)
        not_larger = torch.searchsorted(ascending, own, right=True)
        rank = len(own) - (smaller + not_larger - 1) / 2  # 1 = largest; ties share the mean
        head = rank <= round(self.head_share * len(own))
        towards = torch.where(head, own / largest_first[0], largest_first[-1] / own)
        size = self.epsilon + self.delta_epsilon * towards
        bounds = torch.zeros_like(counts)
        bounds[present] = torch.where(head, -self.head_scale * size, size)
        return bounds


@dataclass(frozen=True)
class ByConfidence:
    """Classes that the model is less sure of than average are pushed up, the others down.

        s_c = sign(threshold - q_c)    epsilon_c = epsilon + delta_epsilon |threshold - q_c|

    with q_c the mean confidence of class c, and the mean of q over the classes that have one as
    threshold. Absent classes do not count there, and have bound zero. Needs no counts.

    Args:
        epsilon: the part of the bound that all classes share, in logits.
        delta_epsilon: the part that grows with the distance from the threshold, in logits.
        threshold: a fixed one in [0, 1] instead of the mean.

    Source: Li, Su, Wu, Zhang, arXiv 2209.05668, the split and bounds for balanced classes. Their
        released code counts absent classes as confidence zero, which with many classes makes
        nearly all of them negative.
    """

    epsilon: float = 1.0
    delta_epsilon: float = 0.0
    threshold: float | None = None
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_not_negative("epsilon", self.epsilon)
        _check_not_negative("delta_epsilon", self.delta_epsilon)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(
                f"`threshold` must be a confidence in [0, 1], got {self.threshold}: "
                "None takes the mean."
            )
        warn_of_collapse(-self.epsilon)

    def __call__(self, counts: Float[Tensor, " c"], confidence: Float[Tensor, " c"]) -> Tensor:
        """Return s_c epsilon_c from the confidences."""
        threshold = confidence.nanmean() if self.threshold is None else self.threshold
        gap = threshold - confidence
        gap = torch.where(gap.abs() > 1e-6, gap, 0.0)  # rounding takes no side; nor does NaN
        return gap.sign() * self.epsilon + self.delta_epsilon * gap


def warn_of_collapse(least: float) -> None:
    """Warn if the most negative signed bound can take large classes away."""
    if least < SAFE_HEAD_BOUND:
        warnings.warn(
            f"Signed bounds must stay above {SAFE_HEAD_BOUND:g} for the classes pushed down, got "
            f"{least:.3g}: accuracy on them collapses beyond; lower `head_scale` or `epsilon`.",
            WeftWarning,
            stacklevel=4,
        )


def _check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(
            f"`{name}` must be finite and not negative, got {value}: the sign comes from the split."
        )

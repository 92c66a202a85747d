"""Learned logit perturbation for labels that may hold together."""

from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor

from weft.logits._bounds import Bounds, BySize
from weft.logits._class_level import Bounded
from weft.logits._multilabel import check_labels
from weft.logits._stats import ClassStats, sum_over_processes

_TAIL_ONLY = BySize(epsilon=2.0, delta_epsilon=0.0, head_scale=0.0)


class Polarity(Enum):
    """Which logits of a label `MultiLabelLPL` shifts: by which factors of the signed bound.

    The two numbers are those of positives and negatives. A lower logit raises the loss of
    positives and lowers that of negatives.
    """

    SHARED = (-1.0, -1.0)
    """One shift: a label pushed up has its positives' loss raised, its negatives' lowered."""
    POSITIVES = (-1.0, 0.0)
    """Positives alone."""
    NEGATIVES = (0.0, -1.0)
    """Negatives alone, their loss lowered where the label is pushed up."""
    MARGIN = (-1.0, 1.0)
    """A margin on both sides: both losses raised where the label is pushed up."""


class MultiLabelLPL(Bounded):
    """Learned logit perturbation for labels: one shift per label and polarity.

    A shift is one number, so normalised steps of any count end at the bound: the best shift is
    plus or minus epsilon_c, in closed form, and with `Polarity.SHARED` and bounds by size a
    prior shift of another shape. With `normalize=False` it is learned: `steps` steps along the
    mean gradient of the binary cross-entropy, each at most epsilon_c / steps long,

        delta_c <- delta_c + direction_c (epsilon_c / steps) mean |sigma(u_ic + delta_c) - y_ic|

    over the label's positives or negatives in the batch (of all processes), which fade as the
    training fits. A constant for the gradient. Bounds by confidence read the mean probability of
    positives; labels without positives in the batch are left alone then.

    Args:
        stats: the labels; held, so that it is in `state_dict`.
        bounds: which labels, how far.
        polarity: which of their logits.
        steps: of the unnormalised search.
        normalize: full shifts. With False, shared shifts become two, one for each polarity.

    Raises:
        ValueError: `steps` is below one.

    Source: our reading of Li, Su, Wu, Zhang, arXiv 2209.05668, for labels, from its single-label
        equations and the gradient of the binary cross-entropy; checked against no released code.
    """

    def __init__(
        self,
        stats: ClassStats,
        bounds: Bounds = _TAIL_ONLY,
        *,
        polarity: Polarity = Polarity.SHARED,
        steps: int = 1,
        normalize: bool = True,
    ) -> None:
        super().__init__(stats, bounds)
        if not steps >= 1:
            raise ValueError(f"`steps` must be at least 1, got {steps}: epsilon 0 switches off.")
        self.polarity, self.steps, self.normalize = polarity, steps, normalize

    def forward(
        self, logits: Float[Tensor, "n c"], targets: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_labels(logits, targets, self.stats)
        targets = targets.detach().to(logits.dtype)
        return logits + self._shifts(logits.detach(), targets)

    @torch.no_grad()
    def _shifts(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the shift of each logit."""
        probabilities = logits.sigmoid() if self.bounds.adaptive else None
        signed = self.signed_bounds(probabilities, targets).to(logits.dtype)
        furthest = logits.new_tensor(self.polarity.value)[:, None] * signed
        if self.normalize:
            return _by_polarity(furthest, targets)
        both = torch.stack([targets, 1 - targets])  # what is shifted alike: positives, negatives
        mass = sum_over_processes(both.sum(1)).clamp_min(torch.finfo(logits.dtype).tiny)
        deltas = torch.zeros_like(furthest)
        for _ in range(self.steps):
            shifted = logits + _by_polarity(deltas, targets)
            errors = (shifted.sigmoid() - targets).abs()
            deltas += furthest / self.steps * sum_over_processes((both * errors).sum(1)) / mass
        return _by_polarity(deltas, targets)

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return (
            f"bounds={self.bounds}, polarity={self.polarity}, steps={self.steps}, "
            f"normalize={self.normalize}"
        )


def _by_polarity(deltas: Float[Tensor, "2 c"], targets: Float[Tensor, "n c"]) -> Tensor:
    """Give positives the first shift of their label and negatives the second, in one pass."""
    positives, negatives = deltas
    return torch.lerp(negatives, positives, targets)

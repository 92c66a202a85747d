"""Perturbations for labels that may hold together: each label is a question of its own.

Targets are rows of zeros and ones; the loss is `F.binary_cross_entropy_with_logits` or one of its
kind. There a shift is one number per label, or one for its positives and one for its negatives.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.logits._adjust import check_finite_number
from weft.logits._batch import check_logits, check_rows
from weft.logits._stats import ClassStats


def _check_both_answers(stats: ClassStats) -> None:
    """Refuse labels that all samples have, or none: their log-odds are infinite."""
    stats.check_no_empty_class("the log-odds of its label")
    if (stats.priors >= 1).any():
        full = int((stats.priors >= 1).nonzero()[0])
        raise ValueError(
            f"`num_samples` must exceed each count for its log-odds, got label {full} on all "
            f"{stats.num_samples.item():g} samples: give num_samples to ClassStats, or leave the "
            "label out."
        )


def check_labels(logits: Tensor, targets: Tensor, stats: ClassStats) -> Tensor:
    """Check logits with rows of labels; return the logits in float32 at least."""
    logits = check_logits(logits, stats.num_classes)
    check_rows(logits, targets)
    return logits


class PriorShift(nn.Module):
    """Add each label's log-odds, times a strength, to its logits in training.

        u'_ic = u_ic + strength log(pi_c / (1 - pi_c))

    Logit adjustment for labels. The order of samples under one label does not change, so average
    precision moves only by what the features learn; thresholded scores move at once.
    Differentiable to any order.

    Args:
        stats: the labels, with `num_samples`; each on some samples, none on all.
        strength: 1 is the prior's own.

    Raises:
        ValueError: a label has no positives or no negatives.

    Source: the balanced binary cross-entropy of Xu et al., LiVT, CVPR 2023, arXiv 2212.02015.
    """

    def __init__(self, stats: ClassStats, strength: float = 1.0) -> None:
        super().__init__()
        check_finite_number("strength", strength)
        _check_both_answers(stats)
        self.stats, self.strength = stats, strength

    def forward(
        self, logits: Float[Tensor, "n c"], targets: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_labels(logits, targets, self.stats)
        return logits + self._offsets(logits)

    def post_hoc(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Return logits of a model trained without the shift, shifted the other way to predict."""
        logits = check_logits(logits, self.stats.num_classes)
        return logits - self._offsets(logits)

    def _offsets(self, logits: Tensor) -> Tensor:
        return (self.strength * self.stats.priors.logit()).to(logits.dtype)

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return f"strength={self.strength}"


class NegativeTolerance(nn.Module):
    """Shift by a part of the log-odds, and let confident negatives be (NTR).

        z_ic = u_ic + kappa log(pi_c / (1 - pi_c)) / slope;    u' = z for positives, slope z for
        negatives, which then weigh 1 / slope

    so a loss is `F.binary_cross_entropy_with_logits(ntr(logits, y), y, weight=ntr.weights(y))`.
    With `rebalanced_weights` as a factor of the weight it is the distribution-balanced loss. At
    slope 1, kappa 1 it is `PriorShift`. Differentiable to any order in the logits.

    Args:
        stats: the labels, with `num_samples`.
        slope: of the negatives' logits: 2 on COCO-MLT, 5 on VOC-MLT.
        kappa: strength of the shift.

    Raises:
        ValueError: a label has no positives or no negatives, or `slope` is not positive.

    Source: Wu et al., distribution-balanced loss, ECCV 2020, arXiv 2007.09654, equation 8.
    """

    def __init__(self, stats: ClassStats, slope: float = 2.0, kappa: float = 0.05) -> None:
        super().__init__()
        if not 0 < slope < torch.inf:
            raise ValueError(f"`slope` must be positive, got {slope}: 1 treats negatives alike.")
        check_finite_number("kappa", kappa)
        _check_both_answers(stats)
        self.stats, self.slope, self.kappa = stats, slope, kappa

    def forward(
        self, logits: Float[Tensor, "n c"], targets: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_labels(logits, targets, self.stats)
        offsets = self.kappa / self.slope * self.stats.priors.logit()
        slopes = targets + self.slope * (1 - targets)
        return (logits + offsets.to(logits.dtype)) * slopes

    def weights(self, targets: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Return the weights of the loss: 1 for positives, 1 / slope for negatives."""
        return targets + (1 - targets) / self.slope

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return f"slope={self.slope}, kappa={self.kappa}"

"""Losses and weights that go with the perturbations: focal, asymmetric; weights from counts.

Computed from logarithms of probabilities, in float32 at least: nothing overflows, and no badly
misjudged sample loses its gradient.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import at_least_float32
from weft.logits._batch import check_batch, check_rows
from weft.logits._stats import ClassStats


def focal_loss(
    logits: Float[Tensor, "n c"],
    targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    *,
    gamma: float = 2.0,
    reduction: str = "mean",
) -> Float[Tensor, "*out"]:
    """Cross-entropy that counts a sample by (1 - p_y)^gamma: easy samples fade.

    Differentiable; to any order while no class is certain. For labels, use `asymmetric_loss` with
    equal gammas and no clip.

    Args:
        logits: perturbed or not.
        targets: class ids, or shares of them.
        gamma: not negative; at 0 it is the cross-entropy.
        reduction: "mean" over samples, "sum" or "none".

    Raises:
        ValueError: `gamma` is negative, or targets do not fit.

    Source: Lin et al., ICCV 2017, arXiv 1708.02002, with softmax.
    """
    _check_gamma("gamma", gamma)
    logits = check_batch(logits, targets, logits.shape[-1])
    log_right = logits.log_softmax(1)
    if targets.ndim == 1:
        log_right = log_right.gather(1, targets[:, None])
    miss = (-log_right.expm1()).clamp_min(torch.finfo(logits.dtype).tiny)
    losses = -(miss**gamma) * log_right
    shares = targets if targets.ndim == 2 else 1.0
    return _reduced((shares * losses).sum(1), reduction)


def asymmetric_loss(
    logits: Float[Tensor, "n c"],
    targets: Float[Tensor, "n c"],
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    reduction: str = "mean",
) -> Float[Tensor, "*out"]:
    """Binary cross-entropy whose easy positives and, more, easy negatives fade (ASL).

        positives: -(1 - p)^gamma_pos log p
        negatives: -q^gamma_neg log(1 - q),    q = max(p - clip, 0)

    With gammas and clip zero it is the binary cross-entropy; with equal gammas and no clip the
    focal loss. Differentiable, weights included.

    Args:
        logits: perturbed or not.
        targets: rows of labels, zeros and ones.
        gamma_pos: not negative.
        gamma_neg: not negative.
        clip: in [0, 1); negatives with a probability below it do not count, and none costs more
            than -log clip.
        reduction: "mean" over samples and labels, "sum" (as published) or "none".

    Raises:
        ValueError: a setting is out of range, or targets do not fit.

    Source: Ridnik et al., ICCV 2021, arXiv 2009.14119, equations 4 to 7. There a small number is
        added inside the logarithm, which is zero in half precision.
    """
    _check_gamma("gamma_pos", gamma_pos)
    _check_gamma("gamma_neg", gamma_neg)
    if not 0 <= clip < 1:
        raise ValueError(f"`clip` must be a probability in [0, 1), got {clip}: 0 clips nothing.")
    check_rows(logits, targets)
    logits = at_least_float32(logits)
    log_hit, log_miss = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = (gamma_pos * log_miss).exp() * log_hit
    if clip:
        tiny = torch.finfo(logits.dtype).tiny
        weight = (log_hit.exp() - clip).clamp_min(tiny) ** gamma_neg
        negative = weight * (log_miss.exp() + clip).clamp_max(1).log()
    else:
        negative = (gamma_neg * log_hit).exp() * log_miss
    return _reduced(-(targets * positive + (1 - targets) * negative), reduction)


def class_balanced_weights(stats: ClassStats, beta: float = 0.9999) -> Float[Tensor, " c"]:
    """Return class weights (1 - beta) / (1 - beta^n_c), with mean one over the classes present.

    For `F.cross_entropy(..., weight=)`, from the start or deferred to the last epochs. Zero for
    classes without samples; beta 0 weighs all alike, near 1 by 1 / n_c.

    Raises:
        ValueError: `beta` is not in [0, 1).

    Source: Cui et al., CVPR 2019, arXiv 1901.05555; deferred: Cao et al., arXiv 1906.07413.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must lie in [0, 1), got {beta}: 0.9999 is near 1 / count.")
    counts = stats.counts
    seen = 1 - beta**counts
    weights = torch.where(counts > 0, 1 / seen, 0.0)
    return weights * (counts > 0).sum() / weights.sum()


def rebalanced_weights(
    stats: ClassStats,
    targets: Float[Tensor, "n c"],
    *,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.3,
) -> Float[Tensor, "n c"]:
    """Return the weights of a multi-label loss after class-aware sampling (R-BCE).

        alpha + sigmoid(beta (r_ic - mu)),    r_ic = (1 / n_c) / sum_j y_ij / n_j

    A sampler that draws classes evenly shows a sample once for each of its labels; r undoes
    that. A sample without labels has r infinite.

    Args:
        stats: the labels.
        targets: rows of labels, zeros and ones.
        alpha: least weight.
        beta: how sharply weights rise.
        mu: where they do: 0.3 on VOC-MLT, 0.2 on COCO-MLT.

    Raises:
        ValueError: a label has no positives, or targets do not fit.

    Source: Wu et al., distribution-balanced loss, ECCV 2020, arXiv 2007.09654, equations 4 to 6.
    """
    stats.check_no_empty_class("its weight")
    if targets.ndim != 2 or targets.shape[1] != stats.num_classes:
        raise ValueError(
            f"`targets` must be rows of {stats.num_classes} labels, got shape "
            f"{tuple(targets.shape)}: one column for each count."
        )
    rarity = (1 / stats.counts).to(targets.dtype)
    share = rarity / (targets * rarity).sum(1, keepdim=True)
    return alpha + torch.sigmoid(beta * (share - mu))


def _check_gamma(name: str, gamma: float) -> None:
    if not 0 <= gamma < torch.inf:
        raise ValueError(f"`{name}` must be finite and not negative, got {gamma}: 0 fades nothing.")


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"`reduction` must be mean, sum or none, got {reduction!r}.")
    return losses if reduction == "none" else getattr(losses, reduction)()

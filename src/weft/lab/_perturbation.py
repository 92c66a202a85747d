"""The logit perturbations that a recipe may name. Importing this module does not import torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

PerturbationName = Literal[
    "none", "logit_adjustment", "class_margin", "lpl", "logit_adjustment+lpl"
]


def build_perturbation(
    name: PerturbationName, strength: float, labels: "Tensor", num_classes: int
) -> "Callable[[Tensor, Tensor], Tensor]":
    """Return what training does to (logits, labels) before the loss, given all its labels."""
    from weft.logits import LPL, BySize, ClassMargin, ClassStats, Compose, LogitAdjustment

    if name == "none":
        return Compose()
    stats = ClassStats.from_targets(labels, num_classes)
    if name == "logit_adjustment":
        return LogitAdjustment(stats, strength)
    bounds = BySize(delta_epsilon=strength)
    if name == "class_margin":
        return ClassMargin(stats, bounds)
    lpl = LPL(stats, bounds)
    return lpl if name == "lpl" else Compose(LogitAdjustment(stats), lpl)

"""Logit perturbations: shifts of the training logits, by class, fixed or learned."""

from weft.logits._adjust import LogitAdjustment, VectorScaling
from weft.logits._bounds import Bounds, ByConfidence, BySize
from weft.logits._class_level import LPL, ClassMargin
from weft.logits._compose import Compose, Perturbation, loss_variation
from weft.logits._stats import ClassStats

__all__ = [
    "LPL",
    "Bounds",
    "ByConfidence",
    "BySize",
    "ClassMargin",
    "ClassStats",
    "Compose",
    "LogitAdjustment",
    "Perturbation",
    "VectorScaling",
    "loss_variation",
]

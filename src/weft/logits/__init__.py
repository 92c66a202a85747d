"""Logit perturbations: shifts of the training logits, by class, fixed or learned."""

from weft.logits._adjust import LogitAdjustment, VectorScaling
from weft.logits._bounds import Bounds, ByConfidence, BySize
from weft.logits._class_level import LPL, ClassMargin
from weft.logits._compose import Compose, Perturbation, loss_variation
from weft.logits._cosine import LDAM, GaussianCloud
from weft.logits._isda import ISDA
from weft.logits._losses import (
    asymmetric_loss,
    class_balanced_weights,
    focal_loss,
    rebalanced_weights,
)
from weft.logits._multilabel import NegativeTolerance, PriorShift
from weft.logits._multilabel_lpl import MultiLabelLPL, Polarity
from weft.logits._smoothing import LabelSmoothing
from weft.logits._stats import ClassStats

__all__ = [
    "ISDA",
    "LDAM",
    "LPL",
    "Bounds",
    "ByConfidence",
    "BySize",
    "ClassMargin",
    "ClassStats",
    "Compose",
    "GaussianCloud",
    "LabelSmoothing",
    "LogitAdjustment",
    "MultiLabelLPL",
    "NegativeTolerance",
    "Perturbation",
    "Polarity",
    "PriorShift",
    "VectorScaling",
    "asymmetric_loss",
    "class_balanced_weights",
    "focal_loss",
    "loss_variation",
    "rebalanced_weights",
]

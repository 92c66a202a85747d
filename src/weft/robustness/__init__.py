"""Attacks that stay honest for models whose answer to one input depends on the others.

`attack(predict, inputs, labels, ball=, method=, threat=)` is the one entrance; results name the
threat model, and quote the accuracy of a replay. Knows tensors; knows no heads.
"""

from weft.robustness._attack import Result, Threat, attack
from weft.robustness._ball import L2, Ball, LInf
from weft.robustness._gradient import APGD, FGSM, PGD, Method
from weft.robustness._losses import FeatureDistance, Loss, cross_entropy, dlr, margin
from weft.robustness._search import Predict, Scene, Search, View
from weft.robustness._threats import (
    IndependentRows,
    JointBatch,
    NeighboursOnly,
    RandomCompany,
    SwapIn,
    VictimOnly,
)

__all__ = [
    "APGD",
    "FGSM",
    "L2",
    "PGD",
    "Ball",
    "FeatureDistance",
    "IndependentRows",
    "JointBatch",
    "LInf",
    "Loss",
    "Method",
    "NeighboursOnly",
    "Predict",
    "RandomCompany",
    "Result",
    "Scene",
    "Search",
    "SwapIn",
    "Threat",
    "VictimOnly",
    "View",
    "attack",
    "cross_entropy",
    "dlr",
    "margin",
]

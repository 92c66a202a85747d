"""Attacks that stay honest for models whose answer to one input depends on the others.

`attack(predict, inputs, labels, ball=, method=, threat=)` is the one entrance; results name the
threat model, and quote the accuracy of a replay. Knows tensors; knows no heads.
"""

from weft.robustness._attack import Result, Threat, attack
from weft.robustness._auto_attack import AutoAttack
from weft.robustness._ball import L2, Ball, LInf
from weft.robustness._carlini_wagner import CarliniWagner
from weft.robustness._company import NeighboursOnly, RandomCompany, SwapIn, VictimOnly
from weft.robustness._coupling import Coupling, coupling
from weft.robustness._gradient import APGD, FGSM, PGD, Method
from weft.robustness._landscape import Landscape, landscape
from weft.robustness._losses import FeatureDistance, Loss, cross_entropy, dlr, margin
from weft.robustness._masking import Check, Masking, check_masking
from weft.robustness._model_space import Defence, ModelSpace
from weft.robustness._noise import Noise
from weft.robustness._poison import PoisonedAnchors, PoisonedLabels, WithAnchors, poison_labels
from weft.robustness._relay import Relay
from weft.robustness._search import Predict, Scene, Search, UnderAttack, View
from weft.robustness._square import Square
from weft.robustness._threats import IndependentRows, JointBatch
from weft.robustness._worst import Worst, worst_case

__all__ = [
    "APGD",
    "FGSM",
    "L2",
    "PGD",
    "AutoAttack",
    "Ball",
    "CarliniWagner",
    "Check",
    "Coupling",
    "Defence",
    "FeatureDistance",
    "IndependentRows",
    "JointBatch",
    "LInf",
    "Landscape",
    "Loss",
    "Masking",
    "Method",
    "ModelSpace",
    "NeighboursOnly",
    "Noise",
    "PoisonedAnchors",
    "PoisonedLabels",
    "Predict",
    "RandomCompany",
    "Relay",
    "Result",
    "Scene",
    "Search",
    "Square",
    "SwapIn",
    "Threat",
    "UnderAttack",
    "VictimOnly",
    "View",
    "WithAnchors",
    "Worst",
    "attack",
    "check_masking",
    "coupling",
    "cross_entropy",
    "dlr",
    "landscape",
    "margin",
    "poison_labels",
    "worst_case",
]

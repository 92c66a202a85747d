"""Isometric representations: features that keep the distances of the inputs."""

from weft.isometry._capture import flattened, pooled
from weft.isometry._diagnostics import (
    Diagnosis,
    DistanceFit,
    boundary_distance,
    diagnose,
    fit_distances,
    layer_profile,
    lipschitz_profile,
    local_lipschitz,
)
from weft.isometry._discrepancies import Correlation, Discrepancy, Ranking, SquaredError, Stress
from weft.isometry._distances import (
    Euclidean,
    Metric,
    chebyshev,
    cosine,
    manhattan,
    pair_distances,
)
from weft.isometry._losses import Reduction, isometry_loss
from weft.isometry._pairs import AllPairs, Pairs, PairSample, WithinClass
from weft.isometry._perturbation import (
    Contraction,
    Expansion,
    GaussianNoise,
    Perturbation,
    RandomSigns,
    WorstDirection,
    perturbation_loss,
)
from weft.isometry._plots import plot_profile, plot_ratios, plot_shepard
from weft.isometry._regularizer import EveryFew, IsometryRegularizer, WarmUp, Weight
from weft.isometry._stack import LocallyIsometricStack, level_loss, train_levels

__all__ = [
    "AllPairs",
    "Contraction",
    "Correlation",
    "Diagnosis",
    "Discrepancy",
    "DistanceFit",
    "Euclidean",
    "EveryFew",
    "Expansion",
    "GaussianNoise",
    "IsometryRegularizer",
    "LocallyIsometricStack",
    "Metric",
    "PairSample",
    "Pairs",
    "Perturbation",
    "RandomSigns",
    "Ranking",
    "Reduction",
    "SquaredError",
    "Stress",
    "WarmUp",
    "Weight",
    "WithinClass",
    "WorstDirection",
    "boundary_distance",
    "chebyshev",
    "cosine",
    "diagnose",
    "fit_distances",
    "flattened",
    "isometry_loss",
    "layer_profile",
    "level_loss",
    "lipschitz_profile",
    "local_lipschitz",
    "manhattan",
    "pair_distances",
    "perturbation_loss",
    "plot_profile",
    "plot_ratios",
    "plot_shepard",
    "pooled",
    "train_levels",
]

"""Isometric representations: features that keep the distances of the inputs."""

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

__all__ = [
    "AllPairs",
    "Correlation",
    "Discrepancy",
    "Euclidean",
    "Metric",
    "PairSample",
    "Pairs",
    "Ranking",
    "Reduction",
    "SquaredError",
    "Stress",
    "WithinClass",
    "chebyshev",
    "cosine",
    "isometry_loss",
    "manhattan",
    "pair_distances",
]

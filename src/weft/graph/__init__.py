"""Graphs on features, and labels that spread over them, with exact gradients."""

from weft.graph._graph import Graph
from weft.graph._insight import label_weights
from weft.graph._laplace import Unreached, laplace_learning
from weft.graph._linear_solvers import Cholesky, ConjugateGradient, LinearSolver
from weft.graph._neighbors import ExactNeighbors, FaissNeighbors, Neighbors, recall
from weft.graph._normalize import Centering, ClassMass, Normalization
from weft.graph._query import AnchorGraph
from weft.graph._solve import SolveLog, solve_laplacian
from weft.graph._weights import (
    Bandwidth,
    Constant,
    Gaussian,
    Kernel,
    SelfTuned,
    Tapered,
    knn_graph,
)

__all__ = [
    "AnchorGraph",
    "Bandwidth",
    "Centering",
    "Cholesky",
    "ClassMass",
    "ConjugateGradient",
    "Constant",
    "ExactNeighbors",
    "FaissNeighbors",
    "Gaussian",
    "Graph",
    "Kernel",
    "LinearSolver",
    "Neighbors",
    "Normalization",
    "SelfTuned",
    "SolveLog",
    "Tapered",
    "Unreached",
    "knn_graph",
    "label_weights",
    "laplace_learning",
    "recall",
    "solve_laplacian",
]

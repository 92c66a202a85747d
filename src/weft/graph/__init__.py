"""Graphs on features, and labels that spread over them, with exact gradients."""

from weft.graph._acquisition import (
    Acquisition,
    Uncertainty,
    choose_local_maxima,
    choose_sequentially,
    choose_top,
    distance_to_label,
    entropy,
    least_confidence,
    model_change,
    model_change_variance,
    sigma_optimality,
    smallest_margin,
    variance_optimality,
)
from weft.graph._approximate import FaissNeighbors, recall
from weft.graph._centered import CenteredKernel
from weft.graph._convex import ConvexEnergy, PLaplace
from weft.graph._equation import Equation, Problem, Unreached
from weft.graph._fit import Fitted, fit_equation
from weft.graph._geodesic import Geodesics, geodesic_distances
from weft.graph._graph import Graph
from weft.graph._insight import label_weights
from weft.graph._interop import from_dgl, from_networkx, from_pyg, to_networkx
from weft.graph._laplace import Laplace, Laplacian, laplace_learning
from weft.graph._leave_one_out import label_noise, leave_one_out, leave_one_out_weights
from weft.graph._linear_solvers import Cholesky, ConjugateGradient, LinearSolver
from weft.graph._neighbors import ExactNeighbors, Neighbors
from weft.graph._normalize import Centering, ClassMass, Normalization
from weft.graph._paths import NearestLabel, SparsePropagation, gaussian_length
from weft.graph._poisson import Gauge, Poisson
from weft.graph._posterior import LabelPosterior, smallest_eigenvectors
from weft.graph._priors import PoissonMBO, VolumeConstraint
from weft.graph._query import AnchorGraph
from weft.graph._reweight import WNLL, PoissonReweighted, ProperlyWeighted, Reweighting
from weft.graph._solve import SolveLog, solve_laplacian
from weft.graph._sparse_solvers import AlgebraicMultigrid, SparseLU
from weft.graph._spreading import PageRank, Spreading
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
    "WNLL",
    "Acquisition",
    "AlgebraicMultigrid",
    "AnchorGraph",
    "Bandwidth",
    "CenteredKernel",
    "Centering",
    "Cholesky",
    "ClassMass",
    "ConjugateGradient",
    "Constant",
    "ConvexEnergy",
    "Equation",
    "ExactNeighbors",
    "FaissNeighbors",
    "Fitted",
    "Gauge",
    "Gaussian",
    "Geodesics",
    "Graph",
    "Kernel",
    "LabelPosterior",
    "Laplace",
    "Laplacian",
    "LinearSolver",
    "NearestLabel",
    "Neighbors",
    "Normalization",
    "PLaplace",
    "PageRank",
    "Poisson",
    "PoissonMBO",
    "PoissonReweighted",
    "Problem",
    "ProperlyWeighted",
    "Reweighting",
    "SelfTuned",
    "SolveLog",
    "SparseLU",
    "SparsePropagation",
    "Spreading",
    "Tapered",
    "Uncertainty",
    "Unreached",
    "VolumeConstraint",
    "choose_local_maxima",
    "choose_sequentially",
    "choose_top",
    "distance_to_label",
    "entropy",
    "fit_equation",
    "from_dgl",
    "from_networkx",
    "from_pyg",
    "gaussian_length",
    "geodesic_distances",
    "knn_graph",
    "label_noise",
    "label_weights",
    "laplace_learning",
    "least_confidence",
    "leave_one_out",
    "leave_one_out_weights",
    "model_change",
    "model_change_variance",
    "recall",
    "sigma_optimality",
    "smallest_eigenvectors",
    "smallest_margin",
    "solve_laplacian",
    "to_networkx",
    "variance_optimality",
]

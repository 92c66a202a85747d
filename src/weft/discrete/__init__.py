"""Combinatorial solvers as layers: any solver, and any rule to differentiate it."""

from weft.discrete._guards import (
    CostReport,
    GradientReport,
    check_collapse,
    check_loss,
    check_projection,
    compare_gradients,
)
from weft.discrete._imle import IMLE, AdaptiveIMLE
from weft.discrete._layer import solve_discrete
from weft.discrete._losses import (
    average_precision_loss,
    fenchel_young_loss,
    hamming_l1,
    recall_loss,
    spo_plus_loss,
)
from weft.discrete._margins import informed_margin, margin_size, noise_margin
from weft.discrete._noise import Gumbel, Normal, SumOfGamma
from weft.discrete._perturbed import Perturbed, PerturbedMultiplicative
from weft.discrete._problem import Problem, Rule, SolverLog
from weft.discrete._projections import Projection, project_costs
from weft.discrete._relaxations import (
    neural_sort,
    sinkhorn,
    soft_argmin,
    soft_rank,
    soft_sort,
)
from weft.discrete._retrieval import retrieval_loss
from weft.discrete._rules import Blackbox, Identity, StraightThrough
from weft.discrete._solver import FunctionSolver, Solver
from weft.discrete._solvers.assignment import Assignment
from weft.discrete._solvers.cuts import MinimumCut
from weft.discrete._solvers.graph_matching import GraphMatching
from weft.discrete._solvers.grids import GridPath
from weft.discrete._solvers.matchings import PerfectMatching
from weft.discrete._solvers.paths import GraphPath
from weft.discrete._solvers.programs import IntegerProgram, Knapsack
from weft.discrete._solvers.selection import Ranking, TopK
from weft.discrete._solvers.tours import Tour
from weft.discrete._solvers.trees import SpanningTree
from weft.discrete._subsets import soft_top_k, subset_marginals
from weft.discrete._suite import check_solver

__all__ = [
    "IMLE",
    "AdaptiveIMLE",
    "Assignment",
    "Blackbox",
    "CostReport",
    "FunctionSolver",
    "GradientReport",
    "GraphMatching",
    "GraphPath",
    "GridPath",
    "Gumbel",
    "Identity",
    "IntegerProgram",
    "Knapsack",
    "MinimumCut",
    "Normal",
    "PerfectMatching",
    "Perturbed",
    "PerturbedMultiplicative",
    "Problem",
    "Projection",
    "Ranking",
    "Rule",
    "Solver",
    "SolverLog",
    "SpanningTree",
    "StraightThrough",
    "SumOfGamma",
    "TopK",
    "Tour",
    "average_precision_loss",
    "check_collapse",
    "check_loss",
    "check_projection",
    "check_solver",
    "compare_gradients",
    "fenchel_young_loss",
    "hamming_l1",
    "informed_margin",
    "margin_size",
    "neural_sort",
    "noise_margin",
    "project_costs",
    "recall_loss",
    "retrieval_loss",
    "sinkhorn",
    "soft_argmin",
    "soft_rank",
    "soft_sort",
    "soft_top_k",
    "solve_discrete",
    "spo_plus_loss",
    "subset_marginals",
]

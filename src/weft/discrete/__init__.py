"""Combinatorial solvers as layers: any solver, and any rule to differentiate it."""

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
from weft.discrete._problem import Problem, Rule, SolverLog
from weft.discrete._projections import Projection, project_costs
from weft.discrete._rules import Blackbox, Identity
from weft.discrete._solver import FunctionSolver, Solver

__all__ = [
    "Blackbox",
    "FunctionSolver",
    "Gumbel",
    "Identity",
    "Normal",
    "Problem",
    "Projection",
    "Rule",
    "Solver",
    "SolverLog",
    "SumOfGamma",
    "average_precision_loss",
    "fenchel_young_loss",
    "hamming_l1",
    "informed_margin",
    "margin_size",
    "noise_margin",
    "project_costs",
    "recall_loss",
    "solve_discrete",
    "spo_plus_loss",
]

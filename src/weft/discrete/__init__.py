"""Combinatorial solvers as layers: any solver, and any rule to differentiate it."""

from weft.discrete._layer import solve_discrete
from weft.discrete._problem import Problem, Rule, SolverLog
from weft.discrete._projections import Projection, project_costs
from weft.discrete._rules import Blackbox, Identity
from weft.discrete._solver import FunctionSolver, Solver

__all__ = [
    "Blackbox",
    "FunctionSolver",
    "Identity",
    "Problem",
    "Projection",
    "Rule",
    "Solver",
    "SolverLog",
    "project_costs",
    "solve_discrete",
]

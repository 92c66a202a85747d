"""Combinatorial solvers as layers: any solver, and any rule to differentiate it."""

from weft.discrete._solver import FunctionSolver, Solver

__all__ = [
    "FunctionSolver",
    "Solver",
]

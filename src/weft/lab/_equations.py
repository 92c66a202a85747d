"""The graph equations that a recipe may name. Importing this module does not import torch."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from weft.graph import Equation

EquationName = Literal[
    "laplace",
    "random_walk",
    "symmetric",
    "wnll",
    "properly",
    "poisson_weights",
    "spreading",
    "pagerank",
    "poisson",
    "centered",
    "p_laplace",
]


def build_equation(name: EquationName, tau: float) -> "Equation":
    """Return the equation of a name, with its defaults and, where it has one, tau."""
    from weft import graph

    laplace = partial(graph.Laplace, tau)
    equations: dict[EquationName, Callable[[], Equation]] = {
        "laplace": laplace,
        "random_walk": partial(laplace, laplacian=graph.Laplacian.RANDOM_WALK),
        "symmetric": partial(laplace, laplacian=graph.Laplacian.SYMMETRIC),
        "wnll": partial(laplace, reweighting=graph.WNLL()),
        "properly": partial(laplace, reweighting=graph.ProperlyWeighted()),
        "poisson_weights": partial(laplace, reweighting=graph.PoissonReweighted()),
        "spreading": graph.Spreading,
        "pagerank": graph.PageRank,
        "poisson": graph.Poisson,
        "centered": graph.CenteredKernel,
        "p_laplace": partial(graph.PLaplace, tau=tau),
    }
    return equations[name]()

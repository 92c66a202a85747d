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

SpreadName = Literal[EquationName, "nearest_label", "sparse", "poisson_mbo"]
"""Those that spread labels over a file: the last three have no gradient to train a network with."""


def read_shares(words: str) -> tuple[float, ...]:
    """Return the classes' shares of a line such as 3,1,1; none of an empty one."""
    try:
        return tuple(float(share) for share in words.split(",") if share)
    except ValueError:
        raise ValueError(
            f"`shares` must be numbers and commas, got {words!r}: write one number per class."
        ) from None


def build_equation(name: SpreadName, tau: float, shares: tuple[float, ...] = ()) -> "Equation":
    """Return the equation of a name, with its defaults and, where it has one, tau.

    Args:
        name: of the equation.
        tau: decay.
        shares: of the classes, for `poisson_mbo`, which needs them.
    """
    from weft import graph

    if name == "poisson_mbo" and not shares:
        raise ValueError(
            "`equation` poisson_mbo needs the classes' shares, got none: pass `shares`, "
            "such as 3,1,1, or take poisson."
        )
    laplace = partial(graph.Laplace, tau)
    equations: dict[SpreadName, Callable[[], Equation]] = {
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
        "nearest_label": graph.NearestLabel,
        "sparse": graph.SparsePropagation,
        "poisson_mbo": lambda: graph.PoissonMBO(graph.VolumeConstraint(shares)),
    }
    return equations[name]()

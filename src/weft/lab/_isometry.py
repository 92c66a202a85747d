"""The isometry terms that a recipe may name. Importing this module does not import torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

IsometryName = Literal["none", "paper", "stress", "correlation", "rank"]

_PAIRS_PER_SAMPLE = 4  # one does nearly as well as all: experiments/isometry


def isometry_options(name: IsometryName, generator: "Generator") -> dict[str, Any]:
    """Return what isometry by this name asks for: arguments of `isometry_loss` and its kin."""
    from weft.isometry import Correlation, Ranking, Reduction, SquaredError, Stress, WithinClass

    terms = {
        "paper": SquaredError(),
        "stress": Stress(),
        "correlation": Correlation(),
        "rank": Ranking(),
    }
    return {
        "discrepancy": terms[name],
        "reduction": Reduction.MATRIX if name == "paper" else Reduction.PAIRS,
        "pairs": WithinClass(per_sample=_PAIRS_PER_SAMPLE),
        "generator": generator,
    }


def build_isometry(
    name: IsometryName, weight: float, backbone: "nn.Module", generator: "Generator"
) -> "Callable[[Tensor], Tensor | float]":
    """Return what to add to the loss of a step, given labels of all rows that the backbone saw.

    Rows with a negative label take part in no pair. Distances are those of the inputs as the
    backbone gets them, and of what it returns.
    """
    if name == "none":
        return lambda labels: 0.0
    from weft.isometry import IsometryRegularizer

    return IsometryRegularizer(backbone, {"": weight}, **isometry_options(name, generator))

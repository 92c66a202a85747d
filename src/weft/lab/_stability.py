"""The pairs off the data that a recipe may name. Importing this module does not import torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from weft.lab.data import Dataset

StabilityName = Literal["none", "random_signs", "worst_direction"]


def build_stability(
    name: StabilityName,
    radius: float,
    weight: float,
    model: "nn.Module",
    data: "Dataset",
    generator: "Generator",
) -> "Callable[[Tensor], Tensor | float]":
    """Return what to add to the loss of a step, given inputs; labels are not asked for.

    A graph sees distances, and has no scale of its own: its features are taken as it sees them,
    and in units of their spread over the batch.

    Raises:
        ValueError: the data are not pixels in [0, 1], where a radius would mean nothing.
    """
    if name == "none":
        return lambda inputs: 0.0
    from weft.heads import GraphClassifier
    from weft.isometry import Expansion, RandomSigns, WorstDirection, perturbation_loss
    from weft.lab._surrogates import features_of

    low, high = data.train_inputs.aminmax()
    if low < 0 or high > 1:
        raise ValueError(
            f"`stability` needs inputs in [0, 1], got {low:g} to {high:g} in {data.name}: rescale "
            "the data, or set stability = none."
        )
    move = {"random_signs": RandomSigns, "worst_direction": WorstDirection}[name](radius)
    graph = isinstance(model, GraphClassifier)
    encoder = features_of(model) if graph else model.get_submodule("backbone")

    def term(inputs: "Tensor") -> "Tensor | float":
        if graph and len(inputs) < 2:  # no spread to be relative to
            return 0.0
        loss = perturbation_loss(
            encoder, inputs, move, discrepancy=Expansion(), relative=graph, generator=generator
        )
        return weight * loss

    return term

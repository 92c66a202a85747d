"""Threat models without a draw: rows for themselves, or whole batches.

A number for robustness means nothing without a threat model beside it: which rows an attacker may
move, which rows count, and in whose company.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.robustness._gradient import check_count
from weft.robustness._search import Predict, Scene


@dataclass(frozen=True)
class IndependentRows:
    """The model looks at one input at a time, so each keeps the best point found for it.

    The usual threat model of the literature. For a model that ties its batch together, it
    claims more than a replay shows: ask `coupling` first.

    Args:
        size: inputs per forward pass.
    """

    size: int = 256

    def __post_init__(self) -> None:
        check_count("size", self.size)

    def __str__(self) -> str:
        return "independent rows"

    def scenes(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Sequence[Scene]:
        """Cut into batches, in which every row stands for itself."""
        rows = torch.arange(len(inputs), device=inputs.device).split(self.size)
        return [
            Scene(inputs[part], labels[part], part, as_batch, as_batch, independent=True)
            for part in rows
        ]


@dataclass(frozen=True)
class JointBatch:
    """One attacker owns a whole batch: every row may move, every row counts.

    The strongest position in front of a model that ties its batch together, and an overstated
    one if a user controls only one input.

    Args:
        size: inputs per batch, in the order given, as deployed; `None`: all in one, the whole test
            set as one graph.
    """

    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            check_count("size", self.size)

    def __str__(self) -> str:
        return "joint, whole set" if self.size is None else f"joint, batches of {self.size}"

    def scenes(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Sequence[Scene]:
        """Cut into batches, each of which stands and falls together."""
        rows = torch.arange(len(inputs), device=inputs.device).split(self.size or len(inputs))
        return [Scene(inputs[part], labels[part], part, as_batch, as_batch) for part in rows]


def as_batch(model: Predict, moved: Tensor) -> Tensor:
    """See the moved rows as a batch."""
    return model(moved)[None]

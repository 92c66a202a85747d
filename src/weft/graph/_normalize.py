"""Corrections of scores after a solve, for the low label rates where plain scores collapse."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Normalization(Protocol):
    """Corrects scores; a frozen object, callable."""

    def __call__(
        self,
        scores: Float[Tensor, "n c"],
        labels: Float[Tensor, "n c"],
        known: Bool[Tensor, " n"],
        num_graphs: int,
    ) -> Float[Tensor, "n c"]:
        """Return corrected scores; rows of known nodes stay as they are."""
        ...


@dataclass(frozen=True)
class ClassMass:
    """Scale each class so that its mean over the free nodes matches its share of the labels.

    Every row keeps its sum, so the abstention does not change. With few labels, nearly all free
    nodes of plain Laplace learning lie close to one constant vector, and this takes it out.
    Assumes that the free nodes have the classes in the labels' proportions, or in `priors`; do
    not use it on a batch picked by class. Differentiable to any order.

    Args:
        below: acts where the share of known nodes is smaller than this; one means always.
        priors: expected share of each class; by default that of the labels.

    Source: class mass normalisation, Zhu, Ghahramani, Lafferty, ICML 2003, section 4.
    """

    below: float = 1.0
    priors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.below <= 1:
            raise ValueError(f"`below` must be a share of nodes in [0, 1], got {self.below}.")
        if self.priors is not None and not all(prior > 0 for prior in self.priors):
            raise ValueError(f"`priors` must be positive, got {self.priors}: one per class.")

    def __call__(self, scores: Tensor, labels: Tensor, known: Tensor, num_graphs: int) -> Tensor:
        """Return scores with class masses in proportion to the priors."""
        acts = _acts(known, num_graphs, self.below)
        if not acts.any():
            return scores
        share, mass, free = _class_shares(scores, labels, known, num_graphs, self.priors)
        blocks = scores.view(num_graphs, -1, scores.shape[1])
        # A class without any mass has nothing to scale.
        scaled = blocks * torch.where(mass > 0, share / torch.where(mass > 0, mass, 1.0), 1.0)
        return torch.where(free & acts, _with_row_sums(scaled, blocks), blocks).view(scores.shape)


@dataclass(frozen=True)
class Centering:
    """Shift each class so that its mean over the free nodes matches its share of the labels.

    What falls below zero is cut off, and every row keeps its sum. Differentiable where nothing
    is cut. See `ClassMass` for its assumption.

    Args:
        below: acts where the share of known nodes is smaller than this; one means always.
    """

    below: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.below <= 1:
            raise ValueError(f"`below` must be a share of nodes in [0, 1], got {self.below}.")

    def __call__(self, scores: Tensor, labels: Tensor, known: Tensor, num_graphs: int) -> Tensor:
        """Return scores with class means moved to the shares of the labels."""
        acts = _acts(known, num_graphs, self.below)
        if not acts.any():
            return scores
        share, mass, free = _class_shares(scores, labels, known, num_graphs, None)
        blocks = scores.view(num_graphs, -1, scores.shape[1])
        shifted = (blocks - mass + share * mass.sum(-1, keepdim=True)).clamp_min(0)
        return torch.where(free & acts, _with_row_sums(shifted, blocks), blocks).view(scores.shape)


def _acts(known: Tensor, num_graphs: int, below: float) -> Tensor:
    """Return for each graph whether its share of known nodes is small enough, and not zero."""
    share = known.view(num_graphs, -1).double().mean(1)[:, None, None]
    return (share > 0) & (share < below)


def _class_shares(
    scores: Tensor,
    labels: Tensor,
    known: Tensor,
    num_graphs: int,
    priors: tuple[float, ...] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return per graph the classes' shares of the labels, their mean scores, and who is free.

    The mean is over free nodes that some label reaches.
    """
    classes = scores.shape[1]
    if priors is not None and len(priors) != classes:
        raise ValueError(f"`priors` must have {classes} entries, one per class, got {len(priors)}.")
    if (labels < 0).any():
        raise ValueError(
            "`labels` must not be negative for their classes to have masses, got "
            f"{labels.min().item():g}: pass normalization=None to spread other numbers."
        )
    free = ~known.view(num_graphs, -1, 1)
    total = labels.view(num_graphs, -1, classes).sum(1, keepdim=True)
    if priors is not None:
        total = scores.new_tensor(priors).expand_as(total)
    share = total / total.sum(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    blocks = scores.view(num_graphs, -1, classes)
    reached = free & (blocks.detach() != 0).any(-1, keepdim=True)
    mass = (blocks * free).sum(1, keepdim=True) / reached.sum(1, keepdim=True).clamp_min(1)
    return share, mass, free


def _with_row_sums(rows: Tensor, like: Tensor) -> Tensor:
    """Scale rows to the row sums of `like`; where they have none, return `like`."""
    total = rows.sum(-1, keepdim=True)
    wanted = like.sum(-1, keepdim=True)
    return torch.where(total > 0, rows * (wanted / torch.where(total > 0, total, 1.0)), like)

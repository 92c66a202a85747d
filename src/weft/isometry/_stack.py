"""Locally isometric layers, stacked: one block for each level of a hierarchy of labels.

Knows torch modules and optimisers.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.isometry._losses import isometry_loss


class LocallyIsometricStack(nn.Module):
    """Blocks one after the other, and one read-out that serves after each of them.

    The first block separates the coarsest classes, each later one the parts of what came before,
    and all keep the distances of the inputs within the classes of their level: a later block can
    only separate what earlier ones have not put together. A block is trained by its own level,
    with `level_loss` or `train_levels`.

    Args:
        blocks: from coarse to fine; the first takes the inputs, each other what the one before
            returns, and all return rows of the read-out's width.
        readout: to logits of as many classes as the finest level has; coarser levels use the
            first of them.

    Source: Beshkov, Verhellen, Lepperød, arXiv 2211.01236, whose blocks are linear layers with
        tanh.
    """

    def __init__(self, blocks: Iterable[nn.Module], readout: nn.Linear) -> None:
        super().__init__()
        self.blocks, self.readout = nn.Sequential(*blocks), readout
        if not len(self.blocks):
            raise ValueError("`blocks` must hold one module for each level, got none: give one.")

    @property
    def num_levels(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    def forward(self, inputs: Float[Tensor, "n *shape"], level: int = -1) -> Float[Tensor, "n c"]:
        """Return the logits of a level, by default the finest; gradients reach all blocks."""
        return self.readout(self.features(inputs, level))

    def features(self, inputs: Float[Tensor, "n *shape"], level: int = -1) -> Float[Tensor, "n d"]:
        """Return what the block of a level returns; gradients reach all blocks up to it."""
        level = self._number(level)
        return self._checked(self.blocks[: level + 1](inputs), level)

    def own_features(self, inputs: Float[Tensor, "n *shape"], level: int) -> Float[Tensor, "n d"]:
        """Return the same, with all blocks before that one frozen.

        No gradient goes to them or to the inputs, so that optimisers leave them alone, decay and
        momentum included. Layers that keep statistics in training keep them here too.
        """
        level = self._number(level)
        with torch.no_grad():
            frozen = self.blocks[:level](inputs)
        return self._checked(self.blocks[level](frozen), level)

    def _number(self, level: int) -> int:
        if not -self.num_levels <= level < self.num_levels:
            raise ValueError(
                f"`level` must be from 0 to {self.num_levels - 1}, coarse to fine, got {level}: "
                "there is one for each block."
            )
        return level % self.num_levels

    def _checked(self, features: Tensor, level: int) -> Tensor:
        if features.ndim != 2 or features.shape[1] != self.readout.in_features:
            raise ValueError(
                f"`blocks` must return rows as wide as the read-out, {self.readout.in_features}, "
                f"got shape {tuple(features.shape)} from the block of level {level}: all levels "
                "share the read-out."
            )
        return features


def level_loss(
    stack: LocallyIsometricStack,
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, "n levels"],
    level: int,
    *,
    weight: float = 10.0,
    **options: Any,
) -> Float[Tensor, ""]:
    """Return the loss that trains one block: its level's cross-entropy, and weight x isometry.

    Its gradient reaches that block and the read-out; blocks before it are frozen, blocks after it
    have no part. Distances are those of the inputs, in every block. Differentiable to any order.

    Args:
        stack: the model.
        inputs: the batch.
        labels: one column for each level, from coarse to fine; -1 where there is none. From fine
            labels, `table[labels]` with one row of `table` for each fine class.
        level: which block, from 0 on.
        weight: of the isometry loss; not negative. Zero: blocks trained greedily, by the
            cross-entropy alone.
        options: those of `isometry_loss`, such as `discrepancy`, or `pairs` and `distances`.

    Raises:
        TypeError: labels are no class numbers.
        ValueError: no such level, labels that do not fit it, or blocks that do not fit the
            read-out.
    """
    if not weight >= 0:
        raise ValueError(f"`weight` must not be negative, got {weight}: take 10, or 0 for none.")
    features = stack.own_features(inputs, level)
    own = _own_labels(stack, labels, level, len(inputs))
    known = (own >= 0).sum().clamp_min(1)
    total = F.cross_entropy(
        stack.readout(features), own.clamp_min(-1), ignore_index=-1, reduction="sum"
    )
    if not weight:
        return total / known
    return total / known + weight * isometry_loss(inputs, features, own, **options)


def train_levels(
    stack: LocallyIsometricStack,
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, "n levels"],
    optimizer: torch.optim.Optimizer,
    *,
    weights: float | Sequence[float] = 10.0,
    **options: Any,
) -> list[float]:
    """Take one step for each level on a batch, from coarse to fine, and return their losses.

    All levels are trained together, as in the paper: each block starts from what the ones before
    it have just become. To train one level to its end before the next begins, call `level_loss`
    in a loop of your own.

    Args:
        stack: the model, in training mode.
        inputs: the batch.
        labels: as in `level_loss`.
        optimizer: of the stack's parameters.
        weights: of the isometry loss: one number, or one for each level.
        options: those of `isometry_loss`.
    """
    levels = range(stack.num_levels)
    weights = [weights] * len(levels) if isinstance(weights, int | float) else list(weights)
    if len(weights) != len(levels):
        raise ValueError(
            f"`weights` must be one number, or one for each of {len(levels)} levels, got "
            f"{len(weights)}: coarse to fine."
        )
    losses = []
    for level, weight in zip(levels, weights, strict=True):
        optimizer.zero_grad(set_to_none=True)  # what has no gradient is left alone
        loss = level_loss(stack, inputs, labels, level, weight=weight, **options)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _own_labels(
    stack: LocallyIsometricStack, labels: Tensor, level: int, num_rows: int
) -> Int[Tensor, " n"]:
    """Return the column of a level, as class numbers that the read-out has."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        came = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"`labels` must be a tensor of class numbers, got {came}: call .long().")
    if labels.shape != (num_rows, stack.num_levels):
        raise ValueError(
            f"`labels` must have one row for each of {num_rows} inputs and one column for each of "
            f"{stack.num_levels} levels, got shape {tuple(labels.shape)}: stack them along the "
            "second axis, coarse to fine."
        )
    own = labels[:, level].long()
    if len(own) and own.max() >= stack.readout.out_features:
        raise ValueError(
            f"`labels` must be below the read-out's {stack.readout.out_features} classes, got "
            f"{int(own.max())} in level {level}: number the classes of each level from 0 on."
        )
    return own

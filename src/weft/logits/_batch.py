"""A batch's logits and targets, checked."""

import torch
from torch import Tensor

from weft._check import at_least_float32, check_floating
from weft.logits._stats import check_ids


def check_logits(logits: Tensor, num_classes: int) -> Tensor:
    """Return the logits in float32 at least: in half precision a small shift would vanish."""
    check_floating("logits", logits, "n c")
    if logits.shape[1] != num_classes:
        raise ValueError(
            f"`logits` must have a column for each of the {num_classes} classes counted in "
            f"`stats`, got {logits.shape[1]}: count the classes that the model predicts."
        )
    return at_least_float32(logits)


def check_batch(logits: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Check logits with class ids, or with one row of probabilities per sample."""
    logits = check_logits(logits, num_classes)
    if targets.ndim == 2 and targets.is_floating_point():
        check_rows(logits, targets)
        return logits
    check_ids(targets, num_classes)
    if len(targets) != len(logits):
        raise ValueError(
            f"`targets` must have one entry for each of the {len(logits)} rows of `logits`, got "
            f"{len(targets)}: pass targets of the same batch."
        )
    return logits


def check_rows(logits: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not one row of numbers in [0, 1] for each row of logits."""
    if not targets.is_floating_point():
        raise TypeError(
            f"`targets` must be floating-point rows of zeros and ones, got {targets.dtype}: "
            "call .float(), and one_hot on class ids."
        )
    if targets.shape != logits.shape:
        raise ValueError(
            f"`targets` must have the shape of `logits`, {tuple(logits.shape)}, got "
            f"{tuple(targets.shape)}: one row per sample, one column per class."
        )
    if targets.numel() and not torch.compiler.is_compiling():
        low, high = targets.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"`targets` must lie in [0, 1], got {low.item():g} to {high.item():g}: "
                "they are shares of a sample."
            )

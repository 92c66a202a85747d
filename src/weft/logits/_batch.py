"""A batch's logits and targets, checked; and its samples grouped by class without a loop."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import at_least_float32, check_floating
from weft.logits._stats import check_ids, distributed, sum_over_processes


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
    if targets.numel():
        low, high = targets.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"`targets` must lie in [0, 1], got {low.item():g} to {high.item():g}: "
                "they are shares of a sample."
            )


@dataclass(frozen=True)
class Groups:
    """The classes of a batch, and the samples of each.

    Where there are more classes than samples, only those present are kept, so that nothing of
    size classes x classes is ever made. In a distributed training, present means in any process.

    Args:
        classes: ids of the kept classes.
        mass: samples of each, over all processes; zero if it is absent.
        members: for each sample its place in `classes`, or its shares of them (soft targets).
    """

    classes: Int[Tensor, " m"]
    mass: Float[Tensor, " m"]
    members: Int[Tensor, " n"] | Float[Tensor, "n m"]

    @classmethod
    def of(cls, targets: Tensor, num_classes: int, dtype: torch.dtype) -> "Groups":
        """Group a checked batch; `dtype` is that of its logits."""
        soft = targets.ndim == 2
        members = targets.detach().to(dtype) if soft else targets
        mass = members.sum(0) if soft else targets.bincount(minlength=num_classes).to(dtype)
        mass = sum_over_processes(mass)
        if num_classes <= len(targets) and not distributed():
            return cls(torch.arange(num_classes, device=targets.device), mass, members)
        classes = mass.nonzero().squeeze(1)
        places = members[:, classes] if soft else torch.searchsorted(classes, targets)
        return cls(classes, mass[classes], places)

    def pick(self, values: Float[Tensor, " c"]) -> Float[Tensor, " m"]:
        """Return the entries of the kept classes."""
        return values if len(values) == len(self.classes) else values[self.classes]

    def sums(self, values: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Return the sum of each class over its samples in all processes."""
        if self.members.ndim == 2:
            with torch.autocast(values.device.type, enabled=False):
                return sum_over_processes(self.members.T @ values)
        sums = values.new_zeros(len(self.classes), values.shape[1])
        return sum_over_processes(sums.index_add_(0, self.members, values))

    def spread(
        self, table: Float[Tensor, "m d"], *, out: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n d"]:
        """Write the row of its class for each sample, or the mean of rows by its shares."""
        if self.members.ndim == 2:
            with torch.autocast(table.device.type, enabled=False):
                return torch.matmul(self.members, table, out=out)
        return torch.index_select(table, 0, self.members, out=out)

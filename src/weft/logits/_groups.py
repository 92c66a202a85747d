"""The samples of a batch grouped by class: sums over a class, and back, without a loop.

Nothing of size classes x classes is made where there are more than 256 classes, and more of them
than half the samples.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.logits._stats import distributed, sum_over_processes


class Groups(Protocol):
    """Rows that each stand for a class; in a distributed training, of the batches together."""

    @property
    def classes(self) -> Int[Tensor, " m"] | None:
        """The class of each row; None: there is a row for every class, in order."""
        ...

    def mass(self) -> Float[Tensor, " m"]:
        """Return how many samples each row's class has, in all processes."""
        ...

    def sums(self, values: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Return the sum over each row's class, in all processes; may overwrite `values`."""
        ...

    def spread(self, rows: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """Return for each sample the row of its class; may be `rows` itself."""
        ...


@dataclass(frozen=True)
class _ByClass:
    """A row per class, or per class that is present; `places` are the samples' rows."""

    classes: Int[Tensor, " m"] | None
    places: Int[Tensor, " n"]
    num_rows: int

    def mass(self) -> Tensor:
        return sum_over_processes(self.places.bincount(minlength=self.num_rows))

    def sums(self, values: Tensor) -> Tensor:
        sums = values.new_zeros(self.num_rows, values.shape[1])
        return sum_over_processes(sums.index_add_(0, self.places, values))

    def spread(self, rows: Tensor) -> Tensor:
        return rows.index_select(0, self.places)


@dataclass(frozen=True)
class _BySample:
    """A row per sample, for many classes: most samples are alone in theirs, and sums for free.

    Samples `repeats` share their class with an earlier or later one, `others`.
    """

    classes: Int[Tensor, " n"]
    repeats: Int[Tensor, " r"]
    others: Int[Tensor, " r"]

    def mass(self) -> Tensor:
        return self.classes.bincount()[self.classes]

    def sums(self, values: Tensor) -> Tensor:
        values.index_add_(0, self.others, values.index_select(0, self.repeats))
        return values.index_copy_(0, self.repeats, values.index_select(0, self.others))

    def spread(self, rows: Tensor) -> Tensor:
        return rows


@dataclass(frozen=True)
class _ByShare:
    """A row per class, or per class present, where samples have shares of several."""

    classes: Int[Tensor, " m"] | None
    shares: Float[Tensor, "n m"]

    def mass(self) -> Tensor:
        return sum_over_processes(self.shares.sum(0))

    def sums(self, values: Tensor) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return sum_over_processes(self.shares.T @ values)

    def spread(self, rows: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            return self.shares @ rows


def group(
    targets: Int[Tensor, " n"] | Float[Tensor, "n c"], num_classes: int, dtype: torch.dtype
) -> Groups:
    """Group the samples of a checked batch; `dtype` is that of the values to come."""
    soft = targets.ndim == 2
    # Measured: with fewer than two samples per class, rows for classes cost more than they save,
    # unless all are so few that the number of calls is what counts.
    if (2 * num_classes <= len(targets) or num_classes <= 256) and not distributed():
        if soft:
            return _ByShare(None, targets.to(dtype))
        return _ByClass(None, targets, num_classes)
    if soft or distributed():  # rows for classes present in any process
        mass = targets.sum(0) if soft else targets.bincount(minlength=num_classes)
        classes = sum_over_processes(mass).nonzero().squeeze(1)
        if soft:
            return _ByShare(classes, targets[:, classes].to(dtype))
        return _ByClass(classes, torch.searchsorted(classes, targets), len(classes))
    samples = torch.arange(len(targets), device=targets.device)
    # Any sample of the class will do; gather and scatter_ cost a third of indexing by brackets.
    others = samples.new_empty(num_classes).scatter_(0, targets, samples).gather(0, targets)
    repeats = (others != samples).nonzero().squeeze(1)
    return _BySample(targets, repeats, others.index_select(0, repeats))


def balance(rows: Float[Tensor, "m c"], classes: Int[Tensor, " m"] | None) -> Float[Tensor, "m c"]:
    """Set the entry of each row's own class to minus the sum of the others, in place.

    And to `LEAST` less, so that no row is zero.
    """
    if classes is None:
        own = rows.diagonal()
        own.fill_(LEAST)
        own.copy_(rows.sum(1).neg_())
        return rows
    own = classes[:, None]
    rows.scatter_(1, own, LEAST)
    return rows.scatter_(1, own, rows.sum(1, keepdim=True).neg_())


LEAST = 1e-18  # its square is still a number in float32

"""Which pairs of a batch are compared: within classes or all, every one or a sample.

A rule numbers its pairs and turns numbers into rows; a sample is some random numbers. So a sample
of k pairs per row takes time and memory O(k n), up to sorting. Knows tensors only.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Int
from torch import Tensor


class PairSample(NamedTuple):
    """Pairs of rows, and how many pairs they stand for.

    Attributes:
        rows: the pairs; each unordered pair once, except that a sample may hit one twice.
        population: the number of pairs that they were drawn from.
    """

    rows: Int[Tensor, "2 p"]
    population: int


class Pairs(Protocol):
    """Chooses the pairs of a batch: a frozen object, callable."""

    def __call__(
        self,
        num_rows: int,
        labels: Int[Tensor, " n"] | None,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> PairSample:
        """Return pairs of rows below `num_rows`."""
        ...


@dataclass(frozen=True)
class WithinClass:
    """Pairs of rows with the same label; rows with a negative label are in none.

    A class with one row has no pair. Classes count by their pairs: twice the rows, four times the
    weight.

    Args:
        per_sample: `None` takes every pair, n^2 / (2 classes) of them. A number k takes k pairs per
            labelled row, drawn uniformly and with repetition from all, so that a mean over them
            has the mean over all as its expectation; every pair once where there are no more.
    """

    per_sample: int | None = None

    def __post_init__(self) -> None:
        _check_per_sample(self.per_sample)

    def __call__(
        self,
        num_rows: int,
        labels: Int[Tensor, " n"] | None,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> PairSample:
        """Return pairs of rows with the same label."""
        if labels is None:
            raise ValueError(
                "`labels` are needed for pairs within a class, got None: pass one label per row, "
                "or take AllPairs()."
            )
        labels, order = labels.long().sort(stable=True)
        first = int(torch.searchsorted(labels, 0))  # rows without a label stand before it
        labels, order = labels[first:], order[first:]
        ends = torch.searchsorted(labels, labels, right=True)
        return _pairs_of_blocks(order, ends, self.per_sample, generator)


@dataclass(frozen=True)
class AllPairs:
    """All pairs of rows, whatever their labels: no label is read.

    Args:
        per_sample: as in `WithinClass`: `None` takes all n (n - 1) / 2 pairs, a number k draws
            k n of them.
    """

    per_sample: int | None = None

    def __post_init__(self) -> None:
        _check_per_sample(self.per_sample)

    def __call__(
        self,
        num_rows: int,
        labels: Int[Tensor, " n"] | None,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> PairSample:
        """Return pairs of any rows."""
        order = torch.arange(num_rows, device=device)
        return _pairs_of_blocks(order, torch.full_like(order, num_rows), self.per_sample, generator)


def _pairs_of_blocks(
    order: Int[Tensor, " n"],
    ends: Int[Tensor, " n"],
    per_sample: int | None,
    generator: torch.Generator | None,
) -> PairSample:
    """Return pairs inside blocks of consecutive places of `order`; `ends` are just after them.

    Place t opens the pairs (t, t + 1) ... (t, ends[t] - 1); they are numbered in this order.
    """
    place = torch.arange(len(order), device=order.device)
    until = (ends - place - 1).cumsum(0)  # numbers below this are opened here or before
    population = int(until[-1]) if len(order) else 0
    if per_sample is None or population <= per_sample * len(order):
        number = torch.arange(population, device=order.device)
    else:
        if generator is None:
            raise ValueError(
                f"`generator` is needed to draw {per_sample} pairs per row, got None: pass a "
                "torch.Generator, or take every pair with per_sample=None."
            )
        number = torch.randint(
            population, (per_sample * len(order),), generator=generator, device=generator.device
        ).to(order.device)
    first = torch.searchsorted(until, number, right=True)
    second = (ends - until)[first] + number
    return PairSample(order[torch.stack([first, second])], population)


def _check_per_sample(per_sample: int | None) -> None:
    if per_sample is not None and per_sample < 1:
        raise ValueError(
            f"`per_sample` must be at least 1, or None for every pair, got {per_sample}: "
            "without pairs there is nothing to compare."
        )

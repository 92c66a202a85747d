"""Choose samples by class: which labels training may see, which samples test."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Split(NamedTuple):
    """Which training samples play which part: indices, ascending, no sample twice."""

    labelled: Int[Tensor, " l"]
    unlabelled: Int[Tensor, " u"]
    valid: Int[Tensor, " v"]


def split_labels(
    labels: Int[Tensor, " n"], num_labelled: int | None, valid_fraction: float, seed: int
) -> Split:
    """Choose which training labels may be seen, and which of those validate.

    The budget holds all labels a run sees: `num_labelled=100` with `valid_fraction=0.2` trains on
    80 labels and stops early on 20. Classes share the budget evenly: they differ by one label at
    most, unless one has no more to give. The validation labels follow the budget's own class
    proportions, and leave every class a label to train on. With the same seed, a smaller budget
    is part of a larger one.

    Args:
        labels: classes of the training part, 0 … C−1; never of the test part.
        num_labelled: the budget; None for all.
        valid_fraction: share of the budget to validate on, in [0, 1).
        seed: of the choice; no global random state is read or changed.

    Returns:
        `labelled` (train on these), `valid` (stop early on these), and `unlabelled`, the rest,
        whose labels stay unseen.

    Raises:
        ValueError: the budget is larger than the training part or too small for one training
            label per class, or `valid_fraction` is outside [0, 1).
    """
    num_classes = len(labels.unique())
    budget = len(labels) if num_labelled is None else num_labelled
    if not num_classes <= budget <= len(labels):
        raise ValueError(
            f"`num_labelled` must be from {num_classes}, one label per class, to {len(labels)}, "
            f"the size of the training part, got {budget}."
        )
    if not 0 <= valid_fraction < 1:
        raise ValueError(f"`valid_fraction` must lie in [0, 1), got {valid_fraction}.")
    num_valid = round(valid_fraction * budget)
    if budget - num_valid < num_classes:
        raise ValueError(
            f"`num_labelled` must leave {num_classes} training labels, one per class, got {budget} "
            f"of which {num_valid} validate: label more, or lower `valid_fraction`."
        )
    generator = torch.Generator().manual_seed(seed)
    order = class_order(labels, generator, even=True)
    chosen, unlabelled = order[:budget], order[budget:]
    first, others = chosen[:num_classes], chosen[num_classes:]  # the first have one of each class
    validating = class_order(labels[others], generator, even=False)
    valid, rest = others[validating[:num_valid]], others[validating[num_valid:]]
    labelled = torch.cat([first, rest])
    return Split(labelled.sort().values, unlabelled.sort().values, valid.sort().values)


def class_order(
    labels: Int[Tensor, " n"], generator: torch.Generator, *, even: bool
) -> Int[Tensor, " n"]:
    """Return a random order whose every beginning is balanced over the classes.

    With `even`, classes take turns until they run out; otherwise each class is spread over the
    whole order, so that a beginning has the proportions of all (Sainte-Laguë's method).
    """
    if not len(labels):
        return labels
    turn = torch.randperm(int(labels.max()) + 1, generator=generator)[labels]
    shuffled = torch.randperm(len(labels), generator=generator)
    grouped = shuffled[turn[shuffled].argsort(stable=True)]
    counts = turn.bincount()
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = rank if even else (rank + 0.5) / counts.repeat_interleave(counts)
    return grouped[place.argsort(stable=True)]

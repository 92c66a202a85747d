"""Make a data set long-tailed: from class to class, its training part thins out.

The class of rank r among C keeps n₀ · imbalance^(−r / (C−1)) samples, so that the largest has
`imbalance` times as many as the smallest. Ranks are drawn with the seed: a class's number says
nothing about its size, and code that takes the one for the other is found out.
"""

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor

from weft.lab.data import Dataset


def long_tail(
    labels: Int[Tensor, " n"], imbalance: float, seed: int, *, largest: int | None = None
) -> Int[Tensor, " m"]:
    """Choose samples whose class sizes fall geometrically from one class to the next.

    Args:
        labels: classes 0 … C−1, each with a sample.
        imbalance: size of the largest class over that of the smallest; 1 or more.
        seed: of the classes' ranks and of the samples; no global random state is read or changed.
        largest: size of the largest class; by default, the largest that every class can follow.

    Returns:
        The samples kept: rows of `labels`, ascending.

    Raises:
        ValueError: `imbalance` is below 1, there are fewer than two classes, a class is empty or
            too small for its rank, or the smallest would keep no sample.

    Source: the profile is that of Cao et al., NeurIPS 2019, section 4.1, rounded and not cut off.
    """
    if not 1 <= imbalance < float("inf"):
        raise ValueError(
            f"`imbalance` must be a finite ratio of 1 or more, got {imbalance}: "
            "give the size of the largest class over that of the smallest."
        )
    available = labels.bincount()
    if len(available) < 2 or not available.all():
        raise ValueError(
            f"`labels` must be classes 0, 1, …, two or more and none of them empty, got "
            f"class sizes {available.tolist()}: number the classes that there are."
        )
    generator = torch.Generator().manual_seed(seed)
    rank = torch.randperm(len(available), generator=generator).double()
    share = imbalance ** (-rank / (len(rank) - 1))  # of the largest class
    if largest is None:
        largest = int((available / share).min())
    wanted = (largest * share).round().long()
    if wanted.min() < 1 or (wanted > available).any():
        raise ValueError(
            "Every class must keep at least one sample and have as many as its rank asks for, got "
            f"{wanted.tolist()} wanted of {available.tolist()}: change `imbalance` or `largest`."
        )
    shuffled = torch.randperm(len(labels), generator=generator)
    kept = [shuffled[labels[shuffled] == c][:size] for c, size in enumerate(wanted.tolist())]
    return torch.cat(kept).sort().values


def long_tailed(
    data: Dataset, imbalance: float, seed: int, *, largest: int | None = None
) -> Dataset:
    """Return the data with a long-tailed training part and the test part as it was.

    Arguments and errors are those of `long_tail`.
    """
    rows = long_tail(data.train_labels, imbalance, seed, largest=largest)
    return dataclasses.replace(
        data, train_inputs=data.train_inputs[rows], train_labels=data.train_labels[rows]
    )

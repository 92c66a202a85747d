"""Measures that do not let the large classes speak for all: by class, by size, by label.

Thin over scikit-learn, which has all of them but the calibration error. Classes and labels are
gathered by how often training saw them, in `SizeGroups`: by count or by rank.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import average_precision_score, f1_score, recall_score
from torch import Tensor

NUM_BINS = 15
# Documented by scikit-learn, but not annotated.
BY_CLASS: Any = {"average": None}
ABSENT: Any = {"zero_division": np.nan}
NEVER_PREDICTED: Any = {"zero_division": 0}


class SizeGroups(NamedTuple):
    """Classes by how many training samples they have: a group may be empty."""

    head: Int[Tensor, " h"]
    mid: Int[Tensor, " m"]
    tail: Int[Tensor, " t"]

    @classmethod
    def by_count(cls, counts: Int[Tensor, " c"], *, many: int = 100, few: int = 20) -> "SizeGroups":
        """Gather classes of `many` samples or more, of fewer than `few`, and those in between.

        Source: Wu et al., ECCV 2020, who group the labels of VOC-MLT and COCO-MLT so.
        """
        head, tail = counts >= many, counts < few
        return cls(*(group.nonzero()[:, 0] for group in (head, ~head & ~tail, tail)))

    @classmethod
    def by_rank(
        cls, counts: Int[Tensor, " c"], *, head: float = 0.3, tail: float = 0.3
    ) -> "SizeGroups":
        """Gather the share `head` of classes with most samples, the share `tail` with fewest."""
        order = counts.argsort(descending=True, stable=True)
        first, last = round(head * len(order)), len(order) - round(tail * len(order))
        return cls(*order.tensor_split([first, last]))


def classification_measures(
    probabilities: Float[Tensor, "m c"], labels: Int[Tensor, " m"], groups: SizeGroups
) -> dict[str, float]:
    """Measure predictions of one class per sample.

    Args:
        probabilities: one row per sample; the prediction is the largest.
        labels: the right classes.
        groups: classes by their size in training.

    Returns:
        `accuracy`; `balanced`, the mean over classes of the share found (recall), and the same
        mean over the classes of each group, `head`, `mid`, `tail`; `macro_f1`; `ece`. Classes
        without a test sample count in no mean; a mean over nothing is nan.
    """
    right, predicted = labels.numpy(), probabilities.argmax(1).numpy()
    classes = np.arange(probabilities.shape[1])
    found: Any = recall_score(right, predicted, labels=classes, **BY_CLASS, **ABSENT)
    return {
        "accuracy": float((right == predicted).mean()),
        "balanced": _mean(found),
        **{name: _mean(found[group.numpy()]) for name, group in groups._asdict().items()},
        "macro_f1": float(f1_score(right, predicted, average="macro")),
        "ece": calibration_error(probabilities, labels),
    }


def label_measures(
    scores: Float[Tensor, "m l"], targets: Bool[Tensor, "m l"], groups: SizeGroups
) -> dict[str, float]:
    """Measure predictions of several labels per sample.

    Args:
        scores: logits; above 0, which is a probability of one half, a label is predicted.
        targets: which labels are right.
        groups: labels by their number of positives in training.

    Returns:
        `map`, the mean over labels of the average precision, and the same over the labels of each
        group, `head`, `mid`, `tail`; `macro_f1` and `micro_f1` of the predicted labels. Labels
        without a positive test sample count in no mean; a mean over nothing is nan.
    """
    there = targets.any(0)
    precision = np.full(targets.shape[1], np.nan)
    precision[there.numpy()] = average_precision_score(
        targets[:, there].numpy(), scores[:, there].numpy(), **BY_CLASS
    )
    right, predicted = targets[:, there].numpy(), (scores[:, there] > 0).numpy()
    return {
        "map": _mean(precision),
        **{name: _mean(precision[group.numpy()]) for name, group in groups._asdict().items()},
        "macro_f1": float(f1_score(right, predicted, average="macro", **NEVER_PREDICTED)),
        "micro_f1": float(f1_score(right, predicted, average="micro", **NEVER_PREDICTED)),
    }


def calibration_error(probabilities: Float[Tensor, "m c"], labels: Int[Tensor, " m"]) -> float:
    """Return the expected calibration error of the largest probability, in 15 bins of equal width.

    Source: Guo et al., ICML 2017, equation 3.
    """
    confidence, predicted = probabilities.max(dim=1)
    right = (predicted == labels).double()
    bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    gaps = torch.zeros(NUM_BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, right - confidence.double())
    return gaps.abs().sum().item() / len(labels)


def _mean(values: np.ndarray) -> float:
    """Average what is there; nan where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")

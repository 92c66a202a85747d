"""The numbers of a report: means over seeds, calibration, what refusing doubtful samples buys."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support

from weft.lab._report.loading import EvaluatedRun
from weft.lab.recipe import Recipe


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; `margin` is half its 95 % t-interval, None where there is one seed."""

    mean: float
    margin: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Estimate":
        """Average values, one per seed."""
        array = np.array(list(values), dtype=float)
        if len(array) < 2:
            return cls(float(array.mean()), None, len(array))
        margin = stats.t.ppf(0.975, len(array) - 1) * stats.sem(array)
        return cls(float(array.mean()), float(margin), len(array))


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    name: str
    head: str
    labels: int
    runs: list[EvaluatedRun]

    @property
    def amount(self) -> str:
        """The number of labels in words; a recipe's 0 means all of them."""
        return f"{self.labels:,}" if self.labels else "all"

    @property
    def contexts(self) -> list[str]:
        """The ways of predicting that every run of the group was evaluated in."""
        first, *others = [run.results["contexts"] for run in self.runs]
        return [name for name in first if all(name in other for other in others)]

    def estimate(self, context: str, quantity: str) -> Estimate:
        """Average a number of `results.json` over the seeds."""
        return Estimate.of(run.results["contexts"][context][quantity] for run in self.runs)


def group_by_seed(runs: Sequence[EvaluatedRun]) -> list[Group]:
    """Gather the runs whose recipes agree in all but the seed, fewest labels first.

    A group is named by its head, and by whatever else tells it from others with that head and as
    many labels.
    """
    gathered: dict[Recipe, list[EvaluatedRun]] = {}
    for run in runs:
        gathered.setdefault(replace(run.recipe, seed=0), []).append(run)
    return sorted(
        (
            Group(_name(recipe, gathered), recipe.head, recipe.labels, members)
            for recipe, members in gathered.items()
        ),
        key=lambda group: group.labels or np.inf,  # 0 = all of them
    )


def _name(recipe: Recipe, recipes: Iterable[Recipe]) -> str:
    twins = [
        asdict(other)
        for other in recipes
        if (other.head, other.labels) == (recipe.head, recipe.labels)
    ]
    own = [
        f"{field} {'none' if value == '' else value}"
        for field, value in asdict(recipe).items()
        if any(twin[field] != value for twin in twins)
    ]
    return ", ".join([recipe.head, *own])


@dataclass(frozen=True)
class Calibration:
    """Per bin of confidence: its mean, the accuracy (both nan if empty), the share of samples."""

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    share: Float[np.ndarray, " bins"]


def calibration(runs: Sequence[EvaluatedRun], bins: int = 10) -> Calibration:
    """Compare confidence with accuracy over the stored samples of all the runs."""
    confidence = np.concatenate([run.predictions.confidence for run in runs])
    correct = np.concatenate([run.predictions.correct for run in runs])
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 = nan marks an empty bin
        return Calibration(
            np.bincount(which, confidence, bins) / count,
            np.bincount(which, correct, bins) / count,
            count / count.sum(),
        )


def kept_error(
    doubt: Float[np.ndarray, " m"],
    correct: Bool[np.ndarray, " m"],
    kept: Float[np.ndarray, " s"],
) -> Float[np.ndarray, " s"]:
    """Return the error among the samples kept, when the most doubtful ones are refused.

    Samples of equal doubt are refused in random order: the error is the expected one.

    Args:
        doubt: larger is refused sooner; any unit.
        correct: where the prediction is right.
        kept: shares of the samples to keep, in (0, 1].

    Returns:
        The share of errors among the kept, for each entry of `kept`.
    """
    levels, which = np.unique(doubt, return_inverse=True)
    count = np.bincount(which, minlength=len(levels)).cumsum()
    errors = np.bincount(which, ~correct, len(levels)).cumsum()
    wanted = kept * len(doubt)
    return np.interp(wanted, np.r_[0, count], np.r_[0, errors]) / wanted


def refusal(group: Group, doubt: str, kept: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
    """Average `kept_error` over a group; `doubt` names `uncertainty` or `abstention`."""
    errors = [
        kept_error(getattr(run.predictions, doubt), run.predictions.correct, kept)
        for run in group.runs
    ]
    return np.mean(errors, axis=0)


@dataclass(frozen=True)
class ClassRow:
    """One class of a group: nan where nothing was predicted as it, or nothing is of it."""

    name: str
    precision: float
    recall: float
    f1: float
    count: int


def per_class(group: Group) -> list[ClassRow]:
    """Precision, recall and F1 of every class over the stored samples of all the group's runs."""
    names = group.runs[0].results["classes"]
    labels = np.concatenate([run.predictions.labels for run in group.runs])
    predicted = np.concatenate([run.predictions.predicted for run in group.runs])
    columns: Any = precision_recall_fscore_support(
        labels,
        predicted,
        labels=range(len(names)),
        zero_division=np.nan,  # pyright: ignore[reportArgumentType]  # documented, not annotated
    )
    return [ClassRow(*row) for row in zip(names, *columns, strict=True)]

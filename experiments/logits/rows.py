"""Results as rows of a csv: added as they come, read back for tables; statistics over seeds."""

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from setting import Method, Tasks, predict, train
from torch import nn

from weft.lab.measures import SizeGroups, classification_measures, label_measures

HERE = Path(__file__).parent
RESULTS, TUNING = HERE / "results.csv", HERE / "tuning.csv"
COLUMNS = (
    *("experiment", "method", "seed", "accuracy", "balanced", "map"),
    *("head", "mid", "tail", "macro_f1", "micro_f1", "ece", "change"),
)
Row = Mapping[str, str | int | float]


def read(path: Path, experiment: str) -> list[dict[str, str]]:
    """Return the rows of an experiment."""
    return _read(path, path.stat().st_size).get(experiment, []) if path.exists() else []


@lru_cache(maxsize=4)
def _read(path: Path, size: int) -> dict[str, list[dict[str, str]]]:
    """Read a file by experiment; anew when its size has changed, since rows are only added."""
    by_experiment: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            by_experiment.setdefault(row["experiment"], []).append(row)
    return by_experiment


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows; numbers are kept to four digits."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow(
                {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()}
            )


def done(path: Path, experiment: str, method: str, seed: int | str) -> bool:
    """Whether a method has a row for a seed in an experiment."""
    place = {"method": method, "seed": str(seed)}
    return any(row.items() >= place.items() for row in read(path, experiment))


def values(path: Path, experiment: str, method: str, measure: str) -> np.ndarray:
    """Return a measure in percent, in the order of the seeds."""
    rows = [row for row in read(path, experiment) if row["method"] == method]
    rows.sort(key=lambda row: int(row["seed"]))
    return 100 * np.array([float(row[measure]) for row in rows])


def run(
    path: Path, experiment: str, methods: Mapping[str, Method], tasks: Tasks, **options: Any
) -> None:
    """Train every method that has no rows yet, all seeds at once, and add its rows.

    Further options are those of `train`.
    """
    trained: dict[Method, nn.Module] = {}  # adjusted afterwards, one network serves several
    for name, method in methods.items():
        if done(path, experiment, name, tasks.seeds[0]):
            continue
        training = dataclasses.replace(method, post_hoc=0.0)
        if training not in trained:
            trained[training] = train(tasks, training, **options)
        scores = predict(trained[training], tasks, method.post_hoc)
        rows = []
        for seed, own, right, counted in zip(
            tasks.seeds, scores, tasks.test_targets, tasks.stats, strict=True
        ):
            groups = SizeGroups.by_rank(counted.counts)
            if right.ndim == 2:
                measured = label_measures(own, right > 0.5, groups)
            else:
                measured = classification_measures(own.softmax(1), right, groups)
            rows.append({"experiment": experiment, "method": name, "seed": seed, **measured})
        append(path, rows)
        measure = "map" if tasks.targets.ndim == 3 else "balanced"
        print(experiment, name, interval(values(path, experiment, name, measure)), flush=True)


def tune(
    experiment: str,
    grids: Mapping[str, Mapping[str, Method]],
    tasks: Sequence[Tasks],
    variations: Sequence[Mapping[str, float]],
    measure: str = "balanced",
    **options: Any,
) -> dict[str, Method]:
    """Choose each family's setting, and one of the variations, on tasks that make no table.

    Args:
        experiment: name of the rows.
        grids: settings by family.
        tasks: what to choose on; the mean over all their seeds decides.
        variations: values of other fields of `Method`, such as the weight decay.
        measure: the larger, the better.
        options: those of `train`.

    Returns:
        The chosen methods, by family.
    """
    chosen = {}
    for family, settings in grids.items():
        candidates = {}
        for (name, method), fields in product(settings.items(), variations):
            varied = ", ".join(f"{key} {value:g}" for key, value in fields.items())
            candidates[f"{family}, {name}, {varied}"] = dataclasses.replace(method, **fields)
        for each in tasks:
            run(TUNING, experiment, candidates, each, **options)
        means = {name: values(TUNING, experiment, name, measure).mean() for name in candidates}
        best = max(means, key=means.__getitem__)
        chosen[family] = candidates[best]
        print("chosen:", best, f"{means[best]:.2f}", flush=True)
    return chosen


def half_width(differences: np.ndarray) -> float:
    """Return half the 95 % t-interval of a mean over seeds."""
    return float(stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences))


def interval(numbers: np.ndarray) -> str:
    """Format a mean with half its 95 % t-interval."""
    if len(numbers) < 2:
        return f"{numbers.mean():.2f}"
    return f"{numbers.mean():.2f} ± {half_width(numbers):.2f}"


def difference(numbers: np.ndarray) -> str:
    """Format a mean paired difference with its 95 % t-interval."""
    mean, half = numbers.mean(), half_width(numbers)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def holm(samples: Sequence[np.ndarray]) -> list[float]:
    """Return the p-values of paired two-sided t-tests, adjusted for their number by Holm.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    raw = np.array([stats.ttest_1samp(sample, 0).pvalue for sample in samples])
    order = raw.argsort()
    steps = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()

"""Run methods over seeds, resumably, into results.csv; read it back as means with intervals."""

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats

HERE = Path(__file__).resolve().parent
COLUMNS = ("experiment", "problem", "method", "seed", "measure", "value")
FIRST_TUNING_SEED = 100
"""From here on, seeds choose settings: other data than the tables', or a part for validation."""

Job = Callable[[Sequence[int]], Iterable[Mapping[str, float]]]
"""Trains with each of the seeds, and gives measures on the test part seed by seed."""


def data_root() -> Path:
    """Return the folder of real data sets."""
    return Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))


def results(*, tuning: bool = False) -> Path:
    return HERE / ("tuning.csv" if tuning else "results.csv")


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def one_by_one(train: Callable[[int], Mapping[str, float]]) -> Job:
    """Make a job of what trains one seed at a time."""
    return lambda seeds: map(train, seeds)


def run(experiment: str, problem: str, method: str, job: Job, seeds: Iterable[int]) -> None:
    """Run the seeds that have no rows yet, and append their rows as they come."""
    path = results(tuning=min(seeds, default=0) >= FIRST_TUNING_SEED)
    place = dict(zip(COLUMNS, (experiment, problem, method), strict=False))
    done = {int(row["seed"]) for row in read(path) if row.items() >= place.items()}
    seeds = [seed for seed in seeds if seed not in done]
    for seed, measures in zip(seeds, job(seeds) if seeds else (), strict=True):
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            for name, value in measures.items():
                writer.writerow([*place.values(), seed, name, f"{value:.6g}"])
        shown = "  ".join(f"{name} {value:.4g}" for name, value in measures.items())
        print(*place.values(), seed, shown, sep=" · ", file=sys.stderr, flush=True)


def main(
    experiment: str,
    jobs: Mapping[tuple[str, str], Job],
    counts: dict[str, int],
    trials: Mapping[tuple[str, str], Job],
) -> None:
    """Run an experiment from the command line.

    Args:
        experiment: its name in results.csv.
        jobs: what the tables show, by (problem, method).
        counts: number of seeds of each problem.
        trials: settings to choose from, run in place of `jobs` with `--tuning`.
    """
    parser = argparse.ArgumentParser(description=f"Experiment {experiment}, into results.csv.")
    parser.add_argument("--only", default="", help="one problem, by its name")
    parser.add_argument("--method", default="", help="methods whose name contains this")
    parser.add_argument("--seeds", type=int, help="how many, in place of each problem's own number")
    parser.add_argument("--tuning", action="store_true", help="try settings, into tuning.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first = FIRST_TUNING_SEED if arguments.tuning else 0
    for (problem, method), job in (trials if arguments.tuning else jobs).items():
        if arguments.only in ("", problem) and arguments.method in method:
            seeds = range(first, first + (arguments.seeds or counts[problem]))
            run(experiment, problem, method, job, seeds)


def values(experiment: str, problem: str, method: str, measure: str) -> np.ndarray:
    """Return a measure in the order of the seeds."""
    place = dict(zip(COLUMNS, (experiment, problem, method), strict=False), measure=measure)
    rows = [row for row in read(results()) if row.items() >= place.items()]
    return np.array([float(row["value"]) for row in sorted(rows, key=lambda row: int(row["seed"]))])


def half_width(numbers: np.ndarray) -> float:
    """Return half the 95 % t-interval of a mean over seeds."""
    return float(stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers))


def interval(numbers: np.ndarray, digits: int = 1) -> str:
    if not len(numbers):
        return "-"
    if len(numbers) == 1:
        return f"{numbers[0]:.{digits}f}"
    return f"{numbers.mean():.{digits}f} ± {half_width(numbers):.{digits}f}"

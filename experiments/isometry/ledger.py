"""Rows that are added as they come and not computed again; means over seeds, with intervals."""

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy import stats

COLUMNS = ("experiment", "method", "seed", "measure", "value")


class Ledger:
    """A csv file of measures, one per row.

    Args:
        path: of the file; made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, experiment: str) -> list[dict[str, str]]:
        """Return the rows of an experiment."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row["experiment"] == experiment]

    def run(
        self,
        experiment: str,
        methods: Mapping[str, Callable[[int], Mapping[str, float]]],
        seeds: Iterable[int],
    ) -> None:
        """Measure each method with each seed that has no rows yet, seed after seed."""
        done = {(row["method"], int(row["seed"])) for row in self.rows(experiment)}
        for seed in seeds:
            for method, measure in methods.items():
                if (method, seed) in done:
                    continue
                measures = measure(seed)
                new = not self.path.exists()
                with self.path.open("a", newline="") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    if new:
                        writer.writerow(COLUMNS)
                    for name, value in measures.items():
                        writer.writerow([experiment, method, seed, name, f"{value:.5g}"])
                shown = "  ".join(f"{name} {value:.3g}" for name, value in measures.items())
                print(experiment, method, seed, shown, sep=" | ", flush=True)

    def values(self, experiment: str, method: str, measure: str) -> np.ndarray:
        """Return a measure in the order of the seeds."""
        place = {"method": method, "measure": measure}
        rows = [row for row in self.rows(experiment) if row.items() >= place.items()]
        return np.array([float(row["value"]) for row in sorted(rows, key=lambda r: int(r["seed"]))])

    def table(self, experiment: str, measures: Iterable[str], *, digits: int = 3) -> str:
        """Return a table in Markdown: methods, and means with 95 % t-intervals over seeds."""
        methods = dict.fromkeys(row["method"] for row in self.rows(experiment))
        measures = list(measures)
        lines = ["| | " + " | ".join(measures) + " | seeds |", "|---" * (len(measures) + 2) + "|"]
        for method in methods:
            found = [self.values(experiment, method, measure) for measure in measures]
            cells = [interval(numbers, digits) for numbers in found]
            lines.append(f"| {method} | " + " | ".join(cells) + f" | {max(map(len, found))} |")
        return "\n".join(lines)


def interval(numbers: np.ndarray, digits: int) -> str:
    """Format a mean with half its 95 % t-interval."""
    if not len(numbers):
        return ""
    if len(numbers) == 1:
        return f"{numbers[0]:.{digits}f}"
    half = stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers)
    return f"{numbers.mean():.{digits}f} ± {half:.{digits}f}"

"""Results as rows of a csv, added as they come; tables of means with 95 % t-intervals."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
Row = Mapping[str, str | int | float]


class Table:
    """Rows that name an experiment's setting, and a number for each measure.

    Args:
        path: the csv; made with the first row.
        keys: columns that say which setting a row is of.
        measures: columns of numbers.
    """

    def __init__(self, path: Path, keys: tuple[str, ...], measures: tuple[str, ...]) -> None:
        self.path, self.keys, self.measures = path, keys, measures

    def read(self, **setting: object) -> list[dict[str, str]]:
        """Return the rows of a setting."""
        if not self.path.exists():
            return []
        wanted = {key: str(value) for key, value in setting.items()}
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if row.items() >= wanted.items()]

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, numbers to five digits."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, (*self.keys, *self.measures), lineterminator="\n")
            if new:
                writer.writeheader()
            for row in rows:
                writer.writerow(
                    {key: f"{v:.5g}" if isinstance(v, float) else v for key, v in row.items()}
                )

    def values(self, measure: str, **setting: object) -> np.ndarray:
        """Return a measure in percent, in the order of the seeds."""
        rows = sorted(self.read(**setting), key=lambda row: int(row["seed"]))
        return 100 * np.array([float(row[measure]) for row in rows])


def interval(numbers: np.ndarray) -> str:
    """Format a mean with half its 95 % t-interval over seeds; a dash where there is no number."""
    if not len(numbers) or np.isnan(numbers).all():
        return "–"  # noqa: RUF001
    if len(numbers) < 2:
        return f"{numbers.mean():.1f}"
    half = stats.t.ppf(0.975, len(numbers) - 1) * stats.sem(numbers)
    return f"{numbers.mean():.1f} ± {half:.1f}"

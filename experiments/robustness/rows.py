"""Results as rows of a csv, added as they come; means with intervals over seeds."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
RESULTS, TUNING = HERE / "results.csv", HERE / "tuning.csv"
COLUMNS = (
    *("data", "method", "seed", "epsilon", "attack", "threat"),
    *("images", "clean", "accuracy", "union", "distance"),
)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: list[dict]) -> None:
    """Add rows; numbers are kept to four digits."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for each in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in each.items()})


def done(path: Path, place: dict, attack: str) -> bool:
    """Whether a row is there."""
    wanted = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in place.items()}
    return any(each.items() >= {**wanted, "attack": attack}.items() for each in read(path))


def interval(numbers: Sequence[float]) -> str:
    """Return a mean in percent, with half its 95 % t-interval."""
    values = 100 * np.asarray(numbers)
    if len(values) < 2:
        return f"{values.mean():.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.1f} ± {half:.1f}"

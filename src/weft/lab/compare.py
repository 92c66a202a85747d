"""Compare evaluated runs: runs that differ in their seed alone are averaged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.lab._report.loading import load_runs
from weft.lab._report.numbers import group_by_seed


def compare(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Average the accuracy of runs over their seeds, in each context.

    Args:
        paths: directories of evaluated runs on one data set.

    Returns:
        A row per recipe: its name, head, labels (0 = all), number of seeds, and for each context
        the mean accuracy and half its 95 % t-interval (None with one seed).

    Raises:
        ValueError: a directory holds no evaluated run, or the runs cannot be compared.
    """
    rows = []
    for group in group_by_seed(load_runs(paths)):
        accuracy = {}
        for context in group.contexts:
            estimate = group.estimate(context, "accuracy")
            accuracy[context] = {"mean": estimate.mean, "margin": estimate.margin}
        rows.append(
            {
                "name": group.name,
                "head": group.head,
                "labels": group.labels,
                "seeds": len(group.runs),
                "accuracy": accuracy,
            }
        )
    return rows


def as_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lay rows of `compare` out as lines of aligned columns, accuracies in per cent."""
    contexts = list(dict.fromkeys(name for row in rows for name in row["accuracy"]))
    lines = [["recipe", "labels", "seeds", *contexts]]
    for row in rows:
        cells = [_cell(row["accuracy"].get(context)) for context in contexts]
        lines.append([row["name"], str(row["labels"] or "all"), str(row["seeds"]), *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _cell(accuracy: dict[str, float | None] | None) -> str:
    if accuracy is None or accuracy["mean"] is None:
        return "-"
    margin = accuracy["margin"]
    spread = "" if margin is None else f" ± {100 * margin:.2f}"
    return f"{100 * accuracy['mean']:.2f}{spread}"

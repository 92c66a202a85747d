"""Read ARFF files, dense or sparse, whose values are numbers."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from weft.lab._readers import DataError, first_line

ATTRIBUTE = re.compile(r"@attribute\s+('[^']*'|\"[^\"]*\"|\S+)\s", re.IGNORECASE)


class Table(NamedTuple):
    """Columns with names."""

    names: tuple[str, ...]
    values: Float[np.ndarray, "rows columns"]


def read_arff(path: Path) -> Table:
    """Read a table of numbers; a sparse row `{column value, …}` leaves its zeros out.

    SciPy's reader takes dense rows only.

    Raises:
        DataError: the file is missing, or a line of it is not what ARFF has there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: put the file there.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not an ARFF file: {first_line(error)}") from error
    names = []
    start = len(lines)
    for number, line in enumerate(lines):
        attribute = ATTRIBUTE.match(line.strip())
        if attribute:
            names.append(attribute[1].strip("'\""))
        elif line.strip().lower() == "@data":
            start = number + 1
            break
    # A percent sign begins a comment.
    rows = [
        (number, line)
        for number, line in enumerate(lines[start:], start + 1)
        if line.strip() and not line.startswith("%")
    ]
    if not names or not rows:
        raise DataError(
            f"{path} must be an ARFF file, but has {len(names)} attributes and {len(rows)} rows: "
            "check that it is the right file, and whole."
        )
    values = np.zeros((len(rows), len(names)), np.float32)
    for row, (number, line) in zip(values, rows, strict=True):
        try:
            _read_row(line.strip(), row)
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{path} line {number} must hold {len(names)} numbers, or pairs `column number` "
                f"in braces: {first_line(error)}"
            ) from error
    return Table(tuple(names), values)


def _read_row(line: str, row: Float[np.ndarray, " columns"]) -> None:
    if not line.startswith("{"):
        numbers = line.split(",")
        if len(numbers) != len(row):
            raise ValueError(f"there are {len(numbers)}")
        row[:] = numbers
        return
    for pair in filter(None, line.strip("{}").split(",")):
        column, number = pair.split()
        if int(column) < 0:
            raise IndexError(f"there is no column {column}")
        row[int(column)] = float(number)

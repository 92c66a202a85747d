"""Spread the labels of a few rows over a full data set: neighbours, weights, one solve.

The neighbours, which take longest, are kept beside the output: a run that was killed goes on from
them, and so does one with other labels or another equation. Knows files and weft.graph.
"""

import csv
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from weft.graph import ConjugateGradient, Equation, Neighbors, Normalization, knn_graph
from weft.lab._readers import DataError, first_line
from weft.lab.runs import write_file


class Labels(NamedTuple):
    """The classes' names, and for each row the class, or -1 where it is not known."""

    classes: list[str]
    of_row: Int[Tensor, " n"]


def propagate(
    features: Path,
    labels: Path,
    output: Path,
    equation: Equation,
    neighbors: Neighbors,
    *,
    k: int,
    normalization: Normalization | None,
    tolerance: float,
) -> dict[str, Any]:
    """Write predictions of all rows to an .npz, and return what was done.

    The file holds `labels` (the class of each row, as text), `classes`, `scores` (n, classes) and
    `abstention` (n,). Memory: about n (5 d + 65 k + 75 classes) bytes for d columns, the search's
    index among them; never n times n, nor edges times columns.

    Args:
        features: .npy of shape (n, d), read by memory map; float32, float64 and float16.
        labels: .npy of n integers, -1 where not known; or .csv with the columns row and label.
        output: .npz to write; neighbours are kept in a folder beside it, of its name and `.work`.
        equation: what spreads the labels.
        neighbors: the search.
        k: neighbours of each row.
        normalization: of class masses.
        tolerance: relative residual of the solve.

    Raises:
        DataError: a file is missing or of another layout.
        ValueError: the search, the graph or the equation refuses.
    """
    if output.suffix != ".npz":
        raise ValueError(f"`output` must be named .npz, got {output}: results are named arrays.")
    began = time.monotonic()
    solver = ConjugateGradient(rtol=tolerance)
    points = read_features(features)
    given = read_labels(labels, len(points))
    known = given.of_row >= 0
    if not known.any():
        raise DataError(f"{labels} must label at least one row, got none: -1 means not known.")
    show = Console(stderr=True, highlight=False)
    job = {"features": _fingerprint(points), "k": k, "search": repr(neighbors)}
    work = output.with_suffix(".work")
    with torch.no_grad():
        found = _stored_neighbors(work, job)
        if found is None:
            with _stage(show, "neighbours", len(points)):
                found = neighbors(points, k).int()
                _store_neighbors(work, job, found)
        else:
            show.print(f"neighbours: from {work}", soft_wrap=True, markup=False)
        with _stage(show, "graph", len(points)):
            graph = knn_graph(points, k, neighbors=lambda features, k: found)
            del found
        with _stage(show, "solve", len(points)):
            one_hot = torch.zeros(len(points), len(given.classes))
            one_hot[known, given.of_row[known]] = 1
            scores = equation.probabilities(
                graph,
                one_hot,
                known,
                points=points,
                normalization=normalization,
                solver=solver,
            )
    best = scores.argmax(1)
    with _stage(show, "writing", len(points)):
        names = np.array(given.classes)
        arrays = {
            "labels": names[best.numpy()],
            "classes": names,
            "scores": scores.numpy(),
            "abstention": (1 - scores.sum(1)).clamp(0, 1).numpy(),
        }
        _write(output, lambda file: np.savez(file, **arrays))  # pyright: ignore[reportArgumentType]
    return {
        "output": str(output),
        "rows": len(points),
        "edges": graph.edges.shape[1],
        "labelled": int(known.sum()),
        "classes": len(given.classes),
        "unreached": int((scores.sum(1) == 0).sum()),
        "seconds": round(time.monotonic() - began, 1),
        "peak_gigabytes": round(_peak_bytes() / 1e9, 2),
    }


def read_features(path: Path) -> Float[Tensor, "n d"]:
    """Map an .npy of rows into memory: what is not read stays on the disk."""
    wanted = "an .npy with one row of float16, float32 or float64 per sample"
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)  # writes never reach the file
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give the path of {wanted}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not {wanted}: {first_line(error)}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        came = f"{array.dtype} of shape {array.shape}" if hasattr(array, "dtype") else "an archive"
        raise DataError(f"{path} must be {wanted}, got {came}: reshape and cast it.")
    return torch.from_numpy(array)


def read_labels(path: Path, num_rows: int) -> Labels:
    """Read the known labels: an .npy with one integer per row, or a .csv of row and label."""
    wanted = "an .npy of integers, -1 where not known, or a .csv with the columns row and label"
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                pairs = [(int(line["row"]), line["label"].strip()) for line in csv.DictReader(file)]
            rows, names = [row for row, _ in pairs], [name for _, name in pairs]
        else:
            array = np.load(path, allow_pickle=False)
            if array.dtype.kind not in "iu" or array.shape != (num_rows,):
                raise DataError(
                    f"{path} must be {wanted}, one for each of {num_rows} rows, got "
                    f"{array.dtype} of shape {array.shape}."
                )
            rows = np.flatnonzero(array >= 0).tolist()
            names = [str(value) for value in array[rows]]
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give the path of {wanted}.") from None
    except (KeyError, TypeError, AttributeError, OSError, EOFError, csv.Error) as error:
        raise DataError(f"{path} is not {wanted}: {first_line(error)}") from None
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not {wanted}: {first_line(error)}") from None
    outside = [row for row in rows if not 0 <= row < num_rows]
    if outside:
        raise DataError(f"{path} must name rows 0..{num_rows - 1}, got {outside[0]}.")
    classes = sorted(set(names), key=lambda name: (len(name), name))  # 2 before 10
    place = {name: index for index, name in enumerate(classes)}
    of_row = torch.full((num_rows,), -1)
    of_row[rows] = torch.tensor([place[name] for name in names], dtype=torch.long)
    return Labels(classes, of_row)


def _fingerprint(points: Tensor) -> str:
    """Tell data sets apart by their shape, their dtype and a thousand of their rows."""
    some = points[:: max(1, len(points) // 1000)].contiguous()
    content = some.view(torch.uint8).numpy().tobytes()
    return f"{tuple(points.shape)} {points.dtype} {hashlib.sha256(content).hexdigest()[:16]}"


def _store_neighbors(work: Path, job: dict[str, Any], found: Tensor) -> None:
    work.mkdir(parents=True, exist_ok=True)
    (work / "job.json").unlink(missing_ok=True)  # it vouches for the file beside it
    _write(work / "neighbors.npy", lambda file: np.save(file, found.numpy()))
    write_file(work / "job.json", json.dumps(job, indent=2).encode() + b"\n")


def _stored_neighbors(work: Path, job: dict[str, Any]) -> Int[Tensor, "n k"] | None:
    """Return the neighbours of an earlier run of the same search, if there are any."""
    try:
        if json.loads((work / "job.json").read_text(encoding="utf-8")) != job:
            return None
        return torch.from_numpy(np.load(work / "neighbors.npy", allow_pickle=False))
    except (OSError, ValueError):
        return None


def _write(path: Path, save: Callable[[IO[bytes]], None]) -> None:
    """Write a large file aside and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        save(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


@contextmanager
def _stage(show: Console, name: str, rows: int) -> Iterator[None]:
    """Show a stage while it runs, then its time, rate and the peak of memory so far."""
    began = time.monotonic()
    with show.status(f"{name}, {rows:,} rows"):  # nothing but on a terminal
        yield
    seconds = time.monotonic() - began
    rate = rows / max(seconds, 1e-9)
    show.print(f"{name}: {seconds:.1f} s, {rate:,.0f} rows/s, peak {_peak_bytes() / 1e9:.2f} GB")


def _peak_bytes() -> int:
    """Return the most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""A list of jobs that survives being killed: each is done once, and its outcome lies in a file."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from weft.lab.runs import write_file
from weft.robustness import LInf, Result, worst_case

_SECONDS_BETWEEN_LINES = 5.0
_KEPT = ("rows", "labels", "groups", "success", "margin", "clean_wrong", "distance")


class Jobs:
    """Jobs and their outcomes, in the folder `parts` of an attack.

    Args:
        folder: of the attack.
        name: what is attacked, for progress.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._parts, self._name = folder / "parts", name
        self._jobs: dict[str, tuple[str, Callable[[], str]]] = {}
        self._of_best: dict[str | None, list[str]] = {}

    def add(self, key: str, words: str, act: Callable[[], dict[str, Any]]) -> None:
        """Add a job whose outcome is plain values."""

        def do() -> str:
            began = time.monotonic()
            record = act()
            self._write(key, record | {"seconds": time.monotonic() - began}, {})
            return ""

        self._jobs[key] = words, do

    def add_attack(
        self, key: str, words: str, act: Callable[[], Result], best: str | None = None
    ) -> None:
        """Add an attack.

        Args:
            key: the file that its outcome goes to.
            words: for progress; the name of an attack that is not needed.
            act: attacks. Not called where attacks with the same `best` have left nothing right.
            best: the name of the worst images, where these are added if they are worse.
        """

        def do() -> str:
            began = time.monotonic()
            if best is not None and self._nothing_left(best):
                self._write(key, {"skipped": words, "seconds": 0.0}, {})
                return "  not needed"
            result = act()
            if best is not None:
                self._offer(f"worst-{best}", result, result.groups.cpu())
                self._offer(f"furthest-{best}", result, torch.arange(len(result.rows)))
            record = {
                "threat": result.threat,
                "method": result.method,
                "epsilon": result.ball.epsilon,
                "claimed_accuracy": result.claimed_accuracy,
                "replayed_accuracy": result.replayed_accuracy,
                "calls": result.calls,
                "seconds": time.monotonic() - began,
            }
            self._write(key, record, {name: getattr(result, name) for name in _KEPT})
            return f"  {result.replayed_accuracy:.1%} right"

        self._jobs[key] = words, do
        self._of_best.setdefault(best, []).append(key)

    def run(self) -> None:
        """Do what is not done, and say so on stderr."""
        self._parts.mkdir(exist_ok=True)
        console = Console(stderr=True)
        left = {key: job for key, job in self._jobs.items() if not self._path(key).exists()}
        done, last = len(self._jobs) - len(left), time.monotonic()
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        with bar:
            task = bar.add_task(self._name, total=len(self._jobs), completed=done)
            for words, do in left.values():
                bar.update(task, description=f"{self._name}  {words}")
                outcome = do()
                done += 1
                bar.advance(task)
                now = time.monotonic()
                due = now - last > _SECONDS_BETWEEN_LINES or done == len(self._jobs)
                if bar.disable and due:
                    last = now
                    line = f"{self._name}  {done}/{len(self._jobs)}  {words}{outcome}"
                    console.print(line, highlight=False, soft_wrap=True, markup=False)

    def record(self, key: str) -> dict[str, Any]:
        """Read the plain values of a job that is done."""
        return json.loads(str(self._read(key)["record"]))

    def result(self, key: str) -> Result | None:
        """Read an attack that is done, its moved images left out; None if it was not needed."""
        arrays = self._read(key)
        record = json.loads(str(arrays["record"]))
        if "skipped" in record:
            return None
        return Result(
            threat=record["threat"],
            method=record["method"],
            ball=LInf(record["epsilon"]),
            moved=(),
            claimed_accuracy=record["claimed_accuracy"],
            replayed_accuracy=record["replayed_accuracy"],
            calls=record["calls"],
            **{name: torch.from_numpy(arrays[name]) for name in _KEPT},
        )

    def worst(self, best: str) -> np.ndarray:
        """Read the worst images found, batches kept together."""
        return self._read(f"worst-{best}")["moved"]

    def furthest(self, best: str) -> np.ndarray:
        """Read where each image got furthest, whichever batch it was in."""
        return self._read(f"furthest-{best}")["moved"]

    @property
    def calls(self) -> int:
        """Forward passes of all attacks."""
        return sum(self.record(key).get("calls", 0) for key in self._jobs)

    @property
    def seconds(self) -> float:
        """What all jobs took, however often the command was stopped."""
        return round(sum(self.record(key)["seconds"] for key in self._jobs), 1)

    def _offer(self, best: str, result: Result, groups: Tensor) -> None:
        """Keep the images of each group of rows where more are wrong, or the margins larger."""
        wrong, margins = (
            torch.zeros(len(groups), dtype=torch.float64).index_add(
                0, groups, values.double().cpu()
            )[groups]
            for values in (result.success, result.margin)
        )
        moved = result.inputs.cpu()
        if self._path(best).exists():
            held = {name: torch.from_numpy(array) for name, array in self._read(best).items()}
            better = (wrong > held["wrong"]) | (
                (wrong == held["wrong"]) & (margins > held["margins"])
            )
            rows = better.reshape(-1, *[1] * (moved.ndim - 1))
            moved = torch.where(rows, moved, held["moved"])
            wrong, margins = (
                torch.where(better, own, held[name])
                for own, name in ((wrong, "wrong"), (margins, "margins"))
            )
        self._save(best, {"moved": moved, "wrong": wrong, "margins": margins})

    def _nothing_left(self, best: str) -> bool:
        # By finished attacks alone: a command killed before it noted one will run it again.
        done = [self.result(key) for key in self._of_best[best] if self._path(key).exists()]
        run = [result for result in done if result]
        return bool(run) and worst_case(run).accuracy == 0

    def _write(self, key: str, record: dict[str, Any], arrays: dict[str, Tensor]) -> None:
        self._save(key, {**arrays, "record": np.array(json.dumps(record))})

    def _save(self, key: str, arrays: dict[str, Any]) -> None:
        plain = {
            name: array.cpu().numpy() if isinstance(array, Tensor) else array
            for name, array in arrays.items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, **plain)  # pyright: ignore[reportArgumentType]
        write_file(self._path(key), buffer.getvalue())

    def _read(self, key: str) -> dict[str, np.ndarray]:
        with np.load(self._path(key), allow_pickle=False) as file:
            return dict(file)

    def _path(self, key: str) -> Path:
        return self._parts / f"{key}.npz"

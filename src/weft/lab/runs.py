"""A run directory: everything that one training run was made from and has made.

    recipe.toml             every choice (weft.lab.recipe)
    metrics.jsonl           one JSON object per line; a line is there for good once written
    checkpoint.safetensors  the state after the last whole epoch
    results.json            the final evaluation
    predictions.npz         the predictions behind it
    attack                  a folder: what attacks on it found (weft.lab.attack)

Every file but the growing metrics is written aside and renamed into place, so that whatever
moment a run is killed at, each file is whole: the old one or the new one.
"""

import hashlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.lab.recipe import Recipe

RECIPE, METRICS = "recipe.toml", "metrics.jsonl"
CHECKPOINT, RESULTS, PREDICTIONS = "checkpoint.safetensors", "results.json", "predictions.npz"
ATTACK = "attack"


@dataclass(frozen=True)
class Run:
    """A run directory and the recipe in it."""

    path: Path
    recipe: Recipe

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open the run that lies in a directory.

        Raises:
            ValueError: no run lies there.
        """
        if not (path / RECIPE).is_file():
            raise ValueError(
                f"{path} must be a run directory, got one without {RECIPE}: "
                f"make it with `weft train {path}`."
            )
        return cls(path, Recipe.read(path / RECIPE))

    @classmethod
    def create(cls, path: Path, recipe: Recipe, *, overwrite: bool = False) -> "Run":
        """Start a run in a directory; `overwrite` deletes the files of a run that lies there.

        A run that never finished an epoch has nothing to lose, and makes way without asking.

        Raises:
            ValueError: a run lies there and `overwrite` is false.
        """
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} must be a directory, got a file: name another run.")
        if (path / CHECKPOINT).exists() and not overwrite:
            raise ValueError(
                f"{path} must be free for a new run, got a run already there: "
                "continue it with --resume, replace it with --overwrite, or name another."
            )
        path.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, CHECKPOINT, RESULTS, PREDICTIONS):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / ATTACK, ignore_errors=True)
        write_file(path / RECIPE, recipe.to_toml().encode())
        return cls(path, recipe)

    def append_metrics(self, records: list[dict[str, Any]]) -> None:
        """Add lines to the metrics; they are on the disk when this returns."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())

    def rewind_metrics(self, epoch: int) -> None:
        """Drop the lines after an epoch, and a line that was never finished."""
        file = self.path / METRICS
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        write_file(file, b"".join(line for line in whole if json.loads(line)["epoch"] <= epoch))

    def metrics(self) -> list[dict[str, Any]]:
        """Read the metrics."""
        text = (self.path / METRICS).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Save a tree of dicts, lists, tensors and plain values, in place of the last one."""
        from weft.lab._checkpoint import pack

        write_file(self.path / CHECKPOINT, pack(state))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read the last checkpoint; None if the first epoch was never finished."""
        from weft.lab._checkpoint import unpack

        file = self.path / CHECKPOINT
        return unpack(str(file)) if file.exists() else None

    def fingerprint(self) -> str:
        """Name the weights: another training gives another name."""
        return hashlib.sha256((self.path / CHECKPOINT).read_bytes()).hexdigest()

    def save_results(self, results: dict[str, Any]) -> None:
        """Save the final evaluation."""
        write_file(self.path / RESULTS, json.dumps(results, indent=2).encode() + b"\n")

    def results(self) -> dict[str, Any]:
        """Read the final evaluation.

        Raises:
            ValueError: the run has not been evaluated.
        """
        if not (self.path / RESULTS).exists():
            raise ValueError(
                f"{self.path} must be an evaluated run, got one without {RESULTS}: "
                f"make it with `weft evaluate {self.path}`."
            )
        return json.loads((self.path / RESULTS).read_text(encoding="utf-8"))

    def save_predictions(self, arrays: dict[str, np.ndarray]) -> None:
        """Save named arrays."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        write_file(self.path / PREDICTIONS, buffer.getvalue())


def write_file(path: Path, data: bytes) -> None:
    """Write a file aside and rename it into place; it is on the disk when this returns."""
    # One fixed name: what a killed process left half written, the next write replaces.
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)

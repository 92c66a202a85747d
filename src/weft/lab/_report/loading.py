"""Read what an evaluated run left on disk, and check that it belongs together.

Beside the recipe, a report reads from a run directory:

- `metrics.jsonl`: lines with `epoch`, `split` ("train" or "valid"), `loss` and `accuracy`.
- `results.json`: `num_test`, `classes` (names) and `contexts`, which gives {`accuracy`, `ece`,
  `abstention`} for each way of predicting.
- `predictions.npz`: the arrays of `Predictions`.
- `attack/`: what `weft attack` found, where there is any.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float, Int

from weft.lab.recipe import Recipe
from weft.lab.runs import ATTACK, PREDICTIONS, Run


@dataclass(frozen=True)
class Predictions:
    """What a run said about the stored test samples, and the labelled anchors it said it from.

    A graph head also stores its reasons, which are its votes before class masses are corrected,
    and its edges. Entries of weight zero are padding.

    Args:
        labels: true classes of the m stored samples.
        probabilities: class probabilities; a row sums to 1 - abstention.
        abstention: mass that reached no label; zero for a head without a graph.
        features: what the head saw.
        inputs: images (m, channels, height, width) in [0, 1], or vectors (m, values).
        index: the samples' numbers in the test set.
        anchor_labels: classes of the a labelled examples.
        anchor_inputs: their inputs, shaped like `inputs`.
        anchor_features: their features.
        reason_anchor: the r anchors with the largest share in each prediction.
        reason_weight: those shares; over all anchors they would sum to 1 - abstention.
        neighbor_index: q graph neighbours, counted over the samples, then the anchors.
        neighbor_weight: the weights of those edges.
    """

    labels: Int[np.ndarray, " m"]
    probabilities: Float[np.ndarray, "m c"]
    abstention: Float[np.ndarray, " m"]
    features: Float[np.ndarray, "m d"]
    inputs: Float[np.ndarray, "m ..."]
    index: Int[np.ndarray, " m"]
    anchor_labels: Int[np.ndarray, " a"]
    anchor_inputs: Float[np.ndarray, "a ..."]
    anchor_features: Float[np.ndarray, "a d"]
    reason_anchor: Int[np.ndarray, "m r"] | None = None
    reason_weight: Float[np.ndarray, "m r"] | None = None
    neighbor_index: Int[np.ndarray, "m q"] | None = None
    neighbor_weight: Float[np.ndarray, "m q"] | None = None

    @property
    def predicted(self) -> Int[np.ndarray, " m"]:
        """The most probable class of each sample."""
        return self.probabilities.argmax(axis=1)

    @property
    def correct(self) -> Bool[np.ndarray, " m"]:
        """Where the most probable class is the true one."""
        return self.predicted == self.labels

    @property
    def confidence(self) -> Float[np.ndarray, " m"]:
        """The probability of the most probable class."""
        return self.probabilities.max(axis=1)

    @property
    def uncertainty(self) -> Float[np.ndarray, " m"]:
        """What confidence lacks to certainty."""
        return 1 - self.confidence


@dataclass(frozen=True)
class Attacked:
    """What `weft attack` found in a run, and the images it kept."""

    results: dict[str, Any]
    images: dict[str, np.ndarray]


@dataclass(frozen=True)
class EvaluatedRun:
    """One run read whole: what it was asked to do, how it learned, and what came of it."""

    path: Path
    recipe: Recipe
    metrics: list[dict[str, Any]]
    results: dict[str, Any]
    predictions: Predictions
    attacked: Attacked | None = None


def load_runs(directories: Sequence[Path]) -> list[EvaluatedRun]:
    """Load run directories that can stand on one page.

    Args:
        directories: at least one evaluated run directory, each once, all of one data set.

    Returns:
        The runs, in the order given.

    Raises:
        ValueError: there is no directory, one is not an evaluated run, two hold the same recipe
            and seed, or they are of several data sets.
    """
    if not directories:
        raise ValueError("A report needs a run directory, got none: name one or more.")
    runs = [_load_run(Path(directory)) for directory in directories]
    by_recipe: dict[Recipe, EvaluatedRun] = {}
    for run in runs:
        if run.recipe.data != runs[0].recipe.data:
            raise ValueError(
                f"A report compares runs on one data set, got {runs[0].recipe.data} in "
                f"{runs[0].path} and {run.recipe.data} in {run.path}: write one report for each."
            )
        if run.results["classes"] != runs[0].results["classes"]:
            raise ValueError(
                f"A report compares runs on the same classes, got others in {runs[0].path} than "
                f"in {run.path}: write one report for each."
            )
        if run.recipe in by_recipe:
            raise ValueError(
                "A report needs each recipe and seed once, got the same in "
                f"{by_recipe[run.recipe].path} and {run.path}: leave one out."
            )
        by_recipe[run.recipe] = run
    return runs


def _load_run(path: Path) -> EvaluatedRun:
    run = Run.open(path)
    results = run.results()
    try:
        missing = {"num_test", "classes", "contexts"} - results.keys()
        if missing:
            raise ValueError(f"the results lack {', '.join(sorted(missing))}")
        explained = run.recipe.head == "graph" and run.recipe.equation == "laplace"
        predictions = _load_predictions(path / PREDICTIONS, with_reasons=explained)
        _check(predictions, num_classes=len(results["classes"]))
        attacked = _load_attack(run)
        return EvaluatedRun(path, run.recipe, run.metrics(), results, predictions, attacked)
    except (ValueError, OSError, BadZipFile) as error:
        raise ValueError(
            f"A report needs a whole evaluation, got a broken one in {path} ({error}): "
            f"run `weft evaluate {path}` again."
        ) from error


def _load_attack(run: Run) -> Attacked | None:
    """Read a finished attack, unless the run has been trained anew since."""
    folder = run.path / ATTACK
    if not (folder / "results.json").exists():
        return None
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if results["checkpoint"] != run.fingerprint():
        return None
    with np.load(folder / "adversarial.npz", allow_pickle=False) as file:
        return Attacked(results, dict(file))


def _load_predictions(path: Path, *, with_reasons: bool) -> Predictions:
    arrays: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as file:
        for field in dataclasses.fields(Predictions):
            if field.name in file:
                arrays[field.name] = file[field.name]
            elif with_reasons or field.default is dataclasses.MISSING:
                raise ValueError(f"{path.name} lacks {field.name}")
    return Predictions(**arrays)


def _check(predictions: Predictions, *, num_classes: int) -> None:
    """Refuse arrays that do not fit together, naming the first that does not."""
    m, a = len(predictions.labels), len(predictions.anchor_labels)
    if m == 0:
        raise ValueError("the predictions hold no sample")
    if predictions.probabilities.shape != (m, num_classes):
        shape = predictions.probabilities.shape
        raise ValueError(f"the probabilities are {shape}, not {(m, num_classes)}")
    if not np.isfinite(predictions.probabilities).all():
        raise ValueError("the probabilities are not all finite")
    for field in dataclasses.fields(predictions):
        array = getattr(predictions, field.name)
        rows = a if field.name.startswith("anchor_") else m
        if array is not None and len(array) != rows:
            raise ValueError(f"{field.name} has {len(array)} rows, not {rows}")
    stops = {
        "labels": num_classes,
        "anchor_labels": num_classes,
        "reason_anchor": a,
        "neighbor_index": m + a,
    }
    for name, stop in stops.items():
        array = getattr(predictions, name)
        if array is not None and array.size and not 0 <= array.min() <= array.max() < stop:
            raise ValueError(f"{name} leaves the range 0 to {stop - 1}")

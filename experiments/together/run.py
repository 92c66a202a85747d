"""Graph head, logit perturbation, isometry, ranked lists: one classifier, each idea switched.

    python experiments/together/run.py --tuning
    python experiments/together/run.py
    python experiments/together/run.py --tables

A method is a recipe; it differs from the plain one by the fields named. Digits, thinned to a long
tail (the largest class has 20 times as many samples as the smallest), tested on all classes alike.
`--tuning` compares weights on other seeds and on training samples that the tail left out. Rows go
to results.csv and tuning.csv as they come, and what is there is not run again.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from weft.heads import Context, Queries, Whole, predict
from weft.lab._trained import load_trained
from weft.lab.data import load_data
from weft.lab.long_tail import long_tail
from weft.lab.measures import SizeGroups, classification_measures
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import train

HERE = Path(__file__).parent
COLUMNS = ("method", "context", "seed", "balanced", "head", "mid", "tail", "ece")
CONTEXTS: dict[str, Context] = {"whole": Whole(), "query": Queries()}
SEEDS, TUNING_SEEDS = range(5), range(100, 102)
PLAIN = Recipe(
    data="digits", imbalance=20.0, augment="digits", epochs=10, steps=20, k=10, threads=1
)
SHIFT = {"perturbation": "logit_adjustment"}
LEARNED = {"perturbation": "logit_adjustment+lpl"}
IDEAS = {  # with the weights that `--tuning` was best with
    "logit adjustment": SHIFT,
    "logit adjustment + LPL": LEARNED,
    "isometry": {"isometry": "stress", "isometry_weight": 1.0},
    "ranking": {"ranking": "recall", "ranking_weight": 10.0},
}
ALL = LEARNED | IDEAS["isometry"] | IDEAS["ranking"]
WEIGHTS = (0.1, 1.0, 10.0)


def methods() -> dict[str, Recipe]:
    """Return what is compared: each idea alone, and all together, under both heads."""
    changes = {"plain": {}, **IDEAS, "all": ALL}
    return {
        f"{head}, {name}": replace(PLAIN, head=head, **change)
        for head in ("softmax", "graph")
        for name, change in changes.items()
    }


def trials() -> dict[str, Recipe]:
    """Return what is compared by `--tuning`."""
    changes: dict[str, dict[str, str | float]] = {"plain": {}}
    for weight in WEIGHTS:
        changes[f"isometry {weight:g}"] = {"isometry": "stress", "isometry_weight": weight}
        for name in ("recall", "average_precision"):
            changes[f"{name} {weight:g}"] = {"ranking": name, "ranking_weight": weight}
    for strength in (0.5, 1.0, 1.5):
        changes[f"logit adjustment {strength:g}"] = SHIFT | {"perturbation_strength": strength}
    return {
        f"{head}, {name}": replace(PLAIN, head=head, **change)
        for head in ("softmax", "graph")
        for name, change in changes.items()
    }


def measure(recipe: Recipe, tuning: bool) -> dict[str, dict[str, float]]:
    """Train a recipe, and test it in each context."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", recipe)
        train(run)
        trained = load_trained(run)
    inputs, labels = trained.data.test_inputs, trained.data.test_labels
    if tuning:
        full = load_data(recipe.data, seed=recipe.seed)
        left_out = torch.ones(len(full.train_labels), dtype=torch.bool)
        left_out[long_tail(full.train_labels, recipe.imbalance, recipe.seed)] = False
        inputs, labels = full.train_inputs[left_out], full.train_labels[left_out]
    groups = SizeGroups.by_rank(trained.data.train_labels.bincount())
    return {
        name: classification_measures(
            predict(trained.model, inputs, context).probabilities, labels, groups
        )
        for name, context in CONTEXTS.items()
    }


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(path: Path, recipes: Mapping[str, Recipe], seeds: Sequence[int], tuning: bool) -> None:
    """Add the rows that are missing."""
    done = {(row["method"], int(row["seed"])) for row in read(path)}
    todo = [(m, s) for s in seeds for m in recipes if (m, s) not in done]
    for number, (method, seed) in enumerate(todo, 1):
        print(f"{number}/{len(todo)}: {method}, seed {seed}", file=sys.stderr)
        found = measure(replace(recipes[method], seed=seed), tuning)
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
            if new:
                writer.writeheader()
            for context, values in found.items():
                numbers = {name: f"{value:.5f}" for name, value in values.items()}
                writer.writerow({"method": method, "context": context, "seed": seed, **numbers})


def interval(values: Sequence[float]) -> str:
    """Return the mean with half its 95 % t-interval, in percent."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{100 * np.mean(values):.1f} ± {100 * half:.1f}"


def table(path: Path) -> None:
    """Print a line per method: balanced accuracy, its gain over plain seed by seed, the tail."""
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in read(path):
        place = row["method"], row["context"], row["seed"]
        values[place] = {name: float(row[name]) for name in COLUMNS[3:]}

    def column(method: str, context: str, name: str) -> np.ndarray:
        return np.array([v[name] for place, v in values.items() if place[:2] == (method, context)])

    print("| method | whole | less plain | query | less plain | largest | smallest | ECE |")
    print("|---|---|---|---|---|---|---|---|")
    for method in dict.fromkeys(place[0] for place in values):
        plain = method.split(",")[0] + ", plain"
        cells = []
        for context in CONTEXTS:
            found, before = (column(m, context, "balanced") for m in (method, plain))
            shown = context == "whole" or method.startswith("graph")  # a softmax has one context
            cells.append(interval(found) if shown else "")
            cells.append(interval(found - before) if shown and method != plain else "")
        cells += [interval(column(method, "whole", name)) for name in ("head", "tail", "ece")]
        print(f"| {method} |", " | ".join(cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tuning", action="store_true", help="compare weights on other seeds")
    parser.add_argument("--tables", action="store_true", help="print what is there, run nothing")
    arguments = parser.parse_args()
    path = HERE / ("tuning.csv" if arguments.tuning else "results.csv")
    if not arguments.tables:
        recipes, seeds = (trials(), TUNING_SEEDS) if arguments.tuning else (methods(), SEEDS)
        run(path, recipes, seeds, arguments.tuning)
    table(path)


if __name__ == "__main__":
    main()

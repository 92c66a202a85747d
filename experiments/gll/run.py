"""Train and test the recipes of this folder, and collect one row per run, seed and context.

    python experiments/gll/run.py mnist_graph mnist_softmax --seeds 0

Stops and resumes: a run that is half done goes on, one that is done is not repeated.
"""

import argparse
import csv
import dataclasses
import os
from pathlib import Path

import torch

from weft.lab.evaluate import evaluate
from weft.lab.recipe import Recipe
from weft.lab.runs import CHECKPOINT, RECIPE, RESULTS, Run
from weft.lab.train import train

HERE = Path(__file__).parent
COLUMNS = ("recipe", "seed", "context", "accuracy", "ece", "abstention", "seconds_train", "threads")


def main() -> None:
    names = sorted(path.stem for path in (HERE / "recipes").glob("*.toml"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(names)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/gll"), help="where runs lie")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for name in arguments.recipes or names:
            collect(name, seed, arguments.runs / f"{name}-{seed}")


def collect(name: str, seed: int, path: Path) -> None:
    recipe = dataclasses.replace(Recipe.read(HERE / "recipes" / f"{name}.toml"), seed=seed)
    run = Run.open(path) if (path / CHECKPOINT).exists() else Run.create(path, recipe)
    if run.recipe != recipe:
        raise SystemExit(f"{path / RECIPE} differs from the recipe {name}: delete the run first.")
    train(run)  # goes on from the checkpoint; nothing is left to do after the last epoch
    results = run.results() if (path / RESULTS).exists() else evaluate(run)
    rows = [
        {"recipe": name, "seed": seed, "context": context}
        | {key: round(value, 4) for key, value in values.items()}
        | {"seconds_train": round(results["seconds_train"]), "threads": torch.get_num_threads()}
        for context, values in results["contexts"].items()
    ]
    write(rows)
    for row in rows:
        print(*(row[column] for column in COLUMNS), flush=True)


def write(rows: list[dict]) -> None:
    """Replace the rows of these runs in results.csv, aside and renamed."""
    table = HERE / "results.csv"
    old = list(csv.DictReader(table.open())) if table.exists() else []
    new = {(row["recipe"], str(row["seed"])) for row in rows}
    kept = [row for row in old if (row["recipe"], row["seed"]) not in new]
    aside = table.with_suffix(".part")
    with aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept + rows, key=lambda row: (row["recipe"], int(row["seed"]))))
    os.replace(aside, table)


if __name__ == "__main__":
    main()

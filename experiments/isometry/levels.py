"""A stack of blocks by recipe: what `--levels` and `--isometry` do to each level.

    python experiments/isometry/levels.py --seeds 5
    python experiments/isometry/levels.py --data mnist --seeds 5

Digits by halves, then one by one; MNIST by parts of four and six, pairs and one by one: a hierarchy
like the paper's, whose halves 0-4 and 5-9 cut through one of its pairs. Each block is the recipes'
MLP, trained by its own level, with and without isometry within that level's groups; beside them
stands one such MLP that hears of no levels. Same images, batches, optimiser and epochs for all.
Rows are added to levels.csv; every weight that was tried has its row.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from ledger import Ledger

from weft.lab.evaluate import evaluate
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import train

LEDGER = Ledger(Path(__file__).with_name("levels.csv"))
HALVES = "0,1,2,3,4 | 5,6,7,8,9"
PARTS = "0,1,2,3 | 4,5,6,7,8,9"
PAIRS = "0,1 | 2,3 | 4,5 | 6,7 | 8,9"
TASKS: dict[str, dict[str, Any]] = {
    "digits": {"levels": HALVES, "epochs": 100},
    "mnist": {"levels": f"{PARTS} ; {PAIRS}", "epochs": 5},
}
TERMS = ("none", "stress 10", "paper 1", "paper 10")


def measure(data: str, levels: bool, term: str, seed: int) -> dict[str, float]:
    """Train a recipe and ask for the groups of each level, in percent."""
    isometry, _, weight = term.partition(" ")
    settings = {"isometry": isometry, "isometry_weight": float(weight or 1)} | TASKS[data]
    if not levels:
        settings["levels"] = ""
    recipe = Recipe(
        data=data, head="softmax", backbone="mlp", batch_size=100, seed=seed, threads=1, **settings
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", recipe)
        train(run)
        results = evaluate(run)
    found = {name: 100 * level["accuracy"] for name, level in results["levels"].items()}
    return found or {columns(data)[-1]: 100 * results["contexts"]["whole"]["accuracy"]}


def columns(data: str) -> list[str]:
    """Return the names of the levels; the last are the classes themselves."""
    return [f"level {number + 1}" for number in range(TASKS[data]["levels"].count(";") + 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", choices=TASKS, default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    arguments = parser.parse_args()
    data = arguments.data
    chosen = {f"levels, {term}": partial(measure, data, True, term) for term in TERMS}
    chosen |= {
        f"no levels, {term}": partial(measure, data, False, term) for term in ("none", "paper 10")
    }
    LEDGER.run(data, chosen, range(arguments.seeds))
    print(LEDGER.table(data, columns(data), digits=1))


if __name__ == "__main__":
    main()

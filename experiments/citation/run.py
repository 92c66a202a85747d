"""Spread labels over citations, over neighbours by words, and over both, on Cora and Citeseer.

    python experiments/citation/run.py

Options of a method are chosen on the public validation labels, from twelve settings at most; then
it runs on the public split and on ten random ones. Every setting tried is a row of tuning.csv,
every run a row of results.csv; what is there is not run again. `--only` names methods, `--graphs`
graphs, `--data` data sets. `python experiments/citation/tables.py` prints the tables.
"""

import argparse
import csv
import os
from itertools import product
from pathlib import Path

import networks
import spreading
import torch
from setting import GRAPHS, Method, Task

try:
    import peers
except ImportError:  # PyTorch Geometric is not installed
    peers = None

HERE = Path(__file__).parent
ROOT = Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))
RESULTS, TUNING = HERE / "results.csv", HERE / "tuning.csv"
KEYS = ("data", "method", "graph", "split", "seed", "setting")
BUDGET, PUBLIC_SEEDS, RANDOM_SPLITS = 12, range(1, 4), range(10)
METHODS = spreading.METHODS | networks.METHODS | (peers.METHODS if peers else {})


def settings(method: Method, kind: str) -> list[dict]:
    """Draw at most twelve settings of graph and method, always the same ones."""
    options = {**({} if method.own_graph else GRAPHS[kind]), **method.options}
    every = [dict(zip(options, values, strict=True)) for values in product(*options.values())]
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    return [every[place] for place in order[:BUDGET]]


def predict(task: Task, method: Method, kind: str, seed: int, setting: dict) -> torch.Tensor:
    own = {key: value for key, value in setting.items() if key in method.options}
    rest = {key: value for key, value in setting.items() if key not in method.options}
    graph = None if method.own_graph else task.graph(kind, **rest)
    return method.run(task, graph, seed, **own)


def describe(setting: dict) -> str:
    return "; ".join(f"{key} {getattr(value, 'value', value)}" for key, value in setting.items())


def read(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[key] for key in KEYS): row for row in csv.DictReader(file)}


class Table:
    """Rows of a csv, each measured once."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, read(path)

    def measure(
        self, task: Task, nodes: torch.Tensor, name: str, kind: str, split: str, seed: int, setting
    ) -> float:
        """Return the accuracy of a run, from the csv if it is there."""
        key = (task.data.name, name, kind, split, str(seed), describe(setting))
        if key not in self.rows:
            scores = predict(task, METHODS[name], kind, seed, setting)
            accuracy, abstained = task.measure(scores, nodes)
            row = dict(zip(KEYS, key, strict=True))
            row |= {"accuracy": f"{accuracy:.4f}", "abstained": f"{abstained:.4f}"}
            new = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            self.rows[key] = row
        return float(self.rows[key]["accuracy"])


def run(task: Task, name: str, kind: str) -> None:
    method, tuning, results = METHODS[name], Table(TUNING), Table(RESULTS)
    tried = settings(method, kind)
    valid = [
        tuning.measure(task, task.data.valid, name, kind, "public", 0, setting) for setting in tried
    ]
    setting = tried[valid.index(max(valid))]
    public = [
        results.measure(task, task.data.test, name, kind, "public", seed, setting)
        for seed in (PUBLIC_SEEDS if method.seeded else (0,))
    ]
    splits = [task.split(seed) for seed in RANDOM_SPLITS]
    others = [
        results.measure(other, other.data.test, name, kind, str(seed), seed, setting)
        for seed, other in zip(RANDOM_SPLITS, splits, strict=True)
    ]
    print(
        f"{task.data.name:9} {name:36} {kind:9} valid {max(valid):.3f}  "
        f"public {sum(public) / len(public):.3f}  random {sum(others) / len(others):.3f}  "
        f"{describe(setting)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD"
    )
    parser.add_argument("--data", nargs="+", default=["cora", "citeseer"])
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for data in arguments.data:
        task = Task.load(data, ROOT)
        for name in arguments.only:
            for kind in [kind for kind in METHODS[name].graphs if kind in arguments.graphs]:
                run(task, name, kind)


if __name__ == "__main__":
    main()

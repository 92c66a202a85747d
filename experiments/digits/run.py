"""Train heads on few labels of digits, beside graphs on raw pixels.

    python experiments/digits/run.py --seeds 5

Appends the rows of each method, number of labels and seed to results.csv as they come; what is
there already is not run again. Then prints the table. With `--tuning`: seeds 100, 101, ... and
297 training samples in the place of the test part, into tuning.csv.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from setting import (
    FEATURES,
    NUM_CLASSES,
    K,
    Results,
    Task,
    build,
    graph_loss,
    laplace,
    pair_loss,
    softmax_loss,
    train,
)
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from torch import Generator, Tensor, nn

HERE = Path(__file__).parent
LABELS = (50, 100, 300, 1000)
COLUMNS = ("method", "context", "labels", "seed", "accuracy", "seconds")


def run_neighbours(name: str, task: Task) -> Results:
    inputs, labels = task.inputs[: task.num_labelled], task.labels[: task.num_labelled]
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 3, 5]}, cv=5)
    search.fit(inputs.flatten(1).numpy(), labels.numpy())
    found = torch.from_numpy(search.predict(task.test_inputs.flatten(1).numpy()))
    return {(name, "alone"): task.accuracy(found)}


def run_pixels(name: str, task: Task, *, k: int) -> Results:
    return laplace(name, task, nn.Flatten(), pixels=False, k=k)


def run_softmax(
    name: str, task: Task, *, backbone: str, augment: bool, steps: int, rate: float
) -> Results:
    body = build(backbone, task)
    torch.manual_seed(task.seed)
    model = nn.Sequential(body, nn.Linear(FEATURES, NUM_CLASSES))
    loss = partial(softmax_loss, model, task, augment)
    train(model, loss, task.seed, steps=steps, rate=rate)
    with torch.no_grad():
        found = model(task.test_inputs).argmax(1)
    return (
        {(name, "alone"): task.accuracy(found)}
        | laplace(f"{name}; Laplace", task, body, pixels=False)
        | laplace(f"{name}; Laplace, pixel edges", task, body, pixels=True)
    )


def run_graph(
    name: str,
    task: Task,
    *,
    backbone: str,
    augment: bool = False,
    unlabelled: int = 0,
    pixels: bool = False,
    contrast: float = 0.0,
    steps: int = 0,
    rate: float = 0.0,
) -> Results:
    body = build(backbone, task).eval()

    def loss(generator: Generator) -> Tensor:
        value = graph_loss(body, task, augment, unlabelled, pixels, generator)
        return value + contrast * pair_loss(body, task, 0.5, generator) if contrast else value

    if steps:
        train(body, loss, task.seed, steps=steps, rate=rate)
    results = {} if pixels else laplace(name, task, body, pixels=False)
    edges = "" if pixels else "; pixel edges"
    return results | laplace(name + edges, task, body, pixels=True)


MLP = {"backbone": "mlp", "augment": False, "steps": 200, "rate": 2e-3}
CNN = {"backbone": "cnn", "augment": True, "steps": 120, "rate": 2e-3}
PRETRAINED = {"backbone": "neighbours", "augment": True, "rate": 5e-4}
METHODS: dict[str, Callable[[str, Task], Results]] = {
    "pixels, k-NN": run_neighbours,
    "pixels, Laplace, k = 15": partial(run_pixels, k=15),
    "pixels, Laplace": partial(run_pixels, k=K),
    "MLP, softmax": partial(run_softmax, **MLP),
    "MLP, graph head": partial(run_graph, **MLP),
    "MLP, graph head, unlabelled": partial(run_graph, unlabelled=200, **MLP),
    "CNN, softmax": partial(run_softmax, **CNN),
    "CNN, graph head, unlabelled": partial(run_graph, unlabelled=200, **CNN),
    "CNN pretrained on views, Laplace": partial(run_graph, backbone="views"),
    "CNN pretrained on neighbours, Laplace": partial(run_graph, backbone="neighbours"),
    "CNN pretrained on neighbours, softmax": partial(run_softmax, steps=200, **PRETRAINED),
    "CNN pretrained on neighbours, graph head, unlabelled": partial(
        run_graph, unlabelled=200, steps=60, **PRETRAINED
    ),
    "CNN pretrained on neighbours, graph head, unlabelled, contrast, pixel edges": partial(
        run_graph, unlabelled=200, contrast=1.0, pixels=True, steps=60, **PRETRAINED
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--tuning", action="store_true", help="never look at the test part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / ("tuning.csv" if arguments.tuning else "results.csv")
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    first = 100 if arguments.tuning else 0
    seeds = range(first, first + arguments.seeds)
    for seed, num_labelled, (name, run) in product(seeds, LABELS, METHODS.items()):
        place = {"method": name, "labels": str(num_labelled), "seed": str(seed)}
        if any(row.items() >= place.items() for row in read(path)):
            continue
        began = time.monotonic()
        found = run(name, Task(num_labelled, seed, tuning=arguments.tuning))
        seconds = time.monotonic() - began
        with path.open("a", newline="") as file:
            for (method, context), accuracy in found.items():
                row = (method, context, num_labelled, seed, f"{accuracy:.4f}", f"{seconds:.1f}")
                csv.writer(file, lineterminator="\n").writerow(row)
        print(*place.values(), *found.values(), file=sys.stderr, flush=True)
    print_table(read(path))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def print_table(rows: list[dict[str, str]]) -> None:
    """Print means over seeds with the half widths of their 95 % t-intervals, in percent."""
    print("| method | context |", " | ".join(f"{n} labels" for n in LABELS), "|")
    print("|---|---|" + "---|" * len(LABELS))
    every = dict.fromkeys((row["method"], row["context"]) for row in rows)
    for method, context in every:
        cells = [interval(collect(rows, method, context, n)) for n in LABELS]
        print(f"| {method} | {context} |", " | ".join(cells), "|")
    best, bar = list(METHODS)[-1], "pixels, Laplace"
    gains = []
    for n in LABELS:
        pairs = zip(collect(rows, best, "whole", n), collect(rows, bar, "whole", n), strict=False)
        gains.append(interval([high - low for high, low in pairs]))
    print("| the last, less pixels, Laplace, seed by seed | whole |", " | ".join(gains), "|")


def collect(rows: list[dict[str, str]], method: str, context: str, labels: int) -> list[float]:
    """Return accuracies in percent, in the order of the seeds."""
    wanted = {"method": method, "context": context, "labels": str(labels)}
    found = [row for row in rows if row.items() >= wanted.items()]
    return [100 * float(row["accuracy"]) for row in sorted(found, key=lambda row: int(row["seed"]))]


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.1f}" if values else "-"
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()

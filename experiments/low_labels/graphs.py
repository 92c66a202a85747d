"""Which graph for which equation: kernel, bandwidth and neighbours, from few labels to many.

    python experiments/low_labels/graphs.py
    python experiments/low_labels/graphs.py --input encoder
    python experiments/low_labels/graphs.py --table

The 10,000 images of `run.py`, five draws each of 1, 10 and 100 labels per class, four equations
with their published settings. A constant bandwidth is the median distance to the k-th neighbour.
Rows go to graphs.csv; what is there is not run again.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import mean, stdev

import torch
from encode import HERE
from run import DATA, INPUTS, Task, spread
from torch import Tensor

from weft.graph import (
    ClassMass,
    Constant,
    ExactNeighbors,
    Gaussian,
    Graph,
    Kernel,
    Laplace,
    Poisson,
    Spreading,
    Tapered,
    knn_graph,
)

RESULTS = HERE / "graphs.csv"
COLUMNS = ("data", "input", "kernel", "bandwidth", "k", "equation", "labels", "draw", "accuracy")
NODES, NEIGHBORS, RATES, DRAWS = 10_000, (5, 10, 25), (1, 10, 100), 5
KERNELS: dict[str, Kernel] = {
    "Gaussian, rate 4": Gaussian(),
    "Gaussian, rate 1": Gaussian(1.0),
    "Tapered, rate 4": Tapered(),
    "equal weights": lambda scaled, reach: torch.ones_like(scaled),
}
EQUATIONS: dict[str, Callable[[Task, Tensor], Tensor]] = {
    "Laplace": lambda task, known: spread(Laplace(), task, known),
    "Laplace, class masses": lambda task, known: spread(Laplace(), task, known, ClassMass()),
    "Poisson": lambda task, known: spread(Poisson(), task, known),
    "label spreading": lambda task, known: spread(Spreading(0.99), task, known),
}


def graphs(points: Tensor) -> Iterator[tuple[tuple[str, str, str], Graph]]:
    """Name each graph by kernel, bandwidth and k, and make it; neighbours are searched once."""
    near = ExactNeighbors()(points, max(NEIGHBORS))
    for k in NEIGHBORS:
        kth = (points - points[near[:, k - 1]]).norm(dim=1)
        for kernel_name, kernel in KERNELS.items():
            for width, bandwidth in (("self-tuned", None), ("constant", kth.median().item())):
                if bandwidth and kernel_name != "Gaussian, rate 4":
                    continue
                widths = {"bandwidth": Constant(bandwidth)} if bandwidth else {}
                graph = knn_graph(
                    points, k, kernel=kernel, neighbors=lambda features, k: near[:, :k], **widths
                )
                graph = graph.with_weights(graph.weights.double())
                yield (kernel_name, width, str(k)), graph


@torch.no_grad()
def run(name: str, source: str) -> None:
    base = Task.load(name, source, NODES)
    done = {tuple(row.values())[:-1] for row in read()}
    for place, graph in graphs(base.points.float()):
        task = Task(base.name, base.source, base.points, base.classes, graph)
        for draw in range(DRAWS):
            for rate in RATES:
                known = task.draw(rate, 1000 * rate + draw)
                for equation, solve in EQUATIONS.items():
                    key = (name, source, *place, equation, str(rate), str(draw))
                    if key not in done:
                        right = solve(task, known) == task.classes
                        keep(key, 100 * right[~known].double().mean().item())
        print(name, source, *place, file=sys.stderr, flush=True)


def read() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def keep(key: tuple[str, ...], accuracy: float) -> None:
    if not RESULTS.exists():
        RESULTS.write_text(",".join(COLUMNS) + "\n")
    with RESULTS.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow([*key, f"{accuracy:.3f}"])


def table() -> None:
    """Print a table per equation: graphs down, data, inputs and labels per class across."""
    found = defaultdict(list)
    for row in read():
        graph = row["kernel"], row["bandwidth"], row["k"]
        place = f"{row['data']}, {row['input']}, {row['labels']}"
        found[row["equation"], graph, place].append(float(row["accuracy"]))
    places = [f"{data}, {source}, {n}" for source in INPUTS for data in DATA for n in RATES]
    for equation in EQUATIONS:
        print(f"\n{equation}: accuracy in %, mean (standard deviation) of {DRAWS} draws\n")
        print("| kernel | bandwidth | k |", " | ".join(places), "|")
        print("|---" * (3 + len(places)) + "|")
        for graph in dict.fromkeys(key[1] for key in found):
            cells = [found[equation, graph, place] for place in places]
            print(
                f"| {' | '.join(graph)} |",
                " | ".join(f"{mean(c):.1f} ({stdev(c):.1f})" for c in cells),
                "|",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", choices=DATA, nargs="+", default=DATA)
    parser.add_argument("--input", choices=INPUTS, default="pixels")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        for name in arguments.data:
            run(name, arguments.input)
    table()


if __name__ == "__main__":
    main()

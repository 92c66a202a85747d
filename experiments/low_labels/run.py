"""One to five labels per class of MNIST and Fashion-MNIST, every equation, up to 20 draws.

    python experiments/low_labels/run.py
    python experiments/low_labels/run.py --input encoder
    python experiments/low_labels/run.py --nodes 2000 --slow 20
    python experiments/low_labels/run.py --nodes 70000 --draws 2 --slow 0
    python experiments/low_labels/run.py --table

On raw pixels, or on the features of an encoder that saw no label. Appends a row per method to
results.csv as it comes; a draw that is there is not run again, and the graphs are kept under runs/.
With `--table`, prints the means and deviations of what is there.
"""

import argparse
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from encode import HERE, KEPT, ROOT, VIEWS, encoded
from torch import Tensor

from weft.graph import (
    WNLL,
    CenteredKernel,
    ClassMass,
    ConjugateGradient,
    Equation,
    Graph,
    Laplace,
    Laplacian,
    NearestLabel,
    Normalization,
    PageRank,
    PLaplace,
    Poisson,
    PoissonMBO,
    PoissonReweighted,
    ProperlyWeighted,
    SparsePropagation,
    Spreading,
    VolumeConstraint,
    knn_graph,
)
from weft.lab.data import load_data

RESULTS = HERE / "results.csv"
COLUMNS = ("data", "input", "nodes", "method", "labels", "draw", "accuracy", "seconds")
DATA, INPUTS, RATES, K = ("mnist", "fashion_mnist"), ("pixels", "encoder"), (1, 2, 3, 4, 5), 10
SOLVER = ConjugateGradient(rtol=1e-7)
SLOW = ("sparse propagation", "p-Laplace, p = 3", "p-Laplace, p = 10")


@dataclass(frozen=True)
class Task:
    """A data set as a graph: its training images in a fixed shuffle, then its test images.

    Args:
        name: of the data set.
        source: what its points are, of `INPUTS`.
        points: the first of those images, as pixels or as features.
        classes: of the points.
        graph: of their nearest neighbours.
    """

    name: str
    source: str
    points: Tensor
    classes: Tensor
    graph: Graph

    @classmethod
    def load(cls, name: str, source: str, nodes: int) -> "Task":
        """Read the images, and the graph if it was made before."""
        data = load_data(name, root=ROOT)
        size = len(data.train_labels)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        rows = torch.cat([order, torch.arange(size, size + len(data.test_labels))])[:nodes]
        pixels = torch.cat([data.train_inputs, data.test_inputs]).flatten(1)
        points = (pixels if source == "pixels" else encoded(name, data))[rows]
        kept = KEPT / f"{name}_{source}_{nodes}.pt"
        if not kept.exists():
            graph = knn_graph(points, K)
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save((graph.edges, graph.weights), kept)
        edges, weights = torch.load(kept)
        graph = Graph(edges, weights.double(), nodes)
        classes = torch.cat([data.train_labels, data.test_labels])[rows]
        return cls(name, source, points.double(), classes, graph)

    def draw(self, rate: int, seed: int) -> Tensor:
        """Return the mask of `rate` labelled nodes of each class."""
        order = torch.randperm(len(self.classes), generator=torch.Generator().manual_seed(seed))
        known = torch.zeros(len(self.classes), dtype=torch.bool)
        for label in range(10):
            known[order[self.classes[order] == label][:rate]] = True
        return known


def spread(
    equation: Equation, task: Task, known: Tensor, normalization: Normalization | None = None
) -> Tensor:
    labels = F.one_hot(task.classes, 10).double()
    scores = equation(task.graph, labels, known, points=task.points, solver=SOLVER)
    if normalization is not None:
        scores = normalization(scores, labels * known[:, None], known, 1)
    return scores.argmax(1)


def methods(task: Task) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every method with its published settings; none was tuned here.

    The radius of the properly weighted Laplacian has the unit of pixels, so it is set without
    labels: to the median distance between neighbours.
    """
    priors = tuple(torch.bincount(task.classes, minlength=10).tolist())
    i, j = task.graph.edges
    radius = (task.points[i] - task.points[j]).norm(dim=1).median().item()
    volumes = VolumeConstraint(priors)
    run = partial(partial, spread)
    found = {
        "Laplace": run(Laplace()),
        "Laplace, class masses": run(Laplace(), normalization=ClassMass()),
        "Laplace, symmetric": run(Laplace(laplacian=Laplacian.SYMMETRIC)),
        "Laplace, volumes known": run(Laplace(), normalization=volumes),
        "WNLL": run(Laplace(reweighting=WNLL())),
        "properly weighted": run(Laplace(reweighting=ProperlyWeighted(radius))),
        "Poisson reweighted": run(Laplace(reweighting=PoissonReweighted())),
        "label spreading": run(Spreading(0.99)),
        "PageRank": run(PageRank(0.85)),
        "centered kernel": run(CenteredKernel()),
        "p-Laplace, p = 3": run(PLaplace(3.0)),
        "p-Laplace, p = 10": run(PLaplace(10.0, floor=1e-2)),
        "graph nearest neighbour": run(NearestLabel()),
        "sparse propagation": run(SparsePropagation()),
        "Poisson": run(Poisson()),
        "Poisson, volumes known": run(Poisson(), normalization=volumes),
        "PoissonMBO, volumes known": run(PoissonMBO(volumes)),
    }
    return {name: partial(_call, method, task) for name, method in found.items()}


def _call(method: Callable[..., Tensor], task: Task, known: Tensor) -> Tensor:
    return method(task=task, known=known)


def read() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open() as file:
        return list(csv.DictReader(file))


def table() -> None:
    """Print a table per data set and size: methods down, labels per class across, whole draws."""
    found = defaultdict(dict)
    for row in read():
        key = row["data"], row["input"], int(row["nodes"]), row["method"]
        found[key][int(row["labels"]), int(row["draw"])] = float(row["accuracy"])
    for place in sorted({key[:3] for key in found}, key=lambda key: (-key[2], key[1], key[0])):
        data, source, nodes = place
        print(f"\n{data}, {source}, {nodes} nodes: accuracy in %, mean (standard deviation)\n")
        print("| method | draws |", " | ".join(map(str, RATES)), "|")
        print("|---" * (2 + len(RATES)) + "|")
        lines = []
        for key, values in found.items():
            draws = {d for _, d in values if all((rate, d) in values for rate in RATES)}
            if key[:3] == place and draws:
                columns = [[values[rate, d] for d in draws] for rate in RATES]
                line = f"| {key[3]} | {len(draws)} | {' | '.join(map(_cell, columns))} |"
                lines.append((mean(map(mean, columns)), line))
        for _, line in sorted(lines, reverse=True):  # the best of the five columns' mean first
            print(line)


def _cell(values: list[float]) -> str:
    spread = f" ({stdev(values):.1f})" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=VIEWS, nargs="+", default=DATA)
    parser.add_argument("--input", choices=INPUTS, default="pixels")
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--slow", type=int, default=5, help="draws of p-Laplace and the like")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    if options.table:
        return table()
    done = {tuple(row[name] for name in COLUMNS[:6]) for row in read()}
    if not done:
        RESULTS.write_text(",".join(COLUMNS) + "\n")
    tasks = [Task.load(name, options.input, options.nodes) for name in options.data]
    calls = [methods(task) for task in tasks]
    plan = [
        (name, draw, rate, task, named[name])
        for slow in (False, True)  # the quick methods first, all draws of them
        for draw in range(options.slow if slow else options.draws)
        for rate in RATES
        for task, named in zip(tasks, calls, strict=True)
        for name in named
        if (name in SLOW) == slow
    ]
    for name, draw, rate, task, method in plan:
        key = (task.name, task.source, str(options.nodes), name, str(rate), str(draw))
        if key in done:
            continue
        known = task.draw(rate, 1000 * rate + draw)
        start = time.process_time()
        right = (method(known) == task.classes)[~known].double().mean().item()
        seconds = time.process_time() - start
        with RESULTS.open("a") as file:
            csv.writer(file, lineterminator="\n").writerow(
                [*key, f"{100 * right:.3f}", f"{seconds:.3f}"]
            )
        print(*key, f"{100 * right:.1f}", file=sys.stderr)
    return table()


if __name__ == "__main__":
    main()

"""Choose which samples to label, in many ways, and follow the accuracy of what the graph then says.

    python experiments/audit/labels.py --seeds 5

Per seed, 5,000 training images of each data set make a graph of raw pixels; one label per class is
there at first, then 90 are asked one by one or in batches of ten. Rows go to labels.csv as they
come; what is there is not run again. Then prints the tables and draws labels.png. `--tuning` takes
seeds 100, 101, ... into tuning_labels.csv.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from rows import HERE, Table, interval
from torch import Tensor

from weft.graph import (
    Acquisition,
    Graph,
    LabelPosterior,
    choose_local_maxima,
    choose_sequentially,
    choose_top,
    distance_to_label,
    entropy,
    knn_graph,
    least_confidence,
    model_change,
    model_change_variance,
    sigma_optimality,
    smallest_margin,
    variance_optimality,
)
from weft.lab.data import load_data

ROOT = Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))
DATA = ("mnist", "fashion_mnist")
NUM_NODES, K, LAST, BATCH, RANK = 5000, 10, 100, 10, 200
TAU = 1e-3  # of 0.001, 0.01 and 0.1, on the tuning seed
Chooser = Callable[[LabelPosterior, Graph, torch.Generator], Tensor]
"""The next nodes to label."""


def at_random(posterior: LabelPosterior, graph: Graph, generator: torch.Generator) -> Tensor:
    return choose_top(torch.rand(graph.num_nodes, generator=generator), ~posterior.known, 1)


def top(
    posterior: LabelPosterior,
    graph: Graph,
    generator: torch.Generator,
    *,
    acquisition: Acquisition,
    count: int = 1,
) -> Tensor:
    return choose_top(acquisition(posterior), ~posterior.known, count)


def maxima(
    posterior: LabelPosterior,
    graph: Graph,
    generator: torch.Generator,
    *,
    acquisition: Acquisition,
) -> Tensor:
    return choose_local_maxima(graph, acquisition(posterior), ~posterior.known, BATCH)


def ahead(
    posterior: LabelPosterior,
    graph: Graph,
    generator: torch.Generator,
    *,
    acquisition: Acquisition,
) -> Tensor:
    return choose_sequentially(posterior, acquisition, ~posterior.known, BATCH)


def unsure(uncertainty: Callable[[Tensor], Tensor]) -> Acquisition:
    return lambda posterior: uncertainty(posterior.scores)


METHODS: dict[str, Chooser] = {
    "random": at_random,
    "smallest margin": partial(top, acquisition=unsure(smallest_margin)),
    "entropy": partial(top, acquisition=unsure(entropy)),
    "least confidence": partial(top, acquisition=unsure(least_confidence)),
    "distance to label": partial(top, acquisition=unsure(distance_to_label)),
    "VOpt": partial(top, acquisition=variance_optimality),
    "SOpt": partial(top, acquisition=sigma_optimality),
    "MC": partial(top, acquisition=model_change),
    "MCVOpt": partial(top, acquisition=model_change_variance),
    "MC, top ten": partial(top, acquisition=model_change, count=BATCH),
    "MC, local maxima": partial(maxima, acquisition=model_change),
    "MC, look-ahead": partial(ahead, acquisition=model_change),
}
DRAWN = ("random", "smallest margin", "VOpt", "SOpt", "MC", "MCVOpt", "MC, top ten")
LOW_RANK = "MC, rank 200"


class Task:
    """One seed's samples, their graph, and the posterior given one label of each class."""

    def __init__(self, data: str, seed: int, num_nodes: int) -> None:
        self.seed = seed
        source = load_data(data, root=ROOT)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(source.train_labels), generator=generator)[:num_nodes]
        self.classes = source.train_labels[rows]
        self.labels = F.one_hot(self.classes, 10).float()
        self.graph = knn_graph(source.train_inputs[rows].flatten(1), K)
        self.known = torch.zeros(num_nodes, dtype=torch.bool)
        for c in range(10):  # rows are in random order, so the first of a class is a random one
            self.known[(self.classes == c).nonzero()[0]] = True
        self.start = LabelPosterior.exact(self.graph, self.labels, self.known, tau=TAU)

    def run(self, choose: Chooser, low_rank: bool = False) -> dict[int, float]:
        """Return the accuracy on the unlabelled samples at each ten labels."""
        generator = torch.Generator().manual_seed(self.seed)
        posterior, guide = self.start, None
        if low_rank:  # chooses where to ask; what is measured is exact all the same
            guide = LabelPosterior.low_rank(
                self.graph, self.labels, self.known, RANK, tau=TAU, fidelity=100.0
            )
        curve = {int(posterior.known.sum()): self.accuracy(posterior)}
        while (count := int(posterior.known.sum())) < LAST:
            for node in choose(guide or posterior, self.graph, generator).tolist():
                if count == LAST:
                    break
                posterior = posterior.with_label(node, self.labels[node])
                guide = guide and guide.with_label(node, self.labels[node])
                count += 1
                if count % 10 == 0:
                    curve[count] = self.accuracy(posterior)
        return curve

    def accuracy(self, posterior: LabelPosterior) -> float:
        """Return the share of the unlabelled samples whose class is found."""
        free = ~posterior.known
        return (posterior.scores.argmax(1) == self.classes)[free].double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--tuning", action="store_true", help="other seeds, another file")
    parser.add_argument("--nodes", type=int, default=NUM_NODES, help="for a quick look")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / ("tuning_labels.csv" if arguments.tuning else "labels.csv")
    keys = ("data", "method", "seed", "labels", "nodes", "tau")
    table = Table(path, keys, ("accuracy", "seconds"))
    first = 100 if arguments.tuning else 0
    for seed in range(first, first + arguments.seeds):
        for data in DATA:
            task = None
            for name in (*METHODS, LOW_RANK):
                place = {"data": data, "method": name, "seed": seed, "nodes": arguments.nodes}
                place["tau"] = TAU
                if table.read(**place):
                    continue
                task = task or Task(data, seed, arguments.nodes)
                began = time.process_time()
                chooser = METHODS["MC" if name == LOW_RANK else name]
                curve = task.run(chooser, low_rank=name == LOW_RANK)
                seconds = time.process_time() - began
                table.add(
                    {**place, "labels": at, "accuracy": value, "seconds": round(seconds, 1)}
                    for at, value in curve.items()
                )
                print(data, name, seed, f"{curve[LAST]:.4f}", f"{seconds:.1f} s", file=sys.stderr)
    show(table, arguments.nodes, path.with_suffix(".png"))


def show(table: Table, nodes: int, path: Path) -> None:
    """Print accuracy at some numbers of labels, and the mean over the curve, and draw."""
    at = (10, 30, 50, 100)
    for data in DATA:
        print(f"\n| {data} |", " | ".join(f"{n} labels" for n in at), "| mean of the curve |")
        print("|---|" + "---|" * (len(at) + 1))
        for name in (*METHODS, LOW_RANK):
            setting = {"data": data, "method": name, "nodes": nodes}
            cells = [interval(table.values("accuracy", labels=n, **setting)) for n in at]
            curve = [table.values("accuracy", labels=n, **setting) for n in range(20, LAST + 1, 10)]
            print(f"| {name} |", " | ".join(cells), f"| {interval(np.mean(curve, axis=0))} |")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, data in zip(axes, DATA, strict=True):
        for color, name in enumerate(DRAWN):
            setting = {"data": data, "method": name, "nodes": nodes}
            numbers = range(10, LAST + 1, 10)
            means = [table.values("accuracy", labels=n, **setting).mean() for n in numbers]
            style = (
                {"color": "0.5", "linestyle": "--"} if name == "random" else {"color": f"C{color}"}
            )
            axis.plot(numbers, means, label=name, **style)
        axis.set(title=data, xlabel="labels", ylabel="accuracy on the others, %")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

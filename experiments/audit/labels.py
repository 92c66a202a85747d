"""Choose which samples to label, in many ways, and follow the accuracy of what the graph then says.

    python experiments/audit/labels.py --seeds 5
    python experiments/audit/labels.py --seeds 5 --input encoder

Per seed, 5,000 training images of each data set make a graph of raw pixels, or of the features of
an encoder that saw no label (experiments/low_labels/encode.py); one label per class is there at
first, then 90 are asked one by one or in batches of ten. Rows go to labels.csv as they come; what
is there is not run again. Then prints the tables and draws labels.png. `--tuning` takes seeds 100,
101, ... into tuning_labels.csv.
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

sys.path.append(str(HERE.parent / "low_labels"))
from encode import encoded

ROOT = Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))
DATA, INPUTS = ("mnist", "fashion_mnist"), ("pixels", "encoder")
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
LOW_RANK = "MC, rank 200"
DRAWN = ("random", "smallest margin", "VOpt", "SOpt", "MC", "MCVOpt", "MC, top ten", LOW_RANK)


class Task:
    """One seed's samples, their graph, and the posterior given one label of each class."""

    def __init__(self, data: str, seed: int, num_nodes: int, input: str) -> None:
        self.seed = seed
        source = load_data(data, root=ROOT)
        points = source.train_inputs.flatten(1) if input == "pixels" else encoded(data, source)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(source.train_labels), generator=generator)[:num_nodes]
        self.classes = source.train_labels[rows]
        self.labels = F.one_hot(self.classes, 10).float()
        self.graph = knn_graph(points[rows], K)
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
    parser.add_argument("--input", choices=INPUTS, default="pixels", help="what the graph is of")
    parser.add_argument("--tuning", action="store_true", help="other seeds, another file")
    parser.add_argument("--nodes", type=int, default=NUM_NODES, help="for a quick look")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / ("tuning_labels.csv" if arguments.tuning else "labels.csv")
    keys = ("data", "input", "method", "seed", "labels", "nodes", "tau")
    table = Table(path, keys, ("accuracy", "seconds"))
    first = 100 if arguments.tuning else 0
    for seed in range(first, first + arguments.seeds):
        for data in DATA:
            task = None
            for name in (*METHODS, LOW_RANK):
                place = {"data": data, "input": arguments.input, "method": name, "seed": seed}
                place |= {"nodes": arguments.nodes, "tau": TAU}
                if table.read(**place):
                    continue
                task = task or Task(data, seed, arguments.nodes, arguments.input)
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
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.2), sharex=True, layout="constrained")
    for line, source in zip(axes, INPUTS, strict=True):
        for axis, data in zip(line, DATA, strict=True):
            if not table.read(data=data, input=source, nodes=nodes):
                continue
            heads = [*(f"{n} labels" for n in at), "mean of the curve"]
            print(f"\n| {data}, {source} |", " | ".join(heads), "|\n|---|" + "---|" * len(heads))
            for name in (*METHODS, LOW_RANK):
                setting = {"data": data, "input": source, "method": name, "nodes": nodes}
                curve = {
                    n: table.values("accuracy", labels=n, **setting)
                    for n in range(10, LAST + 1, 10)
                }
                cells = [interval(curve[n]) for n in at]
                later = [curve[n] for n in curve if n > at[0]]
                print(f"| {name} |", " | ".join(cells), f"| {interval(np.mean(later, axis=0))} |")
                if name in DRAWN:
                    style = "k--" if name == "random" else f"C{DRAWN.index(name)}-"
                    axis.plot(list(curve), [v.mean() for v in curve.values()], style, label=name)
            axis.set_title(f"{data}, {source}")
            axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("labels")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy on the others, %")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()

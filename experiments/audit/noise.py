"""Flip labels, and see which method finds them: leave-one-out on a graph, k-NN, confident learning.

    python experiments/audit/noise.py --seeds 5

Digits (all 1,297 training samples) and 2,000 training images of Fashion-MNIST; 5 or 10 % of the
labels are changed to another class at random. Each method ranks the labels, and marks those it
calls wrong, from raw pixels or from the features of a small CNN trained on the noisy labels: to the
end, for a quarter of the time, or held out, each fifth of the samples by a CNN that was trained on
the others. Confident learning needs such held-out probabilities, of a logistic regression on pixels
and of the same CNNs. It is cleanlab's, where that is installed; else those rows are left out.

Rows go to noise.csv as they come; what is there is not run again. `--tuning` takes seeds 100, 101,
... and pixels alone into tuning_noise.csv, with more settings of the graph.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rows import HERE, Table, interval
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Generator, Tensor, nn

from weft.graph import (
    Cholesky,
    ExactNeighbors,
    knn_graph,
    label_noise,
    leave_one_out,
    leave_one_out_weights,
)
from weft.lab.backbones import build_backbone
from weft.lab.data import load_data

try:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
except ImportError as error:
    print(f"confident learning skipped: {error}", file=sys.stderr)
    find_label_issues = get_label_quality_scores = None

ROOT = Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))
DATA = {"digits": 1297, "fashion_mnist": 2000}
RATES = (0.05, 0.1)
WIDTH, K = 64, 10
FIDELITY = 0.2  # as a share of the mean degree; what `weft audit` takes
EPOCHS = {"digits": 20, "fashion_mnist": 5}
SHORT = 4  # times shorter, the training that has no time to learn the wrong labels


class Found(NamedTuple):
    """What a method says of each label: how wrong it looks, and whether it is called wrong."""

    noise: np.ndarray
    wrong: np.ndarray


class Task:
    """Samples with some labels flipped, and the models that several methods share."""

    def __init__(self, data: str, rate: float, seed: int) -> None:
        self.data, self.seed = data, seed
        source = load_data(data, root=ROOT)
        generator = Generator().manual_seed(seed)
        rows = torch.randperm(len(source.train_labels), generator=generator)[: DATA[data]]
        truth = source.train_labels[rows]
        self.inputs = source.train_inputs[rows]
        self.flipped = torch.rand(len(rows), generator=generator) < rate
        other = (truth + torch.randint(1, 10, truth.shape, generator=generator)) % 10
        self.labels = torch.where(self.flipped, other, truth)

    def train(self, rows: Tensor, epochs: int) -> nn.Sequential:
        """Train the CNN on some rows, with their noisy labels."""
        torch.manual_seed(self.seed)
        body = build_backbone("cnn", tuple(self.inputs.shape[1:]), WIDTH, seed=self.seed)
        model = nn.Sequential(body, nn.Linear(WIDTH, 10))
        steps = epochs * math.ceil(len(rows) / 100)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 2e-3, total_steps=steps, cycle_momentum=False
        )
        generator = Generator().manual_seed(self.seed)
        for _ in range(epochs):
            for part in rows[torch.randperm(len(rows), generator=generator)].split(100):
                loss = F.cross_entropy(model(self.inputs[part]), self.labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return model.eval()

    @torch.no_grad()
    def features(self, model: nn.Sequential) -> Tensor:
        """Return the features of all samples, at length one."""
        return F.normalize(torch.cat([model[0](part) for part in self.inputs.split(500)]))

    def held_out(self) -> tuple[np.ndarray, Found]:
        """Return cross-validated probabilities of the CNN, and leave-one-out on its features."""
        probabilities = np.empty((len(self.labels), 10))
        told = torch.empty(len(self.labels), 10).double()
        labels = F.one_hot(self.labels, 10).double()
        known = torch.ones(len(labels), dtype=torch.bool)
        folds = StratifiedKFold(5, shuffle=True, random_state=self.seed)
        for fit, rest in folds.split(np.zeros(len(labels)), self.labels.numpy()):
            model = self.train(torch.from_numpy(fit), EPOCHS[self.data])
            graph = knn_graph(self.features(model).double(), K)
            rest = torch.from_numpy(rest)
            fidelity = FIDELITY * graph.degrees().mean().item()
            told[rest] = (
                leave_one_out_weights(graph, known, rest, fidelity=fidelity, solver=Cholesky())
                @ labels
            )
            with torch.no_grad():
                probabilities[rest] = model(self.inputs[rest]).double().softmax(1).numpy()
        return probabilities, as_found(told, labels)

    def regression(self) -> np.ndarray:
        """Return cross-validated probabilities of a logistic regression on the pixels."""
        folds = StratifiedKFold(5, shuffle=True, random_state=self.seed)
        model = LogisticRegression(C=0.1, max_iter=200)
        pixels = self.inputs.flatten(1).numpy()
        return cross_val_predict(
            model, pixels, self.labels.numpy(), cv=folds, method="predict_proba"
        )


def by_graph(task: Task, points: Tensor, k: int, fidelity: float | None) -> Found:
    """Leave each label out, and ask the others through a graph of the points."""
    graph = knn_graph(points.double(), k)
    labels = F.one_hot(task.labels, 10).double()
    known = torch.ones(len(labels), dtype=torch.bool)
    if fidelity is not None:
        fidelity = fidelity * graph.degrees().mean().item()
    return as_found(
        leave_one_out(graph, labels, known, fidelity=fidelity, solver=Cholesky()), labels
    )


def as_found(told: Tensor, labels: Tensor) -> Found:
    """Rank by the weight of other classes; call a label wrong if one of them outweighs it."""
    wrong = ((1 - labels) * told).amax(1) > (labels * told).sum(1)
    return Found(label_noise(told, labels).numpy(), wrong.numpy())


def by_neighbours(task: Task, points: Tensor, k: int) -> Found:
    """Count the k nearest that have another label; wrong if their most frequent label is."""
    near = ExactNeighbors()(points, k)
    votes = F.one_hot(task.labels[near], 10).sum(1)
    own = votes.gather(1, task.labels[:, None]).squeeze(1)
    return Found((1 - own / k).numpy(), (votes.amax(1) > own).numpy())


def by_confident_learning(task: Task, probabilities: np.ndarray, method: str) -> Found:
    """Rank by cleanlab's scores, and mark what it prunes by its default rule."""
    assert find_label_issues is not None
    assert get_label_quality_scores is not None
    labels = task.labels.numpy()
    quality = get_label_quality_scores(labels, probabilities, method=method)
    return Found(-quality, find_label_issues(labels, probabilities, n_jobs=1))


def measure(found: Found, flipped: np.ndarray) -> dict[str, float]:
    hits = (found.wrong & flipped).sum()
    return {
        "average_precision": float(average_precision_score(flipped, found.noise)),
        "precision": float(hits / max(1, found.wrong.sum())),
        "recall": float(hits / flipped.sum()),
    }


def methods(task: Task, tuning: bool) -> Iterator[tuple[str, str, Found]]:
    """Name the input and the method, and say what it found."""
    places = {"pixels": task.inputs.flatten(1)}
    if not tuning:
        every, epochs = torch.arange(len(task.labels)), EPOCHS[task.data]
        places["CNN"] = task.features(task.train(every, epochs))
        places["CNN, short"] = task.features(task.train(every, epochs // SHORT))
    for source, points in places.items():
        for k in (K, 25) if tuning else (K,):
            for share in (None, 0.05, 0.1, FIDELITY, 0.5, 2.0) if tuning else (None, FIDELITY):
                name = "hard labels" if share is None else f"fidelity {share:g}"
                yield source, f"leave-one-out, k = {k}, {name}", by_graph(task, points, k, share)
        for k in (10, 25, 50):
            yield source, f"{k}-NN disagreement", by_neighbours(task, points, k)
    if tuning:
        return
    probabilities, found = task.held_out()
    yield "CNN, held out", f"leave-one-out, k = {K}, fidelity {FIDELITY:g}", found
    if find_label_issues is None:
        return
    for source, told in (("pixels", task.regression()), ("CNN, held out", probabilities)):
        for method in ("self_confidence", "normalized_margin"):
            name = f"confident learning, {method.replace('_', ' ')}"
            yield source, name, by_confident_learning(task, told, method)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--tuning", action="store_true", help="other seeds, another file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / ("tuning_noise.csv" if arguments.tuning else "noise.csv")
    keys = ("data", "rate", "input", "method", "seed")
    table = Table(path, keys, ("average_precision", "precision", "recall"))
    first = 100 if arguments.tuning else 0
    for seed in range(first, first + arguments.seeds):
        for data in DATA:
            for rate in RATES:
                place = {"data": data, "rate": rate, "seed": seed}
                if table.read(**place):
                    continue
                began = time.process_time()
                task = Task(data, rate, seed)
                flipped = task.flipped.numpy()
                table.add(  # all rows of a setting at once, so that none is half there
                    [
                        {**place, "input": source, "method": name, **measure(found, flipped)}
                        for source, name, found in methods(task, arguments.tuning)
                    ]
                )
                seconds = time.process_time() - began
                print(*place.values(), f"{seconds:.0f} s", file=sys.stderr, flush=True)
    show(table)


def show(table: Table) -> None:
    """Print means over the seeds, with 95 % t-intervals, in percent."""
    rows = table.read()
    for data in DATA:
        print(f"\n{data}\n")
        heads = [f"{100 * rate:g} %: {m}" for rate in RATES for m in ("AP", "precision", "recall")]
        print("| input | method |", " | ".join(heads), "|\n|---|---|" + "---|" * len(heads))
        named = dict.fromkeys((row["input"], row["method"]) for row in rows if row["data"] == data)
        for source, name in sorted(named, key=lambda pair: pair[0] != "pixels"):
            setting = {"data": data, "input": source, "method": name}
            cells = [
                interval(table.values(measure, rate=rate, **setting))
                for rate in RATES
                for measure in table.measures
            ]
            print(f"| {source} | {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()

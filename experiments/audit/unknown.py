"""Show a classifier samples of classes it has never seen, and ask how sure it is.

    python experiments/audit/unknown.py --seeds 5

MNIST-trained, Fashion-MNIST-shown, and reversed. Per seed, a softmax CNN and the same CNN under a
graph head are trained with 2,000 labels by the lab; 2,000 test samples of the known data and 2,000
of the unknown come one at a time. Doubt is measured by the softmax (largest probability, energy, k
nearest features) and by the graph, of either network: one less the largest score, and abstention,
with self-tuned and with constant bandwidth. AUROC says how well doubt tells unknown from known; on
the known alone, the calibration error, and the error among the 80 % surest, over all of 100 %.
Rows go to unknown.csv as they come; what is there is not run again.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rows import HERE, Table, interval
from sklearn.metrics import roc_auc_score
from torch import Tensor

from weft.graph import AnchorGraph, Bandwidth, Constant, SelfTuned
from weft.lab._trained import Trained, encode, load_trained
from weft.lab.data import load_data
from weft.lab.measures import calibration_error
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import train

ROOT = Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))
DATA = ("mnist", "fashion_mnist")
NUM_SHOWN, K, NEAREST = 2000, 10, 10
COVERAGE = 0.8
TAUS = (0.01, 0.1)
SOFTMAX = Recipe(head="softmax", labels=2000, backbone="cnn", epochs=4, steps=20, threads=1)


class Answer(NamedTuple):
    """What is said of the known samples, and how doubtful known and unknown ones are."""

    probabilities: Tensor | None
    doubt_known: Tensor
    doubt_unknown: Tensor


def graph_of(trained: Trained, features: Tensor, bandwidth: Bandwidth, tau: float) -> AnchorGraph:
    labels = F.one_hot(trained.data.train_labels[trained.split.labelled], 10).float()
    known = torch.ones(len(features), dtype=torch.bool)
    return AnchorGraph.build(features, labels, known, K, bandwidth=bandwidth, tau=tau)


def answers(trained: Trained, known: Tensor, unknown: Tensor) -> Iterator[tuple[str, Answer]]:
    """Name each measure of doubt, and what it says."""
    model, head = trained.model, trained.run.recipe.head
    rows = trained.split.labelled
    raw = [encode(model, x) for x in (known, unknown, trained.data.train_inputs[rows])]
    if head == "softmax":
        logits = [model.get_submodule("head")(x) for x in raw[:2]]
        told, other = (x.softmax(1) for x in logits)
        yield "largest probability", Answer(told, 1 - told.amax(1), 1 - other.amax(1))
        yield "energy", Answer(told, -logits[0].logsumexp(1), -logits[1].logsumexp(1))
    *shown, anchors = (F.normalize(x) for x in raw)
    far = [torch.cdist(x, anchors).topk(NEAREST, largest=False).values[:, -1] for x in shown]
    yield f"distance to the {NEAREST}th nearest", Answer(None, *far)
    kth = torch.cdist(anchors, anchors).topk(K + 1, largest=False).values[:, -1]
    widths = {"self-tuned": SelfTuned(), "constant": Constant(kth.median().item())}
    for width, bandwidth in widths.items():
        for tau in TAUS:
            graph = graph_of(trained, anchors, bandwidth, tau)
            told, other = (graph.query(x) for x in shown)
            name = f"{width} bandwidth, tau = {tau:g}"
            yield f"largest score, {name}", Answer(told, 1 - told.amax(1), 1 - other.amax(1))
            yield f"abstention, {name}", Answer(told, 1 - told.sum(1), 1 - other.sum(1))


def measure(answer: Answer, labels: Tensor) -> dict[str, float]:
    """Return AUROC, and on the known samples calibration, error, and error among the surest."""
    doubt = torch.cat([answer.doubt_known, answer.doubt_unknown])
    is_unknown = torch.arange(len(doubt)) >= len(labels)
    found = {"auroc": float(roc_auc_score(is_unknown.numpy(), doubt.numpy()))}
    if answer.probabilities is None:
        return {**found, "ece": float("nan"), "error": float("nan"), "kept_error": float("nan")}
    wrong = answer.probabilities.argmax(1) != labels
    surest = answer.doubt_known.sort(stable=True).indices[: int(COVERAGE * len(labels))]
    return {
        **found,
        "ece": calibration_error(answer.probabilities.double(), labels),
        "error": wrong.double().mean().item(),
        "kept_error": wrong[surest].double().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--quick", action="store_true", help="train a moment, keep no rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("WEFT_DATA", str(ROOT))
    keys = ("data", "head", "method", "seed")
    table = Table(HERE / "unknown.csv", keys, ("auroc", "ece", "error", "kept_error"))
    if arguments.quick:
        table = Table(Path(tempfile.mkdtemp()) / "quick.csv", table.keys, table.measures)
    shown = {name: load_data(name, root=ROOT) for name in DATA}
    for seed in range(arguments.seeds):
        for data, other in (DATA, DATA[::-1]):
            for head in ("softmax", "graph"):
                place = {"data": data, "head": head, "seed": seed}
                if table.read(**place):
                    continue
                began = time.process_time()
                recipe = {"data": data, "head": head, "seed": seed, "k": K}
                if arguments.quick:
                    recipe |= {"labels": 200, "epochs": 1, "steps": 2}
                with tempfile.TemporaryDirectory() as folder:
                    run = Run.create(Path(folder) / "run", replace(SOFTMAX, **recipe))
                    train(run)
                    trained = load_trained(run)
                some = torch.randperm(10_000, generator=torch.Generator().manual_seed(seed))
                some = some[: 200 if arguments.quick else NUM_SHOWN]
                inputs, labels = shown[data].test_inputs[some], shown[data].test_labels[some]
                with torch.no_grad():
                    rows = [
                        {**place, "method": name, **measure(answer, labels)}
                        for name, answer in answers(trained, inputs, shown[other].test_inputs[some])
                    ]
                table.add(rows)
                seconds = time.process_time() - began
                print(*place.values(), f"{seconds:.0f} s", file=sys.stderr, flush=True)
    show(table)


def show(table: Table) -> None:
    """Print means over the seeds, with 95 % t-intervals, in percent."""
    for data in DATA:
        print(f"\nknown: {data}\n")
        print("| network | doubt | AUROC | ECE | error | error of the surest 80 % |")
        print("|---|---|---|---|---|---|")
        named = dict.fromkeys(
            (row["head"], row["method"]) for row in table.read() if row["data"] == data
        )
        for head, name in named:
            setting = {"data": data, "head": head, "method": name}
            cells = [interval(table.values(measure, **setting)) for measure in table.measures]
            print(f"| {head} | {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()

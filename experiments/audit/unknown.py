"""Show a classifier samples of classes it has never seen, and ask how sure it is.

    python experiments/audit/unknown.py --seeds 5

MNIST-trained, Fashion-MNIST-shown, and reversed. Per seed, a softmax CNN and the same CNN under a
graph head are trained with 2,000 labels by the lab; 2,000 test samples of the known data and 2,000
of the unknown come one at a time. Doubt is measured by the softmax (largest probability, energy, k
nearest features) and by the graph, of either network: one less the largest score, and abstention,
with self-tuned and with constant bandwidth. AUROC says how well doubt tells unknown from known; on
the known alone, the calibration error, the error, and the error among the surest 80 %. Rows go to
unknown.csv as they come, and points of two curves to curves.csv: error by coverage, and accuracy by
confidence. What is there is not run again. Then prints the tables, and draws unknown.png.
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

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
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
COVERAGES = range(20, 101, 5)  # percent of the samples
DRAWN = (
    ("softmax", "largest probability"),
    ("softmax", "largest score, self-tuned bandwidth, tau = 0.01"),
    ("graph", "largest score, self-tuned bandwidth, tau = 0.01"),
    ("graph", "abstention, self-tuned bandwidth, tau = 0.01"),
)
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


def curves(answer: Answer, labels: Tensor) -> Iterator[dict[str, object]]:
    """Return the error among the surest, and the accuracy of ten bins of confidence."""
    if answer.probabilities is None:
        return
    confidence, guess = answer.probabilities.max(1)
    right = (guess == labels).double()
    order = answer.doubt_known.sort(stable=True).indices
    for coverage in COVERAGES:
        error = 1 - right[order[: coverage * len(order) // 100]].mean().item()
        yield {"curve": "risk", "at": coverage, "value": error, "share": coverage / 100}
    which = (10 * confidence).long().clamp(max=9)
    for bin_number in which.unique().tolist():
        inside = which == bin_number
        yield {
            "curve": "reliability",
            "at": bin_number,
            "value": right[inside].mean().item(),
            "share": inside.double().mean().item(),
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
    points = Table(HERE / "curves.csv", (*keys, "curve", "at"), ("value", "share"))
    if arguments.quick:
        folder = Path(tempfile.mkdtemp())
        table = Table(folder / "unknown.csv", table.keys, table.measures)
        points = Table(folder / "curves.csv", points.keys, points.measures)
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
                    said = list(answers(trained, inputs, shown[other].test_inputs[some]))
                points.add(
                    {**place, "method": name, **point}
                    for name, answer in said
                    if (head, name) in DRAWN
                    for point in curves(answer, labels)
                )
                table.add(
                    {**place, "method": name, **measure(answer, labels)} for name, answer in said
                )
                seconds = time.process_time() - began
                print(*place.values(), f"{seconds:.0f} s", file=sys.stderr, flush=True)
    show(table)
    draw(points)


def draw(points: Table) -> None:
    """Draw error by coverage and accuracy by confidence, means over the seeds."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for (risk, reliability), data in zip(axes, DATA, strict=True):
        for head, name in DRAWN:
            setting = {"data": data, "head": head, "method": name}
            label = f"{head} network: {name.replace(', self-tuned bandwidth, tau = 0.01', '')}"
            errors = [points.values("value", curve="risk", at=c, **setting) for c in COVERAGES]
            risk.plot(COVERAGES, [e.mean() for e in errors], label=label)
            if name.startswith("abstention"):  # its confidence is that of the line above
                continue
            filled = {}
            for n in range(10):
                place = {"curve": "reliability", "at": n, **setting}
                if points.values("share", **place).sum() > 1:  # percent; less says nothing
                    filled[10 * n + 5] = points.values("value", **place).mean()
            reliability.plot(list(filled), list(filled.values()), "o-", label=label)
        risk.set(xlabel="answered, % of the samples", ylabel="error among them, %", title=data)
        reliability.plot([0, 100], [0, 100], ":", color="0.5")
        reliability.set(xlabel="confidence, %", ylabel="right, %", title=data)
        for axis in (risk, reliability):
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    figure.savefig(points.path.with_name("unknown.png"), dpi=100)


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

"""The attacks: as the papers ran them, and as someone would who has read how the model works."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from objectives import prepared
from torch import Generator, Tensor, nn

from weft.graph import Constant, Gaussian
from weft.heads import GraphClassifier, GraphHead
from weft.robustness import (
    APGD,
    FGSM,
    PGD,
    FeatureDistance,
    IndependentRows,
    JointBatch,
    LInf,
    Method,
    Relay,
    Result,
    Search,
    Square,
    Threat,
    attack,
    cross_entropy,
    dlr,
    margin,
    worst_case,
)

BATCH = 250


def published(epsilon: float) -> list[Method]:
    """Return the attacks of the papers: on the cross-entropy, no restart."""
    steps = max(5, round(100 * epsilon))
    return [FGSM(), PGD(steps, random_start=False, loss=cross_entropy)]


def adaptive(model: nn.Module, *, steps: int = 30, queries: int = 100) -> list[Method]:
    """Return the attacks of someone who knows the model: other losses, surrogates, no gradient.

    A classifier without graph gets the same number of gradients: more restarts, no surrogates.
    """
    own = [
        APGD(steps, loss=cross_entropy),
        APGD(steps, loss=margin, restarts=2),
        APGD(steps, loss=dlr),
    ]
    if not isinstance(model, GraphClassifier):
        return [*own, APGD(steps, loss=margin, restarts=4), Square(queries)]
    with torch.no_grad():
        anchors = model.head.prepare(model.anchor_features())
    away = FeatureDistance(anchors, model.anchor_labels, temperature=0.05)
    return [
        *own,
        APGD(steps, loss=away, surrogate=prepared(model)),
        APGD(steps, loss=margin, surrogate=softer(model, wide=True)),
        APGD(steps, loss=margin, surrogate=softer(model, wide=False)),
        Square(queries),
    ]


def softer(model: GraphClassifier, *, wide: bool) -> nn.Module:
    """Return the model with a head whose gradients reach further: wide kernel, or fast decay."""
    old = model.head
    with torch.no_grad():
        anchors = old.prepare(model.anchor_features())
        spread = anchors.var(0, unbiased=False).sum().sqrt().item()
    head = GraphHead(
        old.num_classes,
        k=2 * old.k if wide else old.k,
        kernel=Gaussian(1.0) if wide else old.kernel,
        bandwidth=Constant(max(spread, 1e-3)) if wide else old.bandwidth,
        tau=0.01 if wide else 1.0,
        normalize=old.normalize,
        input_edges=old.input_edges,
    )
    other = GraphClassifier(model.backbone, head, model.anchor_inputs, model.anchor_labels)
    return other.eval()


def threat_of(model: nn.Module) -> Threat:
    """Return who may move: a whole batch where there is a graph, else each row by itself."""
    graph = isinstance(model, GraphClassifier)
    return JointBatch(BATCH) if graph else IndependentRows(BATCH)


def run(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    epsilon: float,
    methods: Sequence[Method],
    seed: int,
    *,
    relay: bool = False,
) -> list[Result]:
    """Run attacks one after the other; with a relay at the end, from the best of each row."""
    options = {"ball": LInf(epsilon), "threat": threat_of(model)}
    results = []
    for method in methods:
        generator = Generator().manual_seed(seed)
        results.append(attack(model, inputs, labels, method=method, generator=generator, **options))
        if results[-1].replayed_accuracy == 0:
            return results
    if relay:
        margins = torch.stack([result.margin for result in results])
        points = torch.stack([result.inputs for result in results])
        best = points[margins.argmax(0), torch.arange(len(labels))]
        results.append(attack(model, inputs, labels, method=Relay(best, steps=30), **options))
    return results


@dataclass(frozen=True)
class PublishedCW:
    """The papers' form of CW-L2: probabilities, one constant, the runner-up of the clean answer.

    Args:
        constant: weight of the margin.
        steps: of Adam at 0.005.

    Source: settings as in the released code of arXiv 2412.08016; pixels here in [0, 1].
    """

    constant: float
    steps: int = 100

    def __str__(self) -> str:
        return f"CW as published, c = {self.constant:g}"

    def __call__(self, search: Search) -> None:
        """Descend, and offer the last point only."""
        clean, labels = search.clean, search.scene.labels
        with torch.no_grad():
            outputs = search.scene.craft(search.predict, clean)[0]
        runner_up = outputs.scatter(1, labels[:, None], -torch.inf).argmax(1, keepdim=True)

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            shares = logits.softmax(1)
            ahead = shares.gather(1, runner_up) - shares.gather(1, labels[:, None])
            return self.constant * ahead.squeeze(1).clamp(max=0)

        points = clean.clone()
        adam = torch.optim.Adam([points], lr=0.005)
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = points.clone().requires_grad_()
                losses = loss(search.scene.craft(search.predict, leaf)[0], labels)
                (slope,) = torch.autograd.grad(losses.sum(), leaf)
            points.grad = 2 * (points - clean) - slope
            adam.step()
            points.clamp_(0, 1)
        search.offer(points)


def row(result: Result) -> dict[str, str | float]:
    """Return what the table keeps of an attack."""
    return {
        "attack": result.method,
        "threat": result.threat,
        "clean": result.clean_accuracy,
        "accuracy": result.replayed_accuracy,
        "union": result.replayed_accuracy,
        "distance": result.distance.median().item(),
    }


def worst_row(results: Sequence[Result]) -> dict[str, str | float]:
    """Return the worst case over attacks."""
    worst = worst_case(results)
    return {
        "attack": "worst case",
        "threat": worst.threat,
        "clean": worst.clean_accuracy,
        "accuracy": worst.accuracy,
        "union": worst.union,
    }

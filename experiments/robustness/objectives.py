"""What training minimises: plain, adversarial, TRADES, isometry, perturbation pairs, Jacobians.

Each is called with (model, inputs, labels, generator, progress), progress in [0, 1) through the
training, and works with every head: attacks of a training step are joint over its batch, and
go through the graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from weft.heads import GraphClassifier
from weft.isometry import Expansion, IsometryRegularizer, WorstDirection, perturbation_loss
from weft.robustness import FeatureDistance, Loss, cross_entropy


class Objective(Protocol):
    """Returns the loss of a training step."""

    def __call__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        generator: Generator,
        progress: float,
    ) -> Tensor:
        """Return a number to be differentiated."""
        ...


@dataclass(frozen=True)
class Plain:
    """The cross-entropy; for heads that abstain, of the probabilities that are left."""

    def __call__(self, model, inputs, labels, generator, progress) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(model(inputs), labels)


@dataclass(frozen=True)
class Adversarial:
    """The cross-entropy at points that PGD found; epsilon grows during the first 30 %.

    Args:
        epsilon: radius for pixels in [0, 1].
        steps: gradients for each training step.
        climb: what PGD climbs: cross-entropy or margin.
        features: share of rows that are attacked in feature space instead, away from the anchors
            of their class; for graph classifiers.

    Source: Madry et al., ICLR 2018.
    """

    epsilon: float
    steps: int = 5
    climb: Loss = cross_entropy
    features: float = 0.0

    def __call__(self, model, inputs, labels, generator, progress) -> Tensor:
        """Return the loss."""
        epsilon = self.epsilon * min(1.0, progress / 0.3 + 0.05)
        climb = self.climb
        moved = perturbed(model, inputs, labels, epsilon, self.steps, generator, climb)
        if self.features:
            some = torch.rand(len(inputs), generator=generator) < self.features
            moved[some] = in_features(
                model, inputs[some], labels[some], epsilon, self.steps, generator
            )
        return F.cross_entropy(model(moved), labels)


@dataclass(frozen=True)
class Pairs:
    """Cross-entropy, and features that move no further than the pixels, in the worst direction.

    No label and no adversarial example of the classifier is involved.

    Args:
        epsilon: radius for pixels in [0, 1].
        weight: of the hinge.
        steps: gradients for each training step.
        isometry: weight of the stress within classes, beside it.
        relative: distances in units of the spread of the batch, of features as the head sees them.
    """

    epsilon: float
    weight: float = 10.0
    steps: int = 3
    isometry: float = 0.0
    relative: bool = False

    def __call__(self, model, inputs, labels, generator, progress) -> Tensor:
        """Return the loss."""
        loss = Isometry(self.isometry)(model, inputs, labels, generator, progress)
        return loss + self.term(model, inputs, generator)

    def term(self, model: nn.Module, inputs: Tensor, generator: Generator) -> Tensor:
        """Return the hinge, weighted."""
        apart = perturbation_loss(
            prepared(model) if self.relative else encoder_of(model),
            inputs,
            WorstDirection(self.epsilon, self.steps),
            discrepancy=Expansion(),
            relative=self.relative,
            generator=generator,
        )
        return self.weight * apart


@dataclass(frozen=True)
class Trades:
    """Cross-entropy at the inputs, and beta times how far predictions nearby diverge from them.

    Args:
        epsilon: radius for pixels in [0, 1].
        steps: gradients for each training step.
        beta: weight of the divergence.
        warmup: share of the training in which the radius grows.
        pairs: their term beside it, weight included.

    Source: Zhang et al., ICML 2019.
    """

    epsilon: float
    steps: int = 5
    beta: float = 6.0
    warmup: float = 0.3
    pairs: Pairs | None = None

    def __call__(self, model, inputs, labels, generator, progress) -> Tensor:
        """Return the loss."""
        growth = progress / self.warmup + 0.05 if self.warmup else 1.0
        epsilon = self.epsilon * min(1.0, growth)
        with torch.no_grad(), evaluating(model):
            clean = model(inputs).softmax(1)

        def divergence(logits: Tensor, labels: Tensor) -> Tensor:
            return F.kl_div(logits.log_softmax(1), clean, reduction="none").sum(1)

        moved = perturbed(model, inputs, labels, epsilon, self.steps, generator, divergence)
        logits, nearby = two_graphs(model, inputs, moved)
        apart = F.kl_div(nearby.log_softmax(1), logits.softmax(1), reduction="batchmean")
        loss = F.cross_entropy(logits, labels) + self.beta * apart
        return loss + self.pairs.term(model, inputs, generator) if self.pairs else loss


@dataclass(frozen=True)
class Isometry:
    """Cross-entropy, and features that keep the distances within classes: their stress.

    Source: Beshkov, Verhellen, Lepperød, arXiv 2211.01236; the stress is free of scale.
    """

    weight: float

    def __call__(self, model, inputs, labels, generator, progress) -> Tensor:
        """Return the loss."""
        if not self.weight:
            return F.cross_entropy(model(inputs), labels)
        own = model.anchor_labels if isinstance(model, GraphClassifier) else labels[:0]
        with IsometryRegularizer(encoder_of(model), {"": self.weight}) as isometry:
            return F.cross_entropy(model(inputs), labels) + isometry(torch.cat([own, labels]))


@dataclass(frozen=True)
class Jacobian:
    """Cross-entropy, and the squared norm of the logits' Jacobian, by one random direction.

    Source: Hoffman, Roberts, Yaida, arXiv 1908.02729.
    """

    weight: float

    def __call__(self, model, inputs, labels, generator, progress) -> Tensor:
        """Return the loss."""
        inputs = inputs.clone().requires_grad_()
        logits = model(inputs)
        direction = F.normalize(torch.randn(logits.shape, generator=generator), dim=1)
        (slope,) = torch.autograd.grad((logits * direction).sum(), inputs, create_graph=True)
        norm = logits.shape[1] * slope.square().flatten(1).sum(1).mean()
        return F.cross_entropy(logits, labels) + self.weight / 2 * norm


def perturbed(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int,
    generator: Generator,
    climb: Loss = cross_entropy,
) -> Tensor:
    """Move a batch by PGD from a random start, jointly; anchors stay, and are encoded once."""
    step = 2.5 / steps * epsilon
    low, high = (inputs - epsilon).clamp_min(0), (inputs + epsilon).clamp_max(1)
    moved = (inputs + epsilon * (2 * torch.rand(inputs.shape, generator=generator) - 1)).clamp(0, 1)
    with evaluating(model):
        for _ in range(steps):
            moved.requires_grad_()
            (slope,) = torch.autograd.grad(climb(model(moved), labels).sum(), moved)
            moved = torch.minimum(torch.maximum(moved.detach() + step * slope.sign(), low), high)
    return moved


def in_features(
    model: GraphClassifier,
    inputs: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int,
    generator: Generator,
) -> Tensor:
    """Move a batch away from the anchors of its classes, in feature space."""
    with evaluating(model):
        anchors = model.head.prepare(model.anchor_features())
    climb = FeatureDistance(anchors, model.anchor_labels)
    return perturbed(_Eval(prepared(model)), inputs, labels, epsilon, steps, generator, climb)


class _Eval(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.forward = function


class evaluating:  # noqa: N801 (reads as a verb)
    """Evaluation mode for a while: a graph classifier then encodes its anchors once."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.mode = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *exception: object) -> None:
        self.model.train(self.mode)


def two_graphs(model: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of two batches, each in its own graph; anchors are encoded once."""
    if not isinstance(model, GraphClassifier) or model.head.input_edges:
        return model(first), model(second)
    count = len(model.anchor_labels)
    features = model.backbone(torch.cat([model.anchor_inputs, first, second]))
    shared, *parts = features.split([count, len(first), len(second)])
    unknown = model.anchor_labels.new_full((len(first),), -1)
    labels = torch.cat([model.anchor_labels, unknown])
    one, other = (model.head(torch.cat([shared, part]), labels)[count:] for part in parts)
    return one, other


def encoder_of(model: nn.Module) -> nn.Module:
    """Return the part that makes features."""
    return model.backbone if isinstance(model, GraphClassifier) else next(model.children())


def prepared(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return inputs to features as the head sees them: a graph may take them at length one."""
    body = encoder_of(model)
    if not isinstance(model, GraphClassifier):
        return body
    return lambda points: model.head.prepare(body(points))

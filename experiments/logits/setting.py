"""Many small classifiers trained side by side: one for each seed, all in one tensor.

The seeds share nothing but the arithmetic: each has its own split, class ranks, initial weights
and batches. Perturbations are weft's own objects, one per seed, called on that seed's logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from weft.lab.data import load_data
from weft.lab.long_tail import long_tail
from weft.logits import ISDA, ClassStats, LogitAdjustment, Perturbation, PriorShift

NUM_CLASSES, HIDDEN, TEST_PER_CLASS, SPARE_PER_CLASS = 10, (64, 64), 80, 4
EPOCHS, BATCH = 100, 64
Pair = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
CROSS_ENTROPY = partial(F.cross_entropy, reduction="none")


@dataclass(frozen=True)
class Method:
    """How a classifier is trained, apart from its network, its data and its number of epochs.

    Args:
        perturb: makes the perturbation from the counts of the training classes.
        loss: logits and targets to one value per sample (or per sample and label).
        spread: final strength of ISDA, raised from zero with the epochs, before any perturbation.
        scale: logits are this many times the cosine of features and weights; 0: a linear layer.
        own_loss: makes a loss from the counts, to be used in the place of `loss`.
        deferred: the share of the epochs before it is.
        after_epoch: called for each seed with the perturbation, and the logits and targets of the
            training samples and of the spares.
        post_hoc: temperature of the logit adjustment of predictions.
        learning_rate: the peak.
        weight_decay: on all parameters.
    """

    perturb: Callable[[ClassStats], Perturbation] | None = None
    loss: Loss = CROSS_ENTROPY
    spread: float = 0.0
    scale: float = 0.0
    own_loss: Callable[[ClassStats], Loss] | None = None
    deferred: float = 0.0
    after_epoch: Callable[[Perturbation, Pair, Pair], None] | None = None
    post_hoc: float = 0.0
    learning_rate: float = 0.1
    weight_decay: float = 5e-4


@dataclass(frozen=True)
class Tasks:
    """The same task once per seed: the first axis of every tensor is that of the seeds."""

    seeds: Sequence[int]
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    stats: list[ClassStats]
    spares: tuple[Tensor, Tensor] | None = None

    @classmethod
    def stack(
        cls,
        seeds: Sequence[int],
        parts: Sequence[tuple[Tensor, ...]],
        stats: list[ClassStats],
        spares: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> "Tasks":
        """Stack (inputs, targets, test_inputs, test_targets), one tuple per seed."""
        columns = [torch.stack(column) for column in zip(*parts, strict=True)]
        others = [torch.stack(column) for column in zip(*spares, strict=True)]
        return cls(seeds, *columns, stats, tuple(others) if others else None)


def digits(seeds: Sequence[int], imbalance: float, largest: int = 90) -> Tasks:
    """Make long-tailed digits, 80 test images of each class; all seeds draw from the 1797 images.

    Pixels are standardised by one mean and one deviation, those of all images. The spares are 4
    images of each class that are in neither part.
    """
    data = load_data("digits")
    inputs = torch.cat([data.train_inputs, data.test_inputs]).flatten(1)
    inputs = (inputs - inputs.mean()) / inputs.std()
    labels = torch.cat([data.train_labels, data.test_labels])
    parts, spares, stats = [], [], []
    for seed in seeds:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        test, rest = first_of_each(order, labels, TEST_PER_CLASS)
        train = rest[long_tail(labels[rest], imbalance, seed, largest=largest)]
        spare, _ = first_of_each(rest[~torch.isin(rest, train)], labels, SPARE_PER_CLASS)
        parts.append((inputs[train], labels[train], inputs[test], labels[test]))
        spares.append((inputs[spare], labels[spare]))
        stats.append(ClassStats.from_targets(labels[train], NUM_CLASSES))
    return Tasks.stack(seeds, parts, stats, spares)


def first_of_each(rows: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Split rows into the first `count` of each class and the rest, class by class."""
    by_class = [rows[labels[rows] == c] for c in range(NUM_CLASSES)]
    first, rest = ([part[cut] for part in by_class] for cut in (slice(count), slice(count, None)))
    return torch.cat(first), torch.cat(rest)


class Networks(nn.Module):
    """One MLP per seed, initialised as `nn.Linear` is, from the seed alone."""

    def __init__(self, seeds: Sequence[int], sizes: Sequence[int], scale: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            drawn = torch.stack([torch.rand(fan_in + 1, fan_out, generator=g) for g in generators])
            drawn = (2 * drawn - 1) / fan_in**0.5
            self.weights.append(nn.Parameter(drawn[:, :-1].clone()))
            self.biases.append(nn.Parameter(drawn[:, -1:].clone()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (seeds, n, d) to logits; inputs with one more axis are tiles, pooled by maximum."""
        *hidden, last = zip(self.weights, self.biases, strict=True)
        features = inputs.flatten(1, -2)
        for weight, bias in hidden:
            features = torch.baddbmm(bias, features, weight).relu()
        if inputs.ndim == 4:
            features = features.unflatten(1, inputs.shape[1:3]).amax(2)
        weight, bias = last
        self.features = features
        if not self.scale:
            return torch.baddbmm(bias, features, weight)
        return self.scale * F.normalize(features, dim=-1) @ F.normalize(weight, dim=1)


class LastLayer(nn.Module):
    """The last layer of one seed, as ISDA reads it."""

    def __init__(self, networks: Networks, lane: int) -> None:
        super().__init__()
        self.networks, self.lane = (networks,), lane

    @property
    def weight(self) -> Tensor:
        """Return the weights as they are now, (classes, features)."""
        return self.networks[0].weights[-1][self.lane].T


def mlps(tasks: Tasks, method: Method, *, hidden: Sequence[int] = HIDDEN) -> Networks:
    """Build one MLP per seed."""
    outputs = tasks.stats[0].num_classes
    return Networks(tasks.seeds, (tasks.inputs.shape[-1], *hidden, outputs), method.scale)


def train(
    tasks: Tasks,
    method: Method,
    *,
    build: Callable[[Tasks, Method], nn.Module] = mlps,
    epochs: int = EPOCHS,
    batch: int = BATCH,
    augment: Callable[[Tensor, Generator], Tensor] | None = None,
) -> nn.Module:
    """Train one network per seed by Nesterov SGD under a cosine schedule.

    Args:
        tasks: what to learn.
        method: how.
        build: makes the networks, inputs (seeds, n, ...) to logits (seeds, n, classes).
        epochs: how many.
        batch: samples per step and seed.
        augment: changes the inputs of a batch, where there is one seed.
    """
    count = tasks.inputs.shape[1]
    networks = build(tasks, method).train()
    torch.manual_seed(tasks.seeds[0])  # for perturbations that draw
    perturbations = [method.perturb(stats) for stats in tasks.stats] if method.perturb else []
    lanes = range(len(tasks.seeds)) if method.spread else ()
    spreads = [ISDA(LastLayer(networks, lane)) for lane in lanes]
    own = [method.own_loss(stats) for stats in tasks.stats] if method.own_loss else []
    optimizer = torch.optim.SGD(
        networks.parameters(),
        lr=method.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=method.weight_decay,
    )
    steps = -(-count // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    generators = [torch.Generator().manual_seed(seed) for seed in tasks.seeds]
    lane = torch.arange(len(tasks.seeds))[:, None]
    for epoch in range(epochs):
        order = torch.stack([torch.randperm(count, generator=g) for g in generators])
        for rows in order.tensor_split(steps, dim=1):
            inputs, targets = tasks.inputs[lane, rows], tasks.targets[lane, rows]
            if augment:
                inputs = augment(inputs[0], generators[0])[None]
            logits = networks(inputs)
            if method.spread:
                strength = method.spread * epoch / epochs
                parts = zip(spreads, networks.features, logits, targets, strict=True)
                logits = torch.stack([widen(*part, strength) for part in parts])
            if perturbations:
                triples = zip(perturbations, logits, targets, strict=True)
                logits = torch.stack([change(each, right) for change, each, right in triples])
            if own and epoch >= method.deferred * epochs:
                triples = zip(own, logits, targets, strict=True)
                losses = torch.stack([loss(each, right) for loss, each, right in triples])
            else:
                losses = method.loss(logits.flatten(0, 1), targets.flatten(0, 1))
                losses = losses.unflatten(0, rows.shape)
            optimizer.zero_grad()
            losses.flatten(1).mean(1).sum().backward()  # a sum keeps the seeds' gradients apart
            optimizer.step()
            schedule.step()
        if method.after_epoch:
            report(method, networks, perturbations, tasks)
    return networks.eval()


def widen(isda: ISDA, features: Tensor, logits: Tensor, targets: Tensor, strength: float) -> Tensor:
    """Return one seed's logits, raised where the features of the class spread."""
    isda.strength = strength
    isda.observe(features.detach(), targets)
    return isda(logits, targets)


@torch.no_grad()
def report(
    method: Method, networks: nn.Module, perturbations: list[Perturbation], tasks: Tasks
) -> None:
    """Show each seed's perturbation what the network makes of its training samples and spares."""
    spare_inputs, spare_targets = tasks.spares
    trained, spare = networks(tasks.inputs), networks(spare_inputs)
    pairs = zip(trained, tasks.targets, strict=True), zip(spare, spare_targets, strict=True)
    for change, seen, unseen in zip(perturbations, *pairs, strict=True):
        method.after_epoch(change, seen, unseen)


@torch.no_grad()
def predict(networks: nn.Module, tasks: Tasks, post_hoc: float = 0.0) -> Tensor:
    """Return the logits of the test samples, adjusted afterwards at the temperature `post_hoc`."""
    logits = networks(tasks.test_inputs)
    if not post_hoc:
        return logits
    shift = PriorShift if tasks.targets.ndim == 3 else LogitAdjustment
    pairs = zip(tasks.stats, logits, strict=True)
    return torch.stack([shift(stats, post_hoc).post_hoc(each) for stats, each in pairs])

"""Can learning the shift add something to the fixed margin? Six attempts on long-tailed digits.

    python experiments/logits/beyond.py

Each attempt is tuned like the methods of digits.py, on the same tuning seeds with as many settings,
and is tested on the same 30 seeds.
"""

import dataclasses
import warnings
from functools import partial
from itertools import product

import torch
from digits import GRIDS as TUNED
from digits import SEEDS, TUNED_DECAYS, TUNING_SEEDS
from rows import RESULTS, run, tune
from setting import NUM_CLASSES, SPARE_PER_CLASS, Method, Pair, Tasks, digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from weft._check import WeftWarning
from weft.logits import LPL, BySize, ClassMargin, ClassStats, Compose, LogitAdjustment

LEAST, MOST = -4.0, 12.0  # bounds that validation may reach


class Remembered(nn.Module):
    """LPL whose directions come from the confusion of classes over more than one batch.

    The library's LPL is asked for its shifts on one row per class, the logarithm of the class's
    remembered mean probabilities.

    Args:
        stats: the classes.
        bounds: which classes, how far.
        momentum: share of the old memory that a batch leaves; 1: only `remember` writes it.
    """

    def __init__(self, stats: ClassStats, bounds: BySize, momentum: float) -> None:
        super().__init__()
        self.lpl, self.momentum = LPL(stats, bounds), momentum
        count = stats.num_classes
        self.confusion = torch.full((count, count), 1 / count)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the perturbed logits."""
        if self.momentum < 1:
            self.remember(logits.detach(), targets, self.momentum)
        rows = self.confusion.log()
        return logits + (self.lpl(rows, torch.arange(len(rows))) - rows)[targets]

    def remember(self, logits: Tensor, targets: Tensor, momentum: float = 0.0) -> None:
        """Move the memory of the classes that are there towards their mean probabilities."""
        members = one_hot(targets, len(self.confusion)).to(logits).T
        there = members.any(1)
        means = members[there] @ logits.softmax(1) / members[there].sum(1, keepdim=True)
        self.confusion[there] = means.lerp(self.confusion[there], momentum).clamp_min(1e-20)


class PerSample(nn.Module):
    """Push every sample along its own confusion, as far as its class may go."""

    def __init__(self, stats: ClassStats, bounds: BySize) -> None:
        super().__init__()
        self.signed = bounds(stats.counts, stats.confidence).float()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the perturbed logits."""
        others = logits.detach().softmax(1).scatter(1, targets[:, None], 0)
        gradient = others.scatter(1, targets[:, None], -others.sum(1, keepdim=True))
        length = gradient.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return logits + self.signed[targets, None] * gradient / length


class Mutable:
    """Bounds that begin by size and are then moved by whoever holds them."""

    adaptive = True  # read anew in every batch

    def __init__(self, stats: ClassStats, start: BySize) -> None:
        self.signed = start(stats.counts, stats.confidence)

    def __call__(self, counts: Tensor, confidence: Tensor) -> Tensor:
        """Return the bounds as they are."""
        return self.signed


def composed(prior: float, own: nn.Module, stats: ClassStats) -> nn.Module:
    return Compose(LogitAdjustment(stats, prior), own) if prior else own


def remember_epoch(change: nn.Module, seen: Pair, unseen: Pair) -> None:
    """Renew a memory from all training samples."""
    logits, targets = seen
    if isinstance(change, Compose):
        adjustment, change = change.perturbations
        logits = adjustment(logits, targets)
    change.remember(logits, targets)


def follow_validation(change: LPL | ClassMargin, seen: Pair, unseen: Pair, *, rate: float) -> None:
    """Push up the classes with more loss on the spares than the mean class, the others down."""
    losses = cross_entropy(*unseen, reduction="none").double()
    by_class = losses.view(-1, SPARE_PER_CLASS).mean(1)  # the spares come class by class
    change.bounds.signed += rate * (by_class - by_class.mean())
    change.bounds.signed.clamp_(LEAST, MOST)


def remembered(delta: float, momentum: float, prior: float = 0.0) -> Method:
    def perturb(stats: ClassStats) -> nn.Module:
        return composed(prior, Remembered(stats, BySize(0.0, delta), momentum), stats)

    return Method(perturb, after_epoch=remember_epoch if momentum == 1 else None)


def per_sample(delta: float, prior: float = 0.0) -> Method:
    return Method(lambda stats: composed(prior, PerSample(stats, BySize(0.0, delta)), stats))


def validated(kind: type[LPL] | type[ClassMargin], delta: float, rate: float) -> Method:
    def perturb(stats: ClassStats) -> nn.Module:
        return kind(stats, Mutable(stats, BySize(0.0, delta)))

    return Method(perturb, after_epoch=partial(follow_validation, rate=rate))


ALONE, ADJUSTED = (2.0, 4.0, 6.0, 8.0), (0.5, 1.0, 2.0, 4.0)
PAIRS = tuple(product((2.0, 6.0), (0.02, 0.1)))
GRIDS = {
    "LPL, memory 0.9": {f"{d}": remembered(d, 0.9) for d in ALONE},
    "LPL, memory 0.99": {f"{d}": remembered(d, 0.99) for d in ALONE},
    "LPL, memory of an epoch": {f"{d}": remembered(d, 1.0) for d in ALONE},
    "LPL per sample": {f"{d}": per_sample(d) for d in ALONE},
    "LPL, bounds by validation": {f"{d}, rate {r}": validated(LPL, d, r) for d, r in PAIRS},
    "margin, bounds by validation": {
        f"{d}, rate {r}": validated(ClassMargin, d, r) for d, r in PAIRS
    },
    "LA 1 + LPL, memory 0.9": {f"{d}": remembered(d, 0.9, 1.0) for d in ADJUSTED},
    "LA 1 + LPL, memory of an epoch": {f"{d}": remembered(d, 1.0, 1.0) for d in ADJUSTED},
    "LA 1 + LPL per sample": {f"{d}": per_sample(d, 1.0) for d in ADJUSTED},
}


def with_spares(tasks: Tasks) -> Tasks:
    """Return the tasks with the spares among the training samples."""
    inputs, targets = tasks.spares
    return dataclasses.replace(
        tasks,
        inputs=torch.cat([tasks.inputs, inputs], 1),
        targets=torch.cat([tasks.targets, targets], 1),
        stats=[
            ClassStats.from_targets(torch.cat(pair), NUM_CLASSES)
            for pair in zip(tasks.targets, targets, strict=True)
        ],
    )


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", WeftWarning)
    tasks = digits(SEEDS, imbalance=50)
    tuning_tasks = [digits(TUNING_SEEDS, imbalance=50)]
    chosen = tune("imbalance 50", GRIDS, tuning_tasks, TUNED_DECAYS)
    run(RESULTS, "imbalance 50, tuned", chosen, tasks)
    # What the validation images are worth if one trains on them instead.
    families = ("LA", "margin", "LPL")
    tuned = tune("imbalance 50", {n: TUNED[n] for n in families}, tuning_tasks, TUNED_DECAYS)
    more = {f"{name}, trained on the validation images too": tuned[name] for name in families}
    run(RESULTS, "imbalance 50, tuned", more, with_spares(tasks))


if __name__ == "__main__":
    main()

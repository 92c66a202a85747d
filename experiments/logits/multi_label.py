"""Several labels per sample: composed digits, a generator without features, yeast, scene, bibtex.

    WEFT_DATA=... python experiments/logits/multi_label.py composed generated yeast scene bibtex

Each family of methods is tuned with as many settings on seeds, or on validation samples, that no
table is made from. Rows are added as they come; what is there is not run again.
"""

import argparse
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from rows import RESULTS, run, tune
from setting import Loss, Method, Tasks, mlps
from sklearn.datasets import make_multilabel_classification
from torch import Tensor, nn

from weft._check import WeftWarning
from weft.lab.multi_label import compose_digits, load_multi_label
from weft.logits import (
    BySize,
    ClassStats,
    Compose,
    MultiLabelLPL,
    NegativeTolerance,
    Perturbation,
    Polarity,
    PriorShift,
    asymmetric_loss,
    rebalanced_weights,
)

BCE = partial(F.binary_cross_entropy_with_logits, reduction="none")


# The loss is a mean over labels, ten times smaller than their sum on composed digits: so is this.
DECAY = 5e-5


def labelled(perturb: Callable[[ClassStats], Perturbation] | None = None, **fields) -> Method:
    """Return a method with a binary cross-entropy per label, and the weight decay of all."""
    return Method(perturb, **({"loss": BCE, "weight_decay": DECAY} | fields))


def pos_weight(power: float) -> Method:
    def own_loss(stats: ClassStats) -> Loss:
        return partial(BCE, pos_weight=((1 - stats.priors) / stats.priors).float() ** power)

    return labelled(own_loss=own_loss)


def asl(gamma_pos: float, gamma_neg: float, clip: float) -> Method:
    loss = partial(asymmetric_loss, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip)
    return labelled(loss=partial(loss, reduction="none"))


def tolerant(slope: float, *, rebalanced: bool = False) -> Method:
    """Shift by NTR; `rebalanced`, with focal loss and sampling weights, is DB."""

    def own_loss(stats: ClassStats) -> Loss:
        shift = NegativeTolerance(stats, slope)
        focal = partial(asymmetric_loss, gamma_pos=2.0, gamma_neg=2.0, clip=0.0, reduction="none")

        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            losses = (focal if rebalanced else BCE)(shift(logits, targets), targets)
            losses = losses * shift.weights(targets)
            return losses * rebalanced_weights(stats, targets) if rebalanced else losses

        return loss

    return labelled(own_loss=own_loss)


def prior_shift(strength: float) -> Method:
    return labelled(lambda stats: PriorShift(stats, strength))


def lpl(
    epsilon: float,
    polarity: Polarity = Polarity.SHARED,
    *,
    prior: bool = False,
    **options,
) -> Method:
    """Push the tail's labels alone, all of them equally far; after the prior shift if `prior`."""

    def perturb(stats: ClassStats) -> nn.Module:
        bounds = BySize(epsilon, delta_epsilon=0.0, head_scale=0.0)
        own = MultiLabelLPL(stats, bounds, polarity=polarity, **options)
        return Compose(PriorShift(stats), own) if prior else own

    return labelled(perturb)


# Two settings for each family, times the variations of the data set.
FAMILIES: dict[str, dict[str, Method]] = {
    "BCE": {f"decay {d:g}": labelled(weight_decay=d) for d in (DECAY, DECAY / 5)},
    "BCE, post-hoc shift": {f"{strength}": labelled(post_hoc=strength) for strength in (1.0, 0.5)},
    "pos_weight": {f"power {p}": pos_weight(p) for p in (1.0, 0.5)},
    "focal": {f"{g}": asl(g, g, 0.0) for g in (2.0, 1.0)},
    "ASL": {"1 / 4 / 0.05": asl(1.0, 4.0, 0.05), "0 / 2 / 0.05": asl(0.0, 2.0, 0.05)},
    "NTR": {f"slope {s}": tolerant(s) for s in (2.0, 5.0)},
    "DB": {f"slope {s}": tolerant(s, rebalanced=True) for s in (2.0, 5.0)},
    "prior shift": {f"{s}": prior_shift(s) for s in (1.0, 0.5)},
    "LPL shared": {f"{e}": lpl(e) for e in (4.0, 2.0)},
    "LPL positives": {f"{e}": lpl(e, Polarity.POSITIVES) for e in (4.0, 2.0)},
    "LPL negatives": {f"{e}": lpl(e, Polarity.NEGATIVES) for e in (4.0, 2.0)},
    "LPL both sides": {f"{e}": lpl(e, Polarity.MARGIN) for e in (4.0, 2.0)},
    "LPL raw": {f"{e}": lpl(e, steps=10, normalize=False) for e in (10.0, 4.0)},
    "prior shift + LPL positives": {
        f"{e}": lpl(e, Polarity.POSITIVES, prior=True) for e in (2.0, 1.0)
    },
    "prior shift + LPL shared": {f"{e}": lpl(e, prior=True) for e in (2.0, 1.0)},
}


@dataclass(frozen=True)
class Setting:
    """What is equal for all methods on one data set."""

    seeds: range
    tuning_seeds: range
    hidden: Sequence[int]
    epochs: int
    batch: int
    variations: Sequence[Mapping[str, float]]
    families: Mapping[str, Mapping[str, Method]]


def rates(*values: float) -> list[dict[str, float]]:
    return [{"learning_rate": value} for value in values]


# With 159 labels the mean over them is smaller again: decays are set anew, for all alike.
RATES_AND_DECAYS = [
    {"learning_rate": rate, "weight_decay": decay}
    for rate, decay in product((30.0, 100.0, 300.0), (1e-6, 5e-6, 2e-5))
]
VARIED = FAMILIES | {"BCE": {"plain": labelled()}}  # whose own settings were decays
SETTINGS = {
    "composed": Setting(
        range(16), range(1000, 1004), (48,), 60, 64, rates(0.2, 0.5, 1.0, 2.0, 4.0), FAMILIES
    ),
    "generated": Setting(
        range(20), range(1000, 1004), (32,), 60, 64, rates(0.1, 0.3, 1.0), FAMILIES
    ),
    "yeast": Setting(range(5), range(1000, 1002), (64,), 40, 64, rates(0.03, 0.1, 0.3), FAMILIES),
    "scene": Setting(range(5), range(1000, 1002), (64,), 40, 64, rates(0.05, 0.2, 0.5), FAMILIES),
    "bibtex": Setting(range(5), range(1000, 1002), (), 20, 128, RATES_AND_DECAYS, VARIED),
}


def counted(targets: Tensor) -> ClassStats:
    return ClassStats(targets.sum(0), num_samples=len(targets))


def composed(seeds: range) -> Tasks:
    """Draw images of up to four digits, with a long tail of digits in the training part."""
    sets = [compose_digits(seed) for seed in seeds]
    parts = [
        (s.train_inputs, s.train_targets.float(), s.test_inputs, s.test_targets.float())
        for s in sets
    ]
    return Tasks.stack(seeds, parts, [counted(targets) for _, targets, *_ in parts])


def generated(seeds: range) -> Tasks:
    """Draw scikit-learn's multi-label samples, thinned to a long tail.

    A training sample whose rarest label has rank r of 10 is kept with probability 50^(-r/9), until
    there are 900. The generator makes some labels rare by itself: a draw with fewer than 5
    positives of a label is drawn again.
    """
    parts = []
    for seed in seeds:
        state = seed
        while (part := draw_generated(state))[1].sum(0).min() < 5:
            state += 10_000
        parts.append(part)
    return Tasks.stack(seeds, parts, [counted(targets) for _, targets, *_ in parts])


def draw_generated(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, targets = make_multilabel_classification(
        20_000, n_features=20, n_classes=10, n_labels=3, random_state=seed
    )
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()
    rank = torch.randperm(10, generator=generator)
    rarest = (targets * rank).amax(1)
    test, pool = slice(2000), slice(2000, None)
    kept = torch.rand(18_000, generator=generator) < 50 ** (-rarest[pool] / 9)
    train = kept.nonzero()[:900, 0]
    train_inputs, train_targets = inputs[pool][train], targets[pool][train]
    mean, deviation = train_inputs.mean(0), train_inputs.std(0)
    return (
        *((train_inputs - mean) / deviation, train_targets),
        *((inputs[test] - mean) / deviation, targets[test]),
    )


def published(name: str, seeds: range, *, validation: bool) -> Tasks:
    """Load a data set once per seed, in its published split.

    The seed is that of the weights and batches; with `validation`, also that of a choice of 30 %
    of the training part that takes the place of the test part.
    """
    data = load_multi_label(name, Path(os.environ["WEFT_DATA"]))
    inputs, targets = data.train_inputs, data.train_targets.float()
    test_inputs, test_targets = data.test_inputs, data.test_targets.float()
    if name != "bibtex":  # whose features are zeros and ones
        mean, deviation = inputs.mean(0), inputs.std(0)
        inputs, test_inputs = (inputs - mean) / deviation, (test_inputs - mean) / deviation
    whole = inputs, targets, test_inputs, test_targets
    if not validation:
        # A view per seed: nothing is copied.
        columns = [column.expand(len(seeds), *column.shape) for column in whole]
        return Tasks(seeds, *columns, [counted(targets)] * len(seeds))
    parts = []
    for seed in seeds:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        held_out, rows = order.tensor_split([round(0.3 * len(order))])
        parts.append((inputs[rows], targets[rows], inputs[held_out], targets[held_out]))
    return Tasks.stack(seeds, parts, [counted(targets) for _, targets, *_ in parts])


def tasks_of(name: str, seeds: range, *, validation: bool) -> Tasks:
    drawn = {"composed": composed, "generated": generated}
    return drawn[name](seeds) if name in drawn else published(name, seeds, validation=validation)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="+", choices=SETTINGS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", WeftWarning)
    for name in arguments.names:
        setting = SETTINGS[name]
        options = {
            "build": partial(mlps, hidden=setting.hidden),
            "epochs": setting.epochs,
            "batch": setting.batch,
        }
        tasks = tasks_of(name, setting.tuning_seeds, validation=True)
        chosen = tune(name, setting.families, [tasks], setting.variations, "map", **options)
        run(RESULTS, name, chosen, tasks_of(name, setting.seeds, validation=False), **options)


if __name__ == "__main__":
    main()

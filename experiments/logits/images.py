"""Long-tailed Fashion-MNIST and CIFAR-10, imbalance 100: tuned on validation images, then tested.

    WEFT_DATA=... python experiments/logits/images.py fashion_mnist cifar10 cifar10_resnet32_even

Adds the rows of each run to results.csv (tuning: tuning.csv); what is there is not run again.
Fashion-MNIST is thinned to 1,000 images in its largest class, CIFAR-10 to what the 10,000 images
of its subset allow. Networks and epochs are small enough for one processor core: a ResNet-8 for
CIFAR-10, whose settings serve a ResNet-32 too, which is not tuned itself.
"""

import argparse
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from digits import la, ldam, lpl, margin, vs
from rows import RESULTS, run, tune
from setting import Method, Networks, Tasks
from torch import Tensor, nn
from torch.nn.functional import relu

from weft._check import WeftWarning
from weft.lab import augment
from weft.lab.data import load_data
from weft.lab.long_tail import long_tail
from weft.logits import ClassStats

IMBALANCE, NUM_CLASSES, NUM_VALID = 100, 10, 2000


@dataclass(frozen=True)
class Setting:
    """What is equal for all methods on one data set."""

    largest: int
    epochs: int
    batch: int
    augment: augment.Augmentation
    variations: Sequence[Mapping[str, float]]
    tuning_seeds: range
    seeds: range


RATE_AND_DECAY = [
    {"learning_rate": rate, "weight_decay": decay}
    for rate, decay in ((0.02, 5e-4), (0.02, 2e-3), (0.05, 5e-4))
]
SETTINGS = {
    "fashion_mnist": Setting(
        1000, 12, 64, augment.CLOTHING, RATE_AND_DECAY, range(1000, 1002), range(10)
    ),
    "cifar10": Setting(937, 16, 64, augment.NATURAL, RATE_AND_DECAY, range(1000, 1001), range(5)),
}
COMPARED = ("CE", "CE, post-hoc LA", "LA", "margin", "LPL", "LA 1 + margin", "LA 1 + LPL")
# Another network on the data, and with the chosen settings, of an entry above: residual blocks in
# each of the three stages, the methods that are compared, and what is the same for all of them.
DEEPER: dict[str, tuple[str, int, Sequence[str], Mapping[str, float]]] = {
    "cifar10_resnet32": ("cifar10", 5, COMPARED, {}),
    "cifar10_resnet32_even": ("cifar10", 5, COMPARED, {"learning_rate": 0.02}),
}
# Two settings of its own for each method that has any, times the variations of the data set.
GRIDS: dict[str, dict[str, Method]] = {
    "CE": {"plain": Method()},
    "CE, post-hoc LA": {f"{t}": Method(post_hoc=t) for t in (1.0, 1.5)},
    "LA": {f"{t}": la(t) for t in (1.0, 1.5)},
    "VS": {f"{g} / {t}": vs(g, t) for g, t in ((0.1, 1.0), (0.2, 1.0))},
    "LDAM-DRW": {f"0.5 / {s}": ldam(0.5, s, deferred=True) for s in (10.0, 20.0)},
    "margin": {f"{d}": margin(d) for d in (2.0, 4.0)},
    "LPL": {f"{d}": lpl(d) for d in (2.0, 4.0)},
    "LA 1 + margin": {f"{d}": margin(d, prior=1.0) for d in (1.0, 2.0)},
    "LA 1 + LPL": {f"{d}": lpl(d, prior=1.0) for d in (1.0, 2.0)},
}


class Lane(nn.Module):
    """One network for images in the place of one per seed: features, and a head on them."""

    def __init__(self, body: nn.Module, head: Networks) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, images: Tensor) -> Tensor:
        """Map (1, n, channels, height, width) to (1, n, classes)."""
        return self.head(self.body(images[0])[None])


class Residual(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *convolution(before, after, stride), nn.ReLU(), *convolution(after, after, 1)
        )
        same = before == after and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*convolution(before, after, stride))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, before, h, w) to (n, after, h / stride, w / stride)."""
        return relu(self.change(images) + self.shortcut(images))


def convolution(before: int, after: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
    ]


def build(name: str, tasks: Tasks, method: Method, *, blocks: int = 1) -> Lane:
    """Build a CNN of two convolutions for clothes, a ResNet with a strided stem for CIFAR-10.

    With one block in each of its three stages it has 8 layers, with five 32.
    """
    torch.manual_seed(tasks.seeds[0])
    if name == "fashion_mnist":
        layers = [*convolution(1, 16, 2), nn.ReLU(), *convolution(16, 32, 2), nn.ReLU()]
        body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU())
    else:
        stem = [*convolution(3, 16, 2), nn.ReLU()]
        stages = []
        for before, after, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            stages.append(Residual(before, after, stride))
            stages += [Residual(after, after, 1) for _ in range(blocks - 1)]
        body = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    body = body.to(memory_format=torch.channels_last)
    return Lane(body, Networks(tasks.seeds, (64, NUM_CLASSES), method.scale))


def tasks_of(name: str, seeds: range, *, validation: bool) -> Iterator[Tasks]:
    """Yield the task of each seed: its classes' ranks and images, and its initial weights.

    With `validation`, 2,000 images that no training part has take the place of the test part:
    of Fashion-MNIST the last ones of the 60,000, of CIFAR-10 those that its subset sets apart.
    """
    root = Path(os.environ["WEFT_DATA"])
    data = load_data(name, root=root)
    inputs, labels = data.train_inputs, data.train_labels
    test = data.test_inputs, data.test_labels
    if name == "fashion_mnist":
        held_out = inputs[-NUM_VALID:], labels[-NUM_VALID:]
        inputs, labels = inputs[:-NUM_VALID], labels[:-NUM_VALID]
    else:
        with np.load(root / "cifar10" / "cifar10_subset.npz") as archive:
            images = torch.from_numpy(archive["x_valid"]).permute(0, 3, 1, 2) / 255
            held_out = images, torch.from_numpy(archive["y_valid"]).long()
    mean, deviation = inputs.mean((0, 2, 3), keepdim=True), inputs.std((0, 2, 3), keepdim=True)
    for seed in seeds:
        rows = long_tail(labels, IMBALANCE, seed, largest=SETTINGS[name].largest)
        parts = inputs[rows], labels[rows], *(held_out if validation else test)
        train_inputs, train_labels, test_inputs, test_labels = parts
        part = (
            *((train_inputs - mean) / deviation, train_labels),
            *((test_inputs - mean) / deviation, test_labels),
        )
        stats = ClassStats.from_targets(train_labels, NUM_CLASSES)
        yield Tasks.stack([seed], [part], [stats])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="+", choices=[*SETTINGS, *DEEPER])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", WeftWarning)
    for name in arguments.names:
        data, blocks, methods, fields = DEEPER.get(name, (name, 1, list(GRIDS), {}))
        setting = SETTINGS[data]
        options = {
            "build": partial(build, data),
            "epochs": setting.epochs,
            "batch": setting.batch,
            "augment": setting.augment,
        }
        tasks = list(tasks_of(data, setting.tuning_seeds, validation=True))
        chosen = tune(data, GRIDS, tasks, setting.variations, **options)
        chosen = {family: replace(chosen[family], **fields) for family in methods}
        options["build"] = partial(build, data, blocks=blocks)
        for tasks in tasks_of(data, setting.seeds, validation=False):
            run(RESULTS, name, chosen, tasks, **options)


if __name__ == "__main__":
    main()

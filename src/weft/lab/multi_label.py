"""Load data sets whose samples have several labels each, or compose one out of digits.

Files are those of Mulan (`NAME-train.arff`, `NAME-test.arff`, `NAME.xml`). Nothing is downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.lab._arff import read_arff
from weft.lab._libraries import read_digits
from weft.lab._readers import DataError, first_line

NUM_TRAIN, NUM_TEST, NUM_TILES = 600, 800, 4


@dataclass(frozen=True, eq=False)
class MultiLabelDataset:
    """A task with several labels per sample: a training part and a test part.

    Args:
        name: what it was loaded as.
        train_inputs: vectors (n, d) or tiles of an image (n, tiles, d), float32.
        train_targets: which labels a sample has.
        test_inputs: like `train_inputs`.
        test_targets: like `train_targets`.
        label_names: L names.

    Raises:
        DataError: the sizes do not fit each other, or an input is not finite.
    """

    name: str
    train_inputs: Float[Tensor, "n *shape"]
    train_targets: Bool[Tensor, "n l"]
    test_inputs: Float[Tensor, "m *shape"]
    test_targets: Bool[Tensor, "m l"]
    label_names: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = {
            "train": (self.train_inputs, self.train_targets),
            "test": (self.test_inputs, self.test_targets),
        }
        for part, (inputs, targets) in parts.items():
            if targets.shape != (len(inputs), len(self.label_names)):
                raise DataError(
                    f"`{part}_targets` of {self.name} must be ({len(inputs)}, "
                    f"{len(self.label_names)}), a row per input and a column per label name, got "
                    f"{tuple(targets.shape)}."
                )
            if targets.dtype != torch.bool or not inputs.isfinite().all():
                raise DataError(
                    f"{self.name} must have finite inputs and boolean targets, got "
                    f"{inputs.dtype} and {targets.dtype} in {part}: look for nan, compare with 0."
                )


def load_multi_label(name: str, root: Path) -> MultiLabelDataset:
    """Load a data set of Mulan in its published split.

    Args:
        name: `yeast`, `scene` or `bibtex`, or another of the same layout.
        root: the data folder; files are in `root`/multilabel/NAME.

    Returns:
        Features in the file's own units; labels in the order of the file's columns.

    Raises:
        DataError: a file is missing, broken or of another layout; one line.
    """
    folder = root / "multilabel" / name
    try:
        names = {item.get("name") for item in ElementTree.parse(folder / f"{name}.xml").getroot()}
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(
            f"{folder / name}.xml must be there and list the labels: {first_line(error)}"
        ) from error
    tables = [read_arff(folder / f"{name}-{part}.arff") for part in ("train", "test")]
    is_label = torch.tensor([column in names for column in tables[0].names])
    if tables[0].names != tables[1].names or is_label.sum() != len(names):
        raise DataError(
            f"{folder} must have the same columns in both parts, every label of its .xml among "
            f"them, got {int(is_label.sum())} of {len(names)} labels: take files of one release."
        )
    train, test = (torch.from_numpy(table.values) for table in tables)
    return MultiLabelDataset(
        name,
        *(train[:, ~is_label], train[:, is_label] > 0.5),
        *(test[:, ~is_label], test[:, is_label] > 0.5),
        tuple(column for column in tables[0].names if column in names),
    )


def load_label_matrix(name: Literal["voc_mlt", "coco_mlt"], root: Path) -> Bool[Tensor, "n l"]:
    """Load which labels each training image of VOC-MLT or COCO-MLT has; there are no images.

    Args:
        name: which.
        root: the data folder; the file is `root`/longtail_labels/NAME_train_labels.npz.

    Raises:
        DataError: the file is missing or of another layout.
    """
    path = root / "longtail_labels" / f"{name}_train_labels.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            return torch.from_numpy(archive["labels"]) > 0
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} must be an .npz with an array `labels`: {first_line(error)}"
        ) from error


def compose_digits(seed: int, *, imbalance: float = 100.0) -> MultiLabelDataset:
    """Compose images of up to four digits; the labels are the digits in them.

    Each image has four tiles of 8×8 pixels. One to four of them hold a digit, the others nothing.
    In the training part digits are drawn by a long tail over the classes, whose ranks the seed
    shuffles; in the test part all are equally likely. The parts share no picture of a digit.

    Args:
        seed: of everything that is random; no global random state is read or changed.
        imbalance: how much likelier the first digit is than the last; 1 or more.

    Returns:
        600 training and 800 test images as (n, 4, 64), pixels in [0, 1].

    Raises:
        ValueError: `imbalance` is below 1.
    """
    if not 1 <= imbalance < float("inf"):
        raise ValueError(
            f"`imbalance` must be a finite ratio of 1 or more, got {imbalance}: "
            "give the chance of the first digit over that of the last."
        )
    generator = torch.Generator().manual_seed(seed)
    raw = read_digits().train
    pixels, digits = torch.from_numpy(raw.inputs).float().flatten(1), torch.from_numpy(raw.labels)
    rank = torch.randperm(10, generator=generator)
    order = torch.randperm(len(digits), generator=generator)
    half = len(order) // 2
    parts: list[tuple[Tensor, Tensor]] = []
    for pool, count, ratio in ((order[:half], NUM_TRAIN, imbalance), (order[half:], NUM_TEST, 1.0)):
        # A picture is drawn by the chance of its digit, shared among the pictures of that digit.
        chance = ratio ** (-rank / 9) / digits[pool].bincount(minlength=10)
        drawn = chance[digits[pool]].multinomial(
            count * NUM_TILES, replacement=True, generator=generator
        )
        drawn = pool[drawn].view(count, NUM_TILES)
        filled = torch.randint(1, NUM_TILES + 1, (count, 1), generator=generator)
        places = torch.rand(count, NUM_TILES, generator=generator).argsort(1)
        there = places < filled
        targets = torch.zeros(count, 10, dtype=torch.bool)
        targets[torch.arange(count).repeat_interleave(filled[:, 0]), digits[drawn[there]]] = True
        parts.append((pixels[drawn] * there[..., None], targets))
    train, test = parts
    return MultiLabelDataset("composed digits", *train, *test, tuple("0123456789"))

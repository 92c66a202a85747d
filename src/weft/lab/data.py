"""Load data sets as tensors, and choose which labels training may see.

Sources are named by words: `digits`, `moons`, `mnist`, `fashion_mnist`, `cifar10`, `PATH.npz`,
`PATH.csv`, a folder of images, `torchvision:NAME`, `hf:NAME`. Nothing is downloaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.lab._libraries import draw_moons, read_digits, read_hugging_face, read_torchvision
from weft.lab._readers import (
    DataError,
    Raw,
    read_csv,
    read_idx_folder,
    read_image_folder,
    read_npz,
)
from weft.lab._splits import Split, class_order, split_labels

__all__ = ["DataError", "Dataset", "Split", "load_data", "split_labels"]

DIGITS_TEST_SIZE = 500
TEST_FRACTION = 0.2  # of data that come in one piece
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification task: a training part and a test part.

    Args:
        name: what it was loaded as.
        train_inputs: float32; images (n, channels, height, width) in [0, 1], or vectors (n, d) in
            the source's own units.
        train_labels: classes 0 … C−1.
        test_inputs: like `train_inputs`.
        test_labels: like `train_labels`.
        class_names: C names.

    Raises:
        DataError: a part is empty, or shapes, types or labels do not fit each other.
    """

    name: str
    train_inputs: Float[Tensor, "n *shape"]
    train_labels: Int[Tensor, " n"]
    test_inputs: Float[Tensor, "m *shape"]
    test_labels: Int[Tensor, " m"]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = {
            "train": (self.train_inputs, self.train_labels),
            "test": (self.test_inputs, self.test_labels),
        }
        for part, (inputs, labels) in parts.items():
            if inputs.ndim not in (2, 4) or inputs.dtype != torch.float32:
                raise DataError(
                    f"`{part}_inputs` of {self.name} must be float32 images (n, channels, height, "
                    f"width) or vectors (n, d), got {inputs.dtype} {tuple(inputs.shape)}."
                )
            if labels.shape != inputs.shape[:1] or labels.dtype != torch.int64:
                raise DataError(
                    f"`{part}_labels` of {self.name} must be {len(inputs)} int64, one per input, "
                    f"got {labels.dtype} {tuple(labels.shape)}."
                )
            if not inputs.numel() or not inputs.isfinite().all():
                raise DataError(
                    f"`{part}_inputs` of {self.name} must be finite and not empty: "
                    "remove samples with nan or inf."
                )
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise DataError(
                    f"`{part}_labels` of {self.name} must lie in 0 to {self.num_classes - 1}, one "
                    f"per class name, got {labels.min()} to {labels.max()}."
                )
        if self.train_inputs.shape[1:] != self.test_inputs.shape[1:]:
            raise DataError(
                f"Train and test inputs of {self.name} must have one shape, got "
                f"{tuple(self.train_inputs.shape[1:])} and {tuple(self.test_inputs.shape[1:])}."
            )

    @property
    def num_classes(self) -> int:
        """C, the number of class names."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width), or None for vectors."""
        shape = self.train_inputs.shape[1:]
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def load_data(name: str, *, root: Path | None = None, seed: int = 0) -> Dataset:
    """Load a data set by its name or path.

    - `digits`: 1797 images of 8×8; 500 of them are the test part, in every run the same.
    - `moons`: two half circles in the plane, drawn with `seed`.
    - `mnist`, `fashion_mnist`: the four IDX files, plain or .gz, in `root`/NAME.
    - `cifar10`: `root`/cifar10/cifar10_subset.npz, arrays as in `PATH.npz`.
    - `PATH.npz`: x_train, y_train, x_test, y_test, or x and y; class_names may follow. Images are
      (n, h, w), (n, h, w, channels) or (n, channels, h, w): integers in 0 to 255, or floats in
      [0, 1]. Other arrays, such as x_valid, are left alone.
    - `PATH.csv`: numbers, and the class in a column named `label`, else in the last.
    - a folder: train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png.
    - `torchvision:NAME`, `hf:NAME`: what these libraries already keep on this machine.

    Data in one piece are split with `seed`: a fifth of each class is the test part.

    Args:
        name: one of the above.
        root: folder of `mnist`, `fashion_mnist`, `cifar10` and `torchvision:`; by default what the
            environment variable WEFT_DATA says.
        seed: for `moons` and for splits; nothing else is random.

    Returns:
        The data on the CPU. Classes are numbered in the order of their names, or of their values
        where all are integers.

    Raises:
        DataError: a file is missing, broken or of another layout; one line.
    """
    if name == "digits":
        # The test part must not move with the seed: results of several seeds are compared on it.
        return _dataset(name, read_digits(), num_test=DIGITS_TEST_SIZE, seed=0)
    if name == "moons":
        return _dataset(name, draw_moons(seed), seed=seed)
    path = Path(name)
    if name in ("mnist", "fashion_mnist"):
        raw = read_idx_folder(_root(name, root) / name)
        raw = raw._replace(class_names=CLOTHES if name == "fashion_mnist" else None)
    elif name == "cifar10":
        raw = read_npz(_root(name, root) / "cifar10" / "cifar10_subset.npz")
    elif name.startswith("torchvision:"):
        raw = read_torchvision(name.removeprefix("torchvision:"), _root(name, root))
    elif name.startswith("hf:"):
        raw = read_hugging_face(name.removeprefix("hf:"))
    elif path.suffix == ".npz":
        raw = read_npz(path)
    elif path.suffix == ".csv":
        raw = read_csv(path)
    elif path.is_dir():
        raw = read_image_folder(path)
    else:
        raise DataError(
            f"There are no data {name!r}: name digits, moons, mnist, fashion_mnist, cifar10, "
            "torchvision:NAME, hf:NAME, an .npz, a .csv, or a folder of images by class."
        )
    return _dataset(name, raw, seed=seed)


def _root(name: str, root: Path | None) -> Path:
    found = root or os.environ.get("WEFT_DATA")
    if not found:
        raise DataError(
            f"{name} is read from a data folder, and none is given: "
            "pass its root or set the environment variable WEFT_DATA."
        )
    return Path(found)


def _dataset(name: str, raw: Raw, *, seed: int, num_test: int | None = None) -> Dataset:
    parts = [raw.train] if raw.test is None else [raw.train, raw.test]
    for part in parts:
        if part.labels.shape != part.inputs.shape[:1] or not len(part.labels):
            raise DataError(
                f"{name} must have one label per input, got inputs {part.inputs.shape} and "
                f"labels {part.labels.shape}."
            )
    inputs = [_inputs(name, part.inputs) for part in parts]
    class_names, labels = _classes(name, [part.labels for part in parts], raw.class_names)
    if raw.test is None:
        if labels[0].bincount().eq(1).any():
            raise DataError(
                f"{name} has a class of one sample, but a test part needs two: add one."
            )
        order = class_order(labels[0], torch.Generator().manual_seed(seed), even=False)
        num_test = num_test or max(1, round(TEST_FRACTION * len(order)))
        halves = order[num_test:].sort().values, order[:num_test].sort().values
        inputs, labels = ([whole[half] for half in halves] for (whole,) in (inputs, labels))
    unseen = set(labels[1].tolist()) - set(labels[0].tolist())
    if unseen:
        raise DataError(
            f"{name} has the class {class_names[min(unseen)]!r} in its test part only: "
            "add training samples of it, or remove it."
        )
    return Dataset(name, inputs[0], labels[0], inputs[1], labels[1], class_names)


def _inputs(name: str, array: np.ndarray) -> Float[Tensor, "n *shape"]:
    """Return vectors as they are, and images scaled to [0, 1] with channels first."""
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "biuf":
        raise DataError(
            f"Inputs of {name} must be numbers, vectors (n, d) or images (n, h, w) or "
            f"(n, h, w, channels), got {array.dtype} {array.shape}."
        )
    tensor = torch.from_numpy(array.astype(np.float32))
    if array.ndim == 2:
        return tensor
    if not array.size:
        raise DataError(f"Images of {name} must have pixels, got the shape {array.shape}.")
    top = 255 if array.dtype.kind in "iu" else 1
    if not (array.min() >= 0 and array.max() <= top):  # also refuses nan
        raise DataError(
            f"Images of {name} must be integers in 0 to 255 or floats in [0, 1], "
            f"got {array.dtype} from {array.min()} to {array.max()}: rescale them."
        )
    tensor.div_(top)
    if array.ndim == 3:
        return tensor.unsqueeze(1)
    if array.shape[3] in (1, 3):
        return tensor.permute(0, 3, 1, 2).contiguous()
    if array.shape[1] in (1, 3):
        return tensor
    raise DataError(f"Images of {name} must have 1 or 3 channels, got the shape {array.shape}.")


def _classes(
    name: str, labels: list[np.ndarray], class_names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[Int[Tensor, " n"]]]:
    """Return the names of the classes and every part's labels as numbers 0 … C−1."""
    every = np.concatenate(labels)
    if every.dtype.kind not in ("iu" if class_names else "iuU"):
        wanted = "indices into class_names" if class_names else "integers or strings"
        raise DataError(f"Labels of {name} must be {wanted}, got {every.dtype}: convert them.")
    if class_names is None:
        values, every = np.unique(every, return_inverse=True)
        class_names = tuple(map(str, values))
    numbers = torch.from_numpy(every.astype(np.int64))
    return class_names, list(numbers.split([len(part) for part in labels]))

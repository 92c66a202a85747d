"""Read data sets that other libraries bring: scikit-learn, torchvision, Hugging Face `datasets`.

All are optional, imported when asked for, and kept from downloading.
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from weft.lab._readers import DataError, Part, Raw, first_line, stack_images

MOONS_SIZE = 500  # of each part
MOONS_NOISE = 0.1
# torchvision raises a RuntimeError when it was built for another PyTorch.
BROKEN = (ImportError, OSError, RuntimeError)


def read_digits() -> Raw:
    """Read the 1797 digits of 8×8 pixels that come with scikit-learn, in one piece."""
    images, labels = _sklearn_datasets("digits").load_digits(return_X_y=True)
    return Raw(Part(images.reshape(-1, 8, 8) / 16, labels))


def draw_moons(seed: int) -> Raw:
    """Draw two half circles in the plane, with noise."""
    points, labels = _sklearn_datasets("moons").make_moons(
        2 * MOONS_SIZE, noise=MOONS_NOISE, random_state=seed
    )
    halves = slice(MOONS_SIZE), slice(MOONS_SIZE, None)
    train, test = (Part(points[half], labels[half]) for half in halves)
    return Raw(train, test, ("upper", "lower"))


def _sklearn_datasets(name: str) -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            f"{name} comes with scikit-learn, which is not installed: pip install 'weft[lab]'."
        ) from error
    return datasets


def read_torchvision(name: str, root: Path) -> Raw:
    """Read a classification data set of torchvision from where torchvision keeps it."""
    try:
        from torchvision import datasets
    except BROKEN as error:
        raise DataError(
            f"torchvision:{name} needs a torchvision that matches this PyTorch "
            f"({first_line(error)}): install it, or name a file instead."
        ) from error
    kind: Any = getattr(datasets, name, None)
    if not isinstance(kind, type):
        raise DataError(
            f"torchvision has no data set {name!r}: write it as torchvision.datasets does."
        )
    parameters = inspect.signature(kind).parameters
    if "train" in parameters:
        choices: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    elif "split" in parameters:
        choices = [{"split": "train"}, {"split": "test"}]
    else:
        raise DataError(
            f"torchvision:{name} has no train and test part: save it as an .npz with x and y."
        )
    train: Any
    test: Any
    try:
        train, test = (kind(root, **choice) for choice in choices)
    except (*BROKEN, ValueError, TypeError) as error:
        raise DataError(
            f"torchvision:{name} is not ready in {root} ({first_line(error)}): nothing is "
            "downloaded here; let torchvision put it there first."
        ) from error
    classes = getattr(train, "classes", None)
    class_names = None if classes is None else tuple(map(str, classes))
    parts = [
        _part((part[index] for index in range(len(part))), f"torchvision:{name}")
        for part in (train, test)
    ]
    return Raw(parts[0], parts[1], class_names)


def read_hugging_face(name: str) -> Raw:
    """Read images and classes from a `save_to_disk` folder, or by name from the cache."""
    source = f"hf:{name}"
    try:
        import datasets

        with _offline():
            saved = Path(name).is_dir()
            loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
    except (*BROKEN, ValueError) as error:
        raise DataError(
            f"{source} cannot be read ({first_line(error)}): install `datasets` and load the data "
            "once yourself, or name a `save_to_disk` folder; nothing is downloaded here."
        ) from error
    parts = loaded if isinstance(loaded, dict) else {"train": loaded}
    if "train" not in parts:
        raise DataError(f"{source} must have a part `train`, but has {', '.join(parts)}.")
    columns = parts["train"].features
    inputs = next((key for key, kind in columns.items() if isinstance(kind, datasets.Image)), None)
    labels = next(
        (key for key, kind in columns.items() if isinstance(kind, datasets.ClassLabel)), None
    )
    if inputs is None or labels is None:
        raise DataError(
            f"{source} must have an Image and a ClassLabel column, but has {dict(columns)}: "
            "cast them with `datasets`, or save the data as an .npz."
        )

    def read(part: Iterable[dict[str, Any]]) -> Part:
        return _part(((row[inputs], row[labels]) for row in part), source)

    test = read(parts["test"]) if "test" in parts else None
    return Raw(read(parts["train"]), test, tuple(columns[labels].names))


@contextmanager
def _offline() -> Iterator[None]:
    # Both libraries read their environment variable once, on import: too early for a caller who
    # imported them before.
    import datasets
    import huggingface_hub

    with (
        mock.patch.object(datasets.config, "HF_HUB_OFFLINE", True),
        mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
    ):
        yield


def _part(samples: Iterable[tuple[Any, Any]], source: str) -> Part:
    images, labels = zip(*samples, strict=True)
    names = [f"{source} sample {index}" for index in range(len(images))]
    return Part(stack_images([np.asarray(image) for image in images], names), np.array(labels))

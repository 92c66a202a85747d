"""Read classified data from files into NumPy arrays: IDX, NPZ, CSV, folders of images.

Every reader returns a `Raw`: what the file says, unscaled. A file that is missing, broken or of
another layout raises `DataError`, one line that names the file and the layout wanted.
"""

import csv
import gzip
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class DataError(ValueError):
    """Data cannot be read; the message is one line for the user."""


class Part(NamedTuple):
    """Samples and their classes, in the file's own types."""

    inputs: np.ndarray
    labels: np.ndarray


class Raw(NamedTuple):
    """What a source holds: `test` is None where it comes in one piece.

    With `class_names`, labels are indices into it; without, they are the classes themselves.
    """

    train: Part
    test: Part | None = None
    class_names: tuple[str, ...] | None = None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_idx_folder(folder: Path) -> Raw:
    """Read the four IDX files of MNIST and its kin, plain or gzipped."""
    arrays = [_read_idx(folder, name) for name in IDX_FILES]
    return Raw(Part(arrays[0], arrays[1]), Part(arrays[2], arrays[3]))


def _read_idx(folder: Path, name: str) -> np.ndarray:
    paths = [folder / name, folder / f"{name}.gz"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise DataError(
            f"{paths[1]} is missing: put {', '.join(IDX_FILES)} into that folder, as .gz or plain."
        )
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}): copy it again.") from error

    # Big-endian: two zero bytes, the type (8 is uint8), the number of axes, their sizes, values.
    num_axes = 3 if "idx3" in name else 1
    if content[:4] != bytes([0, 0, 8, num_axes]):
        raise DataError(
            f"{path} must be an IDX file of uint8 with {num_axes} axes, "
            f"but starts with the bytes {content[:4].hex(' ')}: check that it is the right file."
        )
    values = np.frombuffer(content, np.uint8)[4 + 4 * num_axes :]
    sizes = np.frombuffer(content[4 : 4 + 4 * num_axes].ljust(4 * num_axes, b"\0"), ">i4")
    if len(content) != 4 + 4 * num_axes + np.prod(sizes, dtype=np.int64):
        raise DataError(
            f"{path} must hold {' x '.join(map(str, sizes))} values by its header, "
            f"but holds {len(values)}: it is cut off; copy it again."
        )
    return values.reshape(sizes)


def read_npz(path: Path) -> Raw:
    """Read x_train, y_train, x_test, y_test, or x and y; class_names where there are any."""
    wanted = "an .npz with arrays x_train, y_train, x_test, y_test, or x and y"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: give the path of {wanted}.") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not {wanted}, without pickles: {first_line(error)}") from error
    names = arrays.get("class_names")
    class_names = None if names is None else tuple(str(name) for name in names)
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        train = Part(arrays["x_train"], arrays["y_train"])
        return Raw(train, Part(arrays["x_test"], arrays["y_test"]), class_names)
    if {"x", "y"} <= arrays.keys():
        return Raw(Part(arrays["x"], arrays["y"]), None, class_names)
    raise DataError(f"{path} must be {wanted}, but holds {', '.join(arrays) or 'nothing'}.")


def read_csv(path: Path) -> Raw:
    """Read comma-separated numbers with one column of classes.

    The classes are in the column named `label`, else in the last one. A first line without a
    single number among its features is a header.
    """
    wanted = "a .csv of numbers with the class in the last column or in one named `label`"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: give the path of {wanted}.") from error
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not {wanted}: {first_line(error)}") from error
    if not rows or len(rows[0][1]) < 2:
        raise DataError(f"{path} must be {wanted}, but has no line with two columns.")

    header = [cell.strip() for cell in rows[0][1]]
    column = header.index("label") if "label" in header else len(header) - 1
    if not any(_is_number(cell) for cell in header[:column] + header[column + 1 :]):
        rows = rows[1:]
    features, labels = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path} line {line} must have {len(header)} columns like the first, "
                f"but has {len(row)}: complete or remove it."
            )
        labels.append(row.pop(column).strip())
        wrong = next((cell for cell in row if not _is_number(cell)), None)
        if wrong is not None or not labels[-1]:
            came = f"{wrong!r} among its features" if wrong is not None else "no class"
            raise DataError(
                f"{path} line {line} must hold finite numbers and a class, but has {came}: "
                "fill in or remove it."
            )
        features.append(np.array(row, dtype=np.float32))
    if not rows:
        raise DataError(f"{path} must be {wanted}, but holds a header only.")
    try:
        classes = np.array(labels, dtype=np.int64)
    except (ValueError, OverflowError):
        classes = np.array(labels)
    return Raw(Part(np.stack(features), classes))


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def read_image_folder(folder: Path) -> Raw:
    """Read folder/train/CLASS/* and folder/test/CLASS/*, or folder/CLASS/* in one piece.

    Grey where every image is grey, RGB otherwise.
    """
    parts = [folder / "train", folder / "test"]
    whole = not all(part.is_dir() for part in parts)
    files = [_image_files(part) for part in ([folder] if whole else parts)]
    images = _read_images([path for part in files for path in part])
    labels = np.array([path.parent.name for part in files for path in part])
    if whole:
        return Raw(Part(images, labels))
    num_train = len(files[0])
    train = Part(images[:num_train], labels[:num_train])
    return Raw(train, Part(images[num_train:], labels[num_train:]))


def _image_files(folder: Path) -> list[Path]:
    files = [
        path
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not files:
        raise DataError(
            f"{folder} holds no CLASS/*.png: lay the images out as train/CLASS/*.png and "
            "test/CLASS/*.png, or as CLASS/*.png to have them split."
        )
    return files


def _read_images(paths: Sequence[Path]) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "Images in folders are read by Pillow, which is not installed: pip install 'weft[lab]'."
        ) from error

    modes: set[str] = set()
    images: list[np.ndarray] = []
    path = paths[0]
    try:
        for path in paths:
            with Image.open(path) as image:
                modes.add(image.mode)
                if image.mode[0] in "IF":
                    raise ValueError(f"mode {image.mode}; save it with 8 bits per channel")
        mode = "L" if modes <= {"1", "L", "LA"} else "RGB"
        for path in paths:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert(mode)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is not an image of 8 bits that Pillow can read: {first_line(error)}"
        ) from error
    return stack_images(images, [str(path) for path in paths])


def stack_images(images: Sequence[np.ndarray], sources: Sequence[str]) -> np.ndarray:
    """Stack images into one array, or name the source of the first of another size."""
    for image, source in zip(images, sources, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{source} has the shape {image.shape}, but {sources[0]} has {images[0].shape}: "
                "all images must have one size; resize them first."
            )
    return np.stack(images)

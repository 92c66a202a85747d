"""Predict samples without labels, from files, with a trained run."""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weft.heads import Batches, Queries, Whole
from weft.heads import predict as predict_inputs
from weft.lab._readers import IMAGE_SUFFIXES, DataError, _is_number, _read_images, first_line
from weft.lab._trained import load_trained
from weft.lab.data import Dataset, _inputs
from weft.lab.evaluate import stated
from weft.lab.runs import Run, write_file


def predict(run: Run, source: Path, output: Path, *, context: str = "whole") -> int:
    """Predict samples and write a CSV table: label, abstention and a probability per class.

    Args:
        run: a trained run.
        source: an .npz with an array `x`, a .csv of numbers, or a folder of images.
        output: the table to write, whole or not at all.
        context: what shares a graph with a sample: "whole" (all samples), "batch" (batches of
            the recipe's size), or "query" (nothing but the anchors).

    Returns:
        How many samples were predicted.

    Raises:
        ValueError: the directory of `output` does not exist.
        DataError: the source cannot be read, or does not fit what the run was trained on.
    """
    if not output.parent.is_dir():
        raise ValueError(
            f"`output` must lie in a directory, got {output} in none: make {output.parent} first."
        )
    trained = load_trained(run)
    names, inputs = load_inputs(source, trained.data)
    company = {"whole": Whole(), "batch": Batches(run.recipe.batch_size), "query": Queries()}
    inputs = inputs.to(run.recipe.torch_device())
    prediction = predict_inputs(trained.model, inputs, company[context])
    probabilities = stated(prediction)
    classes = trained.data.class_names
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["sample", "label", "abstention", *(f"p({name})" for name in classes)])
    rows = zip(
        names,
        probabilities.argmax(1).tolist(),
        prediction.abstention.tolist(),
        probabilities.tolist(),
        strict=True,
    )
    for name, best, doubt, row in rows:
        numbers = [f"{value:.6f}" for value in (doubt, *row)]
        writer.writerow([name, classes[best], *numbers])
    write_file(output, table.getvalue().encode())
    return len(names)


def load_inputs(source: Path, data: Dataset) -> tuple[list[str], Float[Tensor, "n *shape"]]:
    """Read samples shaped like those of a data set; flat rows of pixels become images."""
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{source} holds no image: put .png or .jpg files into it.")
        names, array = [str(path.relative_to(source)) for path in files], _read_images(files)
    elif source.suffix == ".npz":
        array = _read_npz(source)
        names = [str(row) for row in range(len(array))]
    elif source.suffix == ".csv":
        array = _read_csv(source)
        names = [str(row) for row in range(len(array))]
    else:
        raise DataError(f"{source} cannot be read: give an .npz, a .csv or a folder of images.")
    wanted = tuple(data.train_inputs.shape[1:])
    if array.ndim == 2 and array.shape[1] == np.prod(wanted):
        array = array.reshape(-1, *wanted)
    inputs = _inputs(str(source), array)
    if tuple(inputs.shape[1:]) != wanted:
        raise DataError(
            f"{source} must hold samples of the shape {wanted} like {data.name}, "
            f"got {tuple(inputs.shape[1:])}: resize or choose other samples."
        )
    if not torch.isfinite(inputs).all():
        raise DataError(f"{source} must be finite, got nan or inf: remove those samples.")
    return names, inputs


def _read_npz(path: Path) -> np.ndarray:
    wanted = "an .npz with an array x of samples"
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "x" in archive:
                return archive["x"]
            held = ", ".join(archive.files) or "nothing"
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give the path of {wanted}.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not {wanted}: {first_line(error)}") from None
    raise DataError(f"{path} must be {wanted}, but holds {held}.")


def _read_csv(path: Path) -> np.ndarray:
    """Read rows of numbers; a header may come first, and a column named `label` is left out."""
    wanted = "a .csv of numbers, one sample per line"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise DataError(f"{path} is missing: give the path of {wanted}.") from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not {wanted}: {first_line(error)}") from None
    if rows and "label" in (header := [cell.strip() for cell in rows[0]]):
        column = header.index("label")
        rows = [row[:column] + row[column + 1 :] for row in rows]
    if rows and not any(_is_number(cell) for cell in rows[0]):
        rows = rows[1:]
    try:
        return np.array(rows, dtype=np.float32).reshape(len(rows), -1)
    except ValueError as error:  # a word among the numbers, or lines of different lengths
        raise DataError(f"{path} must be {wanted}: {first_line(error)}") from None

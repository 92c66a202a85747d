r"""MNIST deformed to a million images, and the labels of a few of them spread over all.

    python experiments/large/deformed.py --rows 1000000

Every image comes again and again, each time shifted, rotated, scaled and bent at random (what the
lab calls DIGITS); its features are the 50 principal components of the images as they are. They are
written block by block to a memory-mapped .npy of half precision, in runs/large, each block from a
seed of its own: a run that was stopped goes on behind its last whole block. Then the labels of
10 to 100 random rows of each class go through what `weft propagate` calls, and a row is added to
results.csv: accuracy on all other rows, beside that of the nearest labelled row; what is there is
not run again. Prints the means. `--write` stops before that, for the command itself:

    weft propagate runs/large/features_1000000.npy \
        --labels runs/large/labels_1000000_100.npy -o out.npz --search index
"""

import argparse
import csv
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from torch import Generator, Tensor

from weft.graph import ClassMass, FaissNeighbors, Laplace
from weft.lab.augment import DIGITS
from weft.lab.data import load_data
from weft.lab.propagate import propagate

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / "runs" / "large"
ROOT = Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))
COMPONENTS, BLOCK, K, TOLERANCE = 50, 10_000, 10, 1e-6
SEARCH = FaissNeighbors(probes=16, least_recall=0.9)
COLUMNS = ("rows", "per_class", "seed", "accuracy", "nearest", "edges", "unreached")
RESULTS = HERE / "results.csv"


def principal(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the flat images and their leading directions."""
    flat = images.flatten(1).double()
    mean = flat.mean(0)
    directions = torch.linalg.eigh((flat - mean).T @ (flat - mean)).eigenvectors
    return mean.float(), directions[:, -COMPONENTS:].flip(1).float()


@torch.no_grad()
def write(rows: int) -> tuple[Path, np.ndarray]:
    """Write the features of so many deformed images; return their file and their classes."""
    data = load_data("mnist", root=ROOT)
    images = torch.cat([data.train_inputs, data.test_inputs])
    source = torch.arange(rows) % len(images)
    classes = torch.cat([data.train_labels, data.test_labels])[source].numpy()
    path, done = KEPT / f"features_{rows}.npy", KEPT / f"features_{rows}.done"
    path.parent.mkdir(parents=True, exist_ok=True)
    first = int(done.read_text()) if done.exists() else 0
    if first >= rows:
        return path, classes
    mean, directions = principal(images)
    features = np.lib.format.open_memmap(
        path, mode="r+" if first else "w+", dtype=np.float16, shape=(rows, COMPONENTS)
    )
    for at in range(first, rows, BLOCK):
        block = source[at : at + BLOCK]
        bent = DIGITS(images[block], Generator().manual_seed(at)).flatten(1)
        features[at : at + BLOCK] = ((bent - mean) @ directions).half().numpy()
        features.flush()
        done.write_text(str(at + len(block)))
        print(f"{at + len(block):,} of {rows:,} rows", file=sys.stderr, flush=True)
    return path, classes


def choose(classes: np.ndarray, per_class: int, seed: int) -> tuple[Path, np.ndarray]:
    """Write the labels of some rows of each class, -1 elsewhere; return the file and the mask."""
    random = np.random.default_rng(seed)
    labels = np.full(len(classes), -1)
    for c in range(10):
        some = random.choice(np.flatnonzero(classes == c), per_class, replace=False)
        labels[some] = c
    path = KEPT / f"labels_{len(classes)}_{per_class}.npy"
    np.save(path, labels)
    return path, labels >= 0


def nearest(features: Path, labels: np.ndarray, classes: np.ndarray) -> float:
    """Return the accuracy of the class of the nearest labelled row, in percent."""
    points = np.load(features, mmap_mode="r")
    rows = np.flatnonzero(labels)
    known = torch.from_numpy(points[rows].astype(np.float32))
    right = 0
    for at in range(0, len(points), BLOCK):
        part = torch.from_numpy(points[at : at + BLOCK].astype(np.float32))
        guess = classes[rows[torch.cdist(part, known).argmin(1).numpy()]]
        right += int((guess == classes[at : at + BLOCK])[~labels[at : at + BLOCK]].sum())
    return 100 * right / int((~labels).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--per-class", type=int, nargs="+", default=(10, 100))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the files, spread nothing")
    arguments = parser.parse_args()
    features, classes = write(arguments.rows)
    output = KEPT / f"out_{arguments.rows}.npz"
    for per_class in arguments.per_class:
        for seed in range(arguments.seeds):
            labels, known = choose(classes, per_class, seed)
            setting = {"rows": arguments.rows, "per_class": per_class, "seed": seed}
            if arguments.write or setting in done():
                continue
            record = propagate(
                features,
                labels,
                output,
                Laplace(),
                SEARCH,
                k=K,
                normalization=ClassMass(below=0.03),
                tolerance=TOLERANCE,
            )
            with np.load(output) as arrays:
                right = arrays["labels"].astype(int) == classes
            accuracy = f"{100 * right[~known].mean():.2f}"
            beside = f"{nearest(features, known, classes):.2f}"
            found = {name: record[name] for name in ("edges", "unreached")}
            keep(setting | {"accuracy": accuracy, "nearest": beside} | found)
    show()


def read() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def done() -> list[dict[str, int]]:
    """Return the settings whose rows are there."""
    return [{name: int(row[name]) for name in COLUMNS[:3]} for row in read()]


def show() -> None:
    """Print means and standard deviations over the draws."""
    groups = defaultdict(list)
    for row in read():
        groups[row["rows"], row["per_class"]].append(row)
    print("| rows | labels per class | draws | spread | nearest label | edges | unreached rows |")
    print("|---" * 7 + "|")
    for (rows, per_class), found in groups.items():
        cells = []
        for name in ("accuracy", "nearest"):
            values = [float(row[name]) for row in found]
            cells.append(f"{mean(values):.2f} ({stdev(values):.2f})")
        same = [found[0][name] for name in ("edges", "unreached")]
        print(f"| {int(rows):,} | {per_class} | {len(found)} |", " | ".join(cells + same), "|")


def keep(row: dict[str, object]) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(*row.values(), flush=True)


if __name__ == "__main__":
    main()

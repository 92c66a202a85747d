"""What a full data set costs as it grows, from 1,000 points to 10,000,000, and with which exponent.

Points are half-precision draws from 200 Gaussian clusters in 8 dimensions, whose classes are
drawn too; 100 points per class are labelled. Each size goes through files and `weft propagate`'s
function in a process of its own: exact neighbours up to 50,000 points, above FAISS's inverted file
with 90 % of the true ones demanded; k = 10, self-tuned weights, relative residual 1e-6.

Sizes that are stored already are not run again: --sizes chooses, --again repeats. Without them the
sizes end at a million, which takes a minute on two cores; three and ten million, by
`--sizes 3000000 10000000`, take 15 GB and half an hour.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, argument_parser, machine

K, WIDTH, CLUSTERS, CLASSES, LABELLED = 10, 8, 200, 10, 1000
EXACT_UP_TO = 50_000
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


def write_points(folder: Path, size: int) -> np.ndarray:
    """Write features and labels, and return the classes."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLUSTERS, WIDTH))
    class_of = random.integers(CLASSES, size=CLUSTERS)
    cluster = random.integers(CLUSTERS, size=size)
    features = np.lib.format.open_memmap(
        folder / "features.npy", mode="w+", dtype=np.float16, shape=(size, WIDTH)
    )
    for at in range(0, size, 2**20):
        part = cluster[at : at + 2**20]
        features[at : at + 2**20] = centres[part] + 0.4 * random.normal(size=(len(part), WIDTH))
    features.flush()
    classes = class_of[cluster]
    labels = np.full(size, -1)
    known = random.permutation(size)[: min(LABELLED, size // 5)]
    labels[known] = classes[known]
    np.save(folder / "labels.npy", labels)
    return classes


def child(size: int) -> None:
    """Run one size, and print what it took as JSON."""
    from weft.graph import ClassMass, ExactNeighbors, FaissNeighbors, Laplace
    from weft.lab.propagate import propagate

    exact = size <= EXACT_UP_TO
    search = ExactNeighbors() if exact else FaissNeighbors(probes=8, least_recall=0.9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes = write_points(folder, size)
        output = folder / "out.npz"
        cpu = time.process_time()
        record = propagate(
            folder / "features.npy",
            folder / "labels.npy",
            output,
            Laplace(),
            search,
            k=K,
            normalization=ClassMass(),
            tolerance=1e-6,
        )
        cpu = time.process_time() - cpu
        with np.load(output) as arrays:
            accuracy = float((arrays["labels"].astype(int) == classes).mean())
    kept = ("seconds", "peak_gigabytes", "edges", "unreached")
    row = {key: record[key] for key in kept} | {"cpu": round(cpu, 1), "accuracy": accuracy}
    print(json.dumps(row | {"search": "exact" if exact else "index"}))


def exponent(rows: dict[str, Any], least: int, value: str = "cpu") -> float:
    """Return the slope of log cost against log size, by least squares, from `least` points on."""
    sizes = sorted(int(size) for size in rows if int(size) >= least)
    x = np.log([float(size) for size in sizes])
    y = np.log([rows[str(size)][value] for size in sizes])
    return float(np.polyfit(x, y, 1)[0]) if len(sizes) > 1 else math.nan


def plot(rows: dict[str, Any], path: Path) -> None:
    """Draw time and memory against size, from 10,000 points on: below, it is the start alone."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = sorted(int(size) for size in rows if int(size) >= 10_000)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    columns = ("seconds", "peak_gigabytes")
    for axis, value, name in zip(axes, columns, ("seconds", "peak memory, GB"), strict=True):
        shown = [rows[str(size)][value] for size in sizes]
        axis.loglog(sizes, shown, "o-", color="#1f5f8b")
        line = [shown[-1] * size / sizes[-1] for size in sizes]
        axis.loglog(sizes, line, ":", color="grey", label="proportional to n")
        if value == "seconds":
            power = exponent(rows, 100_000, value)
            line = [shown[-1] * (size / sizes[-1]) ** power for size in sizes]
            axis.loglog(sizes, line, "--", color="grey", label=f"proportional to n^{power:.2f}")
        axis.set(xlabel="points", ylabel=name, ylim=(min(shown) / 2, max(shown) * 2))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--again", action="store_true", help="repeat what is stored")
    parser.add_argument("--plot", type=Path, help="picture to write")
    parser.add_argument("--child", type=int, metavar="N", help="run one size")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    threads = machine()["threads"]
    path = RESULTS / f"scaling_{threads}_thread{'' if threads == 1 else 's'}.json"
    stored = json.loads(path.read_text()) if path.exists() and not arguments.quick else {}
    rows = stored.get("sizes", {})
    for size in (1_000, 2_000) if arguments.quick else arguments.sizes:
        if str(size) in rows and not arguments.again:
            continue
        command = [sys.executable, __file__, "--child", str(size)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows[str(size)] = json.loads(output.splitlines()[-1])
        rows = {key: rows[key] for key in sorted(rows, key=int)}
        if not arguments.quick:
            record = {"provisional": arguments.provisional, "machine": machine()}
            path.write_text(json.dumps(record | {"k": K, "sizes": rows}, indent=2) + "\n")
    print("| points | seconds | processor seconds | peak GB | edges | right, % | search |")
    print("|---|---|---|---|---|---|---|")
    for size, row in rows.items():
        print(
            f"| {int(size):,} | {row['seconds']:.1f} | {row['cpu']:.1f} "
            f"| {row['peak_gigabytes']:.2f} | {row['edges']:,} | {100 * row['accuracy']:.1f} "
            f"| {row['search']} |"
        )
    print(f"\nprocessor time grows as n^{exponent(rows, 100_000):.2f} from 100,000 points on")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()

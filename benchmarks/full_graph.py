"""A full data set, features to predictions: 70,000 images of MNIST as raw pixels, 1 % labelled.

Neighbours, weights and the solve are timed end to end, once per method, since each takes long;
accuracy is that on the rows without label. Each method runs in a process of its own, and on a
thousand rows before the clock starts: neither imports nor compilers are timed.

- weft, exact: exact neighbours, residual 1e-8, class masses normalised.
- weft, index: FAISS's inverted file, 95 % of the true neighbours demanded; the same else.
- GraphLearning, with --peer: PATH is a Python that has `graphlearning`: its approximate neighbours
  and Laplace learning as they come, and with its class priors.
- LabelSpreading of scikit-learn, with its k-nearest-neighbour kernel as it comes.

Needs MNIST: see docs/lab.md for where data lie. With --quick it takes the embedded digits.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _measure import argument_parser, store

K = 10
SHARE = 0.01


def load(name: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels (n, d) in [0, 1], classes, and the labelled rows, even over the classes."""
    from weft.lab.data import load_data

    data = load_data(name)
    inputs = np.concatenate([data.train_inputs.numpy(), data.test_inputs.numpy()])
    classes = np.concatenate([data.train_labels.numpy(), data.test_labels.numpy()])
    order = np.random.default_rng(0).permutation(len(inputs))[:size]
    inputs, classes = inputs[order].reshape(len(order), -1), classes[order]
    each = max(1, round(SHARE * len(order) / 10))
    known = np.concatenate([np.flatnonzero(classes == c)[:each] for c in range(10)])
    return np.ascontiguousarray(inputs, dtype=np.float32), classes, known


def weft(inputs: np.ndarray, classes: np.ndarray, rows: np.ndarray, index: bool) -> np.ndarray:
    import torch

    from weft.graph import (
        ConjugateGradient,
        ExactNeighbors,
        FaissNeighbors,
        SolveLog,
        knn_graph,
        laplace_learning,
    )

    search = FaissNeighbors(probes=12, least_recall=0.95) if index else ExactNeighbors()
    clock = time.perf_counter()
    with torch.no_grad():
        graph = knn_graph(torch.from_numpy(inputs), K, neighbors=search)
        print(f"  graph {time.perf_counter() - clock:.1f} s", file=sys.stderr)
        known = torch.zeros(len(inputs), dtype=torch.bool)
        known[rows] = True
        labels = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), 10).float()
        log = SolveLog()
        scores = laplace_learning(
            graph, labels, known, solver=ConjugateGradient(rtol=1e-8), log=log
        )
    print(f"  residual {max(log.residuals):.1e}", file=sys.stderr)
    return scores.argmax(1).numpy()


def graphlearning(
    inputs: np.ndarray, classes: np.ndarray, rows: np.ndarray, priors: bool
) -> np.ndarray:
    import graphlearning as gl

    clock = time.perf_counter()
    matrix = gl.weightmatrix.knn(inputs, K)
    print(f"  graph {time.perf_counter() - clock:.1f} s", file=sys.stderr)
    share = np.bincount(classes) / len(classes) if priors else None
    return gl.ssl.laplace(matrix, class_priors=share).fit_predict(rows, classes[rows])


def label_spreading(inputs: np.ndarray, classes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from sklearn.semi_supervised import LabelSpreading

    given = np.full(len(inputs), -1)
    given[rows] = classes[rows]
    return LabelSpreading(kernel="knn", n_neighbors=K).fit(inputs, given).transduction_


Method = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

METHODS: dict[str, Method] = {
    "weft, index": lambda *data: weft(*data, index=True),
    "weft, exact": lambda *data: weft(*data, index=False),
    "GraphLearning": lambda *data: graphlearning(*data, priors=False),
    "GraphLearning, class priors": lambda *data: graphlearning(*data, priors=True),
    "LabelSpreading": label_spreading,
}


def child(name: str, file: Path) -> None:
    """Run one method on stored data, and print its time and accuracy as JSON."""
    with np.load(file) as arrays:
        inputs, classes, rows = arrays["inputs"], arrays["classes"], arrays["rows"]
    few = classes[:1000]
    some = np.concatenate([np.flatnonzero(few == c)[:5] for c in range(10)])
    METHODS[name](inputs[:1000], few, some)
    wall, cpu = time.perf_counter(), time.process_time()
    predicted = METHODS[name](inputs, classes, rows)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    free = np.setdiff1d(np.arange(len(inputs)), rows)
    accuracy = float((predicted[free] == classes[free]).mean())
    print(json.dumps({"wall": wall, "cpu": cpu, "accuracy": accuracy}))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="a Python that has graphlearning")
    parser.add_argument("--size", type=int, default=70_000)
    parser.add_argument("--child", nargs=2, metavar=("METHOD", "FILE"), help="run one method")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return
    import tempfile

    # A quick run takes the embedded digits: it needs no files.
    inputs, classes, rows = load("digits" if arguments.quick else "mnist", arguments.size)
    size = len(inputs)
    results: dict[str, dict[str, float]] = {}
    print(f"n = {size}\n{'':30}{'s':>10}{'cpu s':>10}{'ratio':>8}{'accuracy':>10}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(file, inputs=inputs, classes=classes, rows=rows)
        for name in METHODS:
            peer = name.startswith("GraphLearning")
            if peer and arguments.peer is None:
                continue
            python = str(arguments.peer) if peer else sys.executable
            command = [python, "-W", "ignore", __file__, "--child", name, str(file)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            result = results[name] = json.loads(output.splitlines()[-1])
            result["ratio"] = result["wall"] / results["weft, index"]["wall"]
            print(
                f"{name:30}{result['wall']:10.1f}{result['cpu']:10.1f}"
                f"{result['ratio']:8.1f}{result['accuracy']:10.4f}",
                flush=True,
            )
    store("full_graph", {"k": K, "labelled": len(rows), "n": size, "methods": results}, arguments)


if __name__ == "__main__":
    main()

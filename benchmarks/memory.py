"""The graph layer's memory grows as n k, not as n^2.

Each size runs one step, features to gradient, in a process of its own, whose peak resident
memory is compared with what it was before the step. `dense` is the least that a method with
(n, n) matrices holds at once: distances, weights, the system and its factor, in float32.
"""

import resource
import subprocess
import sys
from pathlib import Path

from _measure import argument_parser, store
from layer import CLASSES, WIDTH, K, Problem, gradient, weft

DENSE_MATRICES = 4


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands `ru_maxrss` on to a child: this counts from its own start
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def step_bytes(num_nodes: int) -> int:
    """Run one step; a small one goes first, so that code and thread pools are loaded."""
    gradient(weft, Problem.of_size(600))
    problem = Problem.of_size(num_nodes)
    before = peak_bytes()
    gradient(weft, problem)
    return peak_bytes() - before


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--child", type=int, metavar="N", help="run one step and print its bytes")
    arguments = parser.parse_args()
    if arguments.child:
        print(step_bytes(arguments.child))
        return
    rows = {}
    names = ("n", "MB", "bytes/(n k)", "x features", "dense MB", "dense/weft")
    print("".join(f"{name:>12}" for name in names))
    for size in (2_000,) if arguments.quick else (5_000, 10_000, 20_000):
        command = [sys.executable, __file__, "--child", str(size)]
        used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        dense = DENSE_MATRICES * 4 * size**2
        features = 4 * size * WIDTH
        columns = used / 1e6, used / (size * K), used / features, dense / 1e6, dense / used
        print(f"{size:12}" + "".join(f"{value:12.0f}" for value in columns))
        rows[str(size)] = {
            "bytes": used,
            "bytes_per_nk": used / (size * K),
            "dense_bytes": dense,
        }
    settings = {"k": K, "width": WIDTH, "classes": CLASSES}
    store("memory", {**settings, "sizes": rows}, arguments)


if __name__ == "__main__":
    main()

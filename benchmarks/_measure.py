"""What the benchmarks share: arguments, interleaved timing, the machine's name, stored results.

Threads are set from outside, for every library at once: OMP_NUM_THREADS=1 python SCRIPT.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

RESULTS = Path(__file__).parent / "results"


def argument_parser(claim: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have; `claim` is their docstring."""
    parser = argparse.ArgumentParser(
        description=claim, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing stored")
    parser.add_argument(
        "--provisional", action="store_true", help="mark the result: the machine was not quiet"
    )
    return parser


def machine() -> dict[str, object]:
    """Name the hardware and the libraries of this run."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(
            (part.strip() for part in line.split(":", 1))
            for line in info.read_text().split("\n\n")[0].splitlines()
            if ":" in line
        )
        cpu = f"{fields.get('model name', cpu)}, family {fields.get('cpu family')}"
        cpu += f" model {fields.get('model')}"
    return {
        "cpu": cpu,
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


@dataclass(frozen=True)
class Timing:
    """Medians over the runs of one method.

    Args:
        wall: seconds on the clock.
        cpu: seconds of processor time, all threads together; a busy machine disturbs it less.
        runs: how many.
    """

    wall: float
    cpu: float
    runs: int


def interleave(
    methods: Mapping[str, Callable[[], object]], *, rounds: int, budget: float = 6.0
) -> dict[str, Timing]:
    """Time methods in turns, so that whatever disturbs the machine disturbs them alike.

    A method that has used up `budget` seconds after two runs rests.
    """
    walls: dict[str, list[float]] = {name: [] for name in methods}
    cpus: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            if len(walls[name]) >= 2 and sum(walls[name]) > budget:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            method()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    return {
        name: Timing(median(walls[name]), median(cpus[name]), len(walls[name])) for name in walls
    }


@dataclass(frozen=True)
class Limits:
    """What the machine does in a second, with the threads of this run.

    Args:
        float32: operations in a large matrix product.
        float64: the same in double precision.
        copy: bytes read and written by a large copy.
    """

    float32: float
    float64: float
    copy: float


def measure_limits(size: int = 2000, copied: int = 2**28) -> Limits:
    """Time a product of (size, size) matrices and a copy of `copied` bytes."""
    single = torch.randn(size, size)
    double = single.double()
    source = torch.randn(copied // 4)
    target = torch.empty_like(source)
    methods = {
        "float32": lambda: single @ single,
        "float64": lambda: double @ double,
        "copy": lambda: target.copy_(source),
    }
    work = {"float32": 2 * size**3, "float64": 2 * size**3, "copy": 2 * source.nbytes}
    timings = interleave(methods, rounds=9)
    return Limits(**{name: amount / timings[name].wall for name, amount in work.items()})


def store(name: str, result: dict[str, object], arguments: argparse.Namespace) -> None:
    """Write a result beside the machine and its limits into results/, one file per thread count."""
    if arguments.quick:
        return
    threads = torch.get_num_threads()
    path = RESULTS / f"{name}_{threads}_thread{'s' if threads > 1 else ''}.json"
    about = {"machine": machine(), "limits": asdict(measure_limits())}
    record = {"provisional": arguments.provisional, **about, **result}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"stored in {path.relative_to(RESULTS.parent.parent)}")

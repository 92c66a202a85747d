"""Solvers of libraries that take one instance at a time, run on all the threads that torch has."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def for_each(solve: Callable[[int], object], count: int) -> None:
    """Call `solve` with 0 ... count - 1, on as many threads as torch uses.

    It pays where the library releases the interpreter's lock, as SciPy does for assignments and
    HiGHS for programs.
    """
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        for instance in range(count):
            solve(instance)
        return

    def share(first: int) -> None:
        for instance in range(first, count, threads):
            solve(instance)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))

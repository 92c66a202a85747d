"""Solvers of libraries that take one instance at a time, run on all the threads that torch has."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import torch

_WORTH_A_THREAD = 1.5e-4
"""Seconds that an instance must take: below, threads lose more by waiting for the interpreter's
lock, which each holds between two calls of the library, than they win."""


def for_each(solve: Callable[[int], object], count: int) -> None:
    """Call `solve` with 0 ... count - 1, on as many threads as torch uses, if that pays.

    It does where the library releases the interpreter's lock, as SciPy does for assignments and
    HiGHS for programs, and is busy for long. The first instance shows how long.
    """
    started = perf_counter()
    solve(0)
    pays = perf_counter() - started >= _WORTH_A_THREAD
    threads = max(1, min(torch.get_num_threads(), count - 1)) if pays else 1

    def share(first: int) -> None:
        for instance in range(1 + first, count, threads):
            solve(instance)

    if threads == 1:
        share(0)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(share, first) for first in range(1, threads)]
        share(0)
        for other in others:
            other.result()

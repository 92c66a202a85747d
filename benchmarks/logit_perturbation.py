"""Learned logit perturbation costs two to six softmaxes of the batch, at any number of classes.

What `LPL` adds to a training step, for batches of random logits, in units of one softmax: of
`logits.softmax(1)`, forward, without gradient and nothing else.

    LPL        its call, autograd's record included
    step       cross-entropy forward and backward with LPL, less the same without
    margin     the call of `ClassMargin`, a fixed shift
    labels     the call of `MultiLabelLPL`, on several labels per sample
    loop / LPL the peer's call in calls of LPL

The peer is the same mathematics written the way published code does it: Python loops over all
classes, dense gradients of size classes x classes, and a copy of the batch's logits per step. Both
give the same logits, which is checked first.

Methods take turns; a turn is calls one after the other for ten milliseconds, so that short methods
are not timed on the caches that the loop leaves. Where a softmax takes 20 microseconds (100
classes, 256 samples), LPL's cost is that of some twenty calls into torch, and not of arithmetic;
in a step, where other code has run in between, each of them costs more than in a row.

The allocator is told to keep freed memory, for all methods: otherwise pages that the kernel hands
out anew in every call are measured, and not the work.
"""

import ctypes
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _measure import argument_parser, interleave, store
from torch import Tensor

from weft.logits import LPL, BySize, ClassMargin, ClassStats, MultiLabelLPL

BOUNDS = BySize(delta_epsilon=4.0)
TURN = 0.01  # seconds
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, 2**30)


def looped(logits: Tensor, targets: Tensor, signed: Tensor, steps: int = 1) -> Tensor:
    """Take the same steps in loops over all classes, with dense (classes, classes) gradients.

    The logits after every step are kept, and each class then picks those of its last step.
    """
    num_classes = logits.shape[1]
    with torch.no_grad():
        path = torch.empty(steps + 1, *logits.shape)
        path[0] = logits
        for step in range(steps):
            probabilities = path[step].softmax(1)
            gradient = torch.zeros(num_classes, num_classes)
            for c in range(num_classes):
                members = probabilities[targets == c]
                if len(members):
                    gradient[c] = members.mean(0)
                    gradient[c, c] -= 1
            gradient /= gradient.norm(dim=1, keepdim=True).clamp_min(1e-15)
            path[step + 1] = path[step] + gradient[targets] * signed[targets, None] / steps
        shifts = torch.zeros_like(logits)
        for c in range(num_classes):
            rows = targets == c
            if rows.any():
                shifts[rows] = path[-1, rows] - path[0, rows]
    return logits + shifts


def measure(num_classes: int, batch: int, rounds: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    counts = 1 + torch.randperm(num_classes, generator=generator)
    targets = torch.randint(num_classes, (batch,), generator=generator)
    logits = torch.randn(batch, num_classes, generator=generator).requires_grad_()
    plain = logits.detach()
    learned, margin = LPL(ClassStats(counts), BOUNDS), ClassMargin(ClassStats(counts), BOUNDS)
    signed = learned.fixed.float()
    labels = (torch.rand(batch, num_classes, generator=generator) < 0.1).float()
    several = MultiLabelLPL(ClassStats(counts, num_samples=2 * num_classes))
    torch.testing.assert_close(learned(logits, targets), looped(logits, targets, signed))

    def loss() -> Tensor:
        return F.cross_entropy(logits, targets)

    def learned_loss() -> Tensor:
        return F.cross_entropy(learned(logits, targets), targets)

    def step(loss: Callable[[], Tensor]) -> None:
        torch.autograd.grad(loss(), logits)

    methods = {
        "softmax": lambda: plain.softmax(1),
        "LPL": lambda: learned(logits, targets),
        "plain step": partial(step, loss),
        "step": partial(step, learned_loss),
        "ClassMargin": lambda: margin(logits, targets),
        "MultiLabelLPL": lambda: several(logits, labels),
        "loop": lambda: looped(logits, targets, signed),
    }
    seconds = seconds_per_call(methods, rounds)
    unit = seconds["softmax"]
    return {
        "softmax_us": unit * 1e6,
        "lpl_softmaxes": seconds["LPL"] / unit,
        "step_softmaxes": (seconds["step"] - seconds["plain step"]) / unit,
        "margin_softmaxes": seconds["ClassMargin"] / unit,
        "labels_softmaxes": seconds["MultiLabelLPL"] / unit,
        "loop_over_lpl": seconds["loop"] / seconds["LPL"],
    }


def seconds_per_call(methods: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the processor time of a call, the median over turns of many calls each."""
    calls = {}
    for name, method in methods.items():
        method()
        began = time.perf_counter()
        method()
        calls[name] = max(1, round(TURN / (time.perf_counter() - began)))

    def turn(name: str) -> None:
        for _ in range(calls[name]):
            methods[name]()

    timings = interleave({name: partial(turn, name) for name in methods}, rounds=rounds)
    return {name: timing.cpu / calls[name] for name, timing in timings.items()}


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    keep_freed_memory()
    sizes = [(10, 64), (100, 64)] if arguments.quick else []
    sizes = sizes or [(c, n) for n in (256, 1024) for c in (10, 100, 1000, 8142)]
    rounds = 3 if arguments.quick else 51
    names = ("softmax us", "LPL", "step", "margin", "labels", "loop / LPL")
    print(f"{'classes':>8}{'batch':>7}", *(f"{name:>11}" for name in names))
    rows = []
    for num_classes, batch in sizes:
        row = measure(num_classes, batch, rounds)
        rows.append({"classes": num_classes, "batch": batch, **row})
        print(f"{num_classes:8}{batch:7}", *(f"{value:11.3g}" for value in row.values()))
    store("logit_perturbation", {"rows": rows}, arguments)


if __name__ == "__main__":
    main()

"""What isometry on sampled pairs adds to a training step on MNIST at batch 500.

One step is: forward, cross-entropy and isometry of the features, backward, Adam; 500 images of
28 x 28. `mlp` is the network of the paper's released code, five tanh layers of 100, whose step is
a few milliseconds; `cnn` is the one that recipes name. Ratios are to the step with cross-entropy
alone. Pairs are drawn for each image, in every step, or in every second or fourth at as many times
the weight (`/ 2`, `/ 4`), whose cost is averaged. The peer, `plain`, is the computation as it was
released, written anew: both (batch, batch) matrices of `torch.cdist`, a mask by class, the mean
over the matrix. That its loss is weft's, with every pair, is checked first.

Then the loss alone, forward and backward, as the batch grows: 16 pairs per image, every pair within
a class, and plain. Memory is the peak of a process of its own over what it held before.
`torch.cdist` multiplies matrices, which is fast and loses the digits of close rows, and has no
second derivative where it does; weft subtracts first.
"""

import argparse
import itertools
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise, product

import torch
from _measure import argument_parser, interleave, store
from memory import peak_bytes
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from weft.isometry import (
    Correlation,
    Discrepancy,
    EveryFew,
    IsometryRegularizer,
    Reduction,
    SquaredError,
    Stress,
    WithinClass,
    isometry_loss,
)
from weft.lab.backbones import build_backbone

CLASSES, HIDDEN, PIXELS = 10, 100, 28 * 28
TERMS: dict[str, tuple[Discrepancy, Reduction]] = {
    "paper": (SquaredError(), Reduction.MATRIX),
    "stress": (Stress(), Reduction.PAIRS),
    "correlation": (Correlation(), Reduction.PAIRS),
}


def draw_images(count: int, side: int = 28) -> tuple[Tensor, Tensor]:
    """Return noisy images (count, 1, side, side) of a pattern per class, and their classes."""
    generator = Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    pattern = torch.rand(CLASSES, 1, side, side, generator=generator)
    noise = torch.rand(count, 1, side, side, generator=generator)
    return 0.7 * pattern[labels] + 0.3 * noise, labels


def plain(inputs: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Return the paper's loss by all pairs of the batch."""
    same = labels[:, None] == labels
    gaps = torch.cdist(features, features) - torch.cdist(inputs.flatten(1), inputs.flatten(1))
    return (same * gaps).square().mean()


def network(name: str, side: int) -> nn.Module:
    torch.manual_seed(0)
    if name == "cnn":
        body = build_backbone("cnn", (1, side, side), HIDDEN, seed=0)
    else:
        widths = [side**2] + 5 * [HIDDEN]
        layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.Tanh())]
        body = nn.Sequential(nn.Flatten(), *layers)
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(HIDDEN, CLASSES)))


def training_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    term: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[], None]:
    """Return a step; `term` takes features."""
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        features = model.body(images)
        loss = cross_entropy(model.head(features), labels)
        if term is not None:
            loss = loss + term(features)
        loss.backward()
        optimizer.step()

    return step


def repeated(step: Callable[[], None], times: int) -> Callable[[], None]:
    def steps() -> None:
        for _ in range(times):
            step()

    return steps


def compare_steps(name: str, batch: int, side: int, rounds: int) -> dict[str, object]:
    images, labels = draw_images(batch, side)
    features = network(name, side).body(images).detach()
    paper, mean = TERMS["paper"]
    ours = isometry_loss(images, features, labels, discrepancy=paper, reduction=mean)
    torch.testing.assert_close(ours, plain(images, features, labels), rtol=1e-4, atol=0)

    steps = {"cross-entropy": training_step(network(name, side), images, labels)}
    lengths: dict[str, int] = {}  # steps in a run, where it is more than one
    rules = ((1, 1), (1, 2), (2, 1), (2, 4), (16, 1))  # pairs per image, and in which steps
    for (term, chosen), (per_sample, every) in product(TERMS.items(), rules):
        discrepancy, reduction = chosen
        model = network(name, side)
        isometry = IsometryRegularizer(
            model.body,
            {"": EveryFew(1.0, every)},
            discrepancy=discrepancy,
            reduction=reduction,
            pairs=WithinClass(per_sample),
            generator=Generator().manual_seed(0),
        )
        count = itertools.count()

        def add(_: Tensor, isometry=isometry, count=count) -> Tensor:
            return isometry(labels, step=next(count))

        step = training_step(model, images, labels, add)
        label = f"{term}, {per_sample} pairs" + (f" / {every}" if every > 1 else "")
        steps[label], lengths[label] = repeated(step, every), every
    steps["plain, every pair"] = training_step(
        network(name, side), images, labels, lambda found: plain(images, found, labels)
    )
    timings = interleave(steps, rounds=rounds, budget=12)
    for method, length in lengths.items():
        wall, cpu = timings[method].wall / length, timings[method].cpu / length
        timings[method] = replace(timings[method], wall=wall, cpu=cpu)
    unit = timings["cross-entropy"]
    print(f"\n{name}, {batch} images")
    print(f"{'':24}{'ms':>10}{'cpu ms':>10}{'ratio':>8}{'cpu':>8}")
    rows = {}
    for method, timing in timings.items():
        wall, cpu = timing.wall / unit.wall, timing.cpu / unit.cpu
        print(f"{method:24}{timing.wall * 1e3:10.1f}{timing.cpu * 1e3:10.1f}{wall:8.2f}{cpu:8.2f}")
        rows[method] = {**asdict(timing), "ratio": wall, "cpu_ratio": cpu}
    return {"batch": batch, "steps": rows}


def losses(batch: int) -> dict[str, Callable[[], None]]:
    """Return the three ways to the paper's loss and its gradient, of one batch."""
    images, labels = draw_images(batch)
    generator = Generator().manual_seed(0)
    features = torch.randn(batch, HIDDEN, generator=generator).requires_grad_()
    discrepancy, reduction = TERMS["paper"]

    def weft(pairs: WithinClass) -> Tensor:
        return isometry_loss(
            images,
            features,
            labels,
            discrepancy=discrepancy,
            reduction=reduction,
            pairs=pairs,
            generator=generator,
        )

    ways = {
        "sampled": lambda: weft(WithinClass(16)),
        "every": lambda: weft(WithinClass()),
        "plain": lambda: plain(images, features, labels),
    }
    return {
        name: lambda way=way: torch.autograd.grad(way(), features) for name, way in ways.items()
    }


def peak_of(way: str, batch: int) -> int:
    """Return the bytes that one loss and its gradient add to a process of their own."""
    command = [sys.executable, __file__, "--child", way, str(batch)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def added_bytes(way: str, batch: int) -> int:
    losses(100)[way]()  # loads code and thread pools
    run = losses(batch)[way]
    before = peak_bytes()
    run()
    return peak_bytes() - before


def compare_batches(sizes: tuple[int, ...], rounds: int) -> list[dict[str, float]]:
    names = ("batch", "sampled ms", "every", "plain", "sampled MB", "every", "plain")
    print(f"\nthe loss alone; `every` and `plain` in units of `sampled`\n{names[0]:>6}", end="")
    print(*(f"{name:>12}" for name in names[1:]))
    rows = []
    for batch in sizes:
        ways = losses(batch)
        timings = interleave(ways, rounds=rounds)
        row = {"batch": batch}
        row |= {f"{way}_cpu_ms": timing.cpu * 1e3 for way, timing in timings.items()}
        row |= {f"{way}_wall_ms": timing.wall * 1e3 for way, timing in timings.items()}
        row |= {f"{way}_mb": peak_of(way, batch) / 1e6 for way in ways}
        columns = []
        for unit in ("cpu_ms", "mb"):
            base = row[f"sampled_{unit}"]
            columns += [base, *(row[f"{way}_{unit}"] / max(base, 1e-3) for way in ways)][:1]
            columns += [row[f"{way}_{unit}"] / max(base, 1e-3) for way in ("every", "plain")]
        print(f"{batch:6}", *(f"{value:12.2f}" for value in columns))
        rows.append(row)
    return rows


def main() -> None:
    parser: argparse.ArgumentParser = argument_parser(__doc__)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "BATCH"), help="print a loss's bytes")
    arguments = parser.parse_args()
    if arguments.child:
        way, batch = arguments.child
        print(added_bytes(way, int(batch)))
        return
    if arguments.quick:
        compare_steps("mlp", batch=40, side=8, rounds=2)
        compare_batches((100,), rounds=2)
        return
    steps = {name: compare_steps(name, batch=500, side=28, rounds=31) for name in ("mlp", "cnn")}
    batches = compare_batches((500, 1000, 2000, 5000), rounds=9)
    store("isometry", {"steps": steps, "batches": batches}, arguments)


if __name__ == "__main__":
    main()

"""Two rings that go through each other: isometric stacks, and their rivals, under attack.

    python experiments/isometry/rings.py --seeds 5

A stack learns which ring, then which quarter of it; attacks try its first level. Rivals are
networks like its first block, trained to tell the rings as long and on as many points; their
weights are those of the experiments on images. Rows are added to rings.csv.
"""

import argparse
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from ledger import Ledger
from setting import RIVALS, Method, methods
from torch import Generator, Tensor, nn
from tori import PAPER, PER_POINT, blocks, isometric, levels, measure, train

from weft.isometry import LocallyIsometricStack, diagnose
from weft.robustness import APGD, PGD, IndependentRows, LInf, attack, margin, worst_case

LEDGER = Ledger(Path(__file__).with_name("rings.csv"))
RADIUS, EPOCHS = 0.3, 2000
LOWEST, WIDTH = -1.5, 4.0  # the box that attacks may use, which they see as pixels in [0, 1]
ALONE = ("cross-entropy (CE)", "worst-direction hinge 10", *RIVALS)  # trained for the rings only


def draw(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return noisy points of rings of radius 1, and which ring and quarter they are of."""
    angles = 2 * math.pi * torch.rand(count, generator=generator)
    second = torch.arange(count) % 2 == 1
    cos, sin, flat = angles.cos(), angles.sin(), torch.zeros_like(angles)
    first = torch.stack([cos, sin, flat], dim=1)
    points = torch.where(second[:, None], torch.stack([1 + cos, flat, sin], dim=1), first)
    quarter = (angles / (math.pi / 2)).long() % 4
    points = points + 0.01 * torch.randn(count, 3, generator=generator)
    return points, torch.stack([second.long(), 4 * second + quarter], dim=1)


class FromPixels(nn.Module):
    """Return points, given as pixels."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the points."""
        return WIDTH * pixels + LOWEST


def attacked(model: Callable[[Tensor], Tensor], points: Tensor, rings: Tensor) -> float:
    """Return the accuracy of a model of pixels under the worse of PGD and APGD."""
    found = [
        attack(
            model,
            (points - LOWEST) / WIDTH,
            rings,
            ball=LInf(RADIUS / WIDTH),
            method=method,
            threat=IndependentRows(500),
        )
        for method in (PGD(40), APGD(40, loss=margin, restarts=3))
    ]
    return worst_case(found).accuracy


def stack_measures(seed: int, *, weight: float) -> dict[str, float]:
    """Train a stack, look at both levels, attack the first."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    stack = LocallyIsometricStack(blocks(2, 4), nn.Linear(20, 8))
    points, labels = draw(600, generator)
    train(stack, points, labels, EPOCHS, weight, pairs=PER_POINT, generator=generator, **PAPER)
    points, labels = draw(500, generator)
    first = nn.Sequential(FromPixels(), stack.blocks[0], stack.readout)
    found = measure(stack, points, labels)
    return found | {"attacked 1": attacked(lambda p: first(p)[:, :2], points, labels[:, 0])}


def rival_measures(method: Method, seed: int) -> dict[str, float]:
    """Train one block to tell the rings, by a method of the image experiments."""
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    body = nn.Sequential(FromPixels(), *blocks(1, 4))
    model = nn.Sequential(OrderedDict(body=body, head=nn.Linear(20, 2)))
    points, labels = draw(600, generator)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=method.weight_decay)
    for _ in range(EPOCHS):
        loss = method(model, (points - LOWEST) / WIDTH, labels[:, 0], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    points, labels = draw(500, generator)
    pixels, rings = (points - LOWEST) / WIDTH, labels[:, 0]
    with torch.no_grad():
        right = model(pixels).argmax(1) == rings
        fit = diagnose(points, body(pixels), rings).class_mean()
    return {
        "accuracy 1": right.double().mean().item(),
        "Pearson 1": fit.pearson,
        "attacked 1": attacked(model.eval(), points, rings),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    torch.set_num_threads(1)
    known = methods(RADIUS / WIDTH)
    every = isometric(stack_measures, (0.0, 1.0, 10.0))
    every |= {name: partial(rival_measures, known[name]) for name in ALONE}
    LEDGER.run("rings", every, range(parser.parse_args().seeds))
    print(LEDGER.table("rings", [*levels("accuracy", 2), *levels("Pearson", 2), "attacked 1"]))


if __name__ == "__main__":
    main()

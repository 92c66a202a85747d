"""Omniglot's five alphabets, then their 136 characters: a stack beside networks that are not one.

    python experiments/isometry/hierarchy.py --seeds 5

Drawers 1 to 12 train, 13 to 15 choose the weight of the isometry loss (seed 100), 16 to 20 test;
then drawers 1 to 15 train. All networks have the same layers, batches, optimiser and epochs. Rows
are added to hierarchy.csv as they come.
"""

import argparse
import os
import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ledger import Ledger
from PIL import Image
from torch import Generator, Tensor, nn

from weft.isometry import LocallyIsometricStack, WithinClass, diagnose, train_levels

HERE = Path(__file__).parent
ROOT = Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))
LEDGER = Ledger(HERE / "hierarchy.csv")
SIDE, WIDTH, LAYERS, EPOCHS, BATCH = 20, 200, 2, 40, 136
WEIGHTS = (0.0, 0.1, 1.0, 10.0, 100.0, 1000.0)


@lru_cache(maxsize=1)
def load() -> tuple[Tensor, Tensor, Tensor]:
    """Return images as rows, labels (alphabet, character), and drawers."""
    images, labels, drawers = [], [], []
    with zipfile.ZipFile(ROOT / "omniglot" / "images_background_small1.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".png"))
        alphabets = sorted({name.split("/")[1] for name in names})
        characters = sorted({name.rsplit("/", 1)[0] for name in names})
        for name in names:
            with file.open(name) as picture:
                grey = Image.open(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
            images.append(1 - np.asarray(grey, dtype=np.float32).ravel() / 255)
            folder = name.rsplit("/", 1)[0]
            labels.append([alphabets.index(name.split("/")[1]), characters.index(folder)])
            drawers.append(int(name.rsplit("_", 1)[1].removesuffix(".png")))
    return torch.from_numpy(np.stack(images)), torch.tensor(labels), torch.tensor(drawers)


def build(seed: int) -> LocallyIsometricStack:
    """Two blocks of tanh layers, and a read-out of 136 classes."""
    torch.manual_seed(seed)
    parts = []
    for width in (SIDE**2, WIDTH):
        block = nn.Sequential()
        for incoming, outgoing in pairwise([width] + [WIDTH] * LAYERS):
            block.extend([nn.Linear(incoming, outgoing), nn.Tanh()])
        parts.append(block)
    return LocallyIsometricStack(parts, nn.Linear(WIDTH, 136))


def run(seed: int, *, weight: float = 0.0, kind: str = "stack", tuning: bool = False) -> dict:
    """Train, and measure both levels on drawers that training has not seen.

    Kinds: `stack`, its blocks trained by their own levels; `both`, the same two losses with
    gradients to all layers; `finest`, characters alone.
    """
    images, labels, drawers = load()
    trained = drawers <= (12 if tuning else 15)
    held = (drawers > 12) & (drawers <= 15) if tuning else drawers > 15
    inputs, own = images[trained], labels[trained]
    stack, generator = build(seed), Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(stack.parameters(), 1e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs), generator=generator).split(BATCH):
            if kind == "stack":
                train_levels(stack, inputs[rows], own[rows], optimizer, weights=weight)
                continue
            levels = (0, 1) if kind == "both" else (1,)
            losses = [F.cross_entropy(stack(inputs[rows], k), own[rows, k]) for k in levels]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
    inputs, own = images[held], labels[held]
    with torch.no_grad():
        right = [(stack(inputs, k).argmax(1) == own[:, k]).double().mean().item() for k in (0, 1)]
        pairs, draws = WithinClass(per_sample=50), Generator().manual_seed(0)
        fit = diagnose(inputs, stack.features(inputs, 0), own[:, 0], pairs=pairs, generator=draws)
    found = {"character": 100 * right[1], "Pearson in alphabets": fit.class_mean().pearson}
    return found if kind == "finest" else {"alphabet": 100 * right[0], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    candidates = {f"weight {w:g}": partial(run, weight=w, tuning=True) for w in WEIGHTS}
    LEDGER.run("tuning", candidates, range(100, 102))
    score = {w: LEDGER.values("tuning", f"weight {w:g}", "character").mean() for w in WEIGHTS[1:]}
    chosen = max(score, key=score.__getitem__)
    every: dict[str, Callable] = {
        "stack, cross-entropy alone": run,
        f"stack, isometry {chosen:g}": partial(run, weight=chosen),
        "both levels, all layers": partial(run, kind="both"),
        "characters alone": partial(run, kind="finest"),
    }
    LEDGER.run("test", every, seeds)
    for experiment in ("tuning", "test"):
        columns = ["alphabet", "character", "Pearson in alphabets"]
        print(LEDGER.table(experiment, columns, digits=2), "\n")


if __name__ == "__main__":
    main()

"""Features of an encoder that was trained here without any label, one encoder per data set.

    python experiments/low_labels/encode.py mnist

A small CNN learns on the training images to find each image's other view among the others
(contrastive loss, views of the lab's augmentation), for 400 steps of 256 images, about six minutes
on one core. The features of all images, at length one, are kept under runs/. Nothing was tuned.
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from weft.lab.augment import CLOTHING, DIGITS, NATURAL
from weft.lab.backbones import build_backbone
from weft.lab.data import Dataset, load_data
from weft.lab.pretrain import pretrain

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / "runs" / "low_labels"
ROOT = Path(os.environ.get("WEFT_DATA", HERE.parents[2] / "shared" / "data"))
VIEWS = {"mnist": DIGITS, "fashion_mnist": CLOTHING, "cifar10": NATURAL}
WIDTH, STEPS, SEED = 64, 400, 0


def encoded(name: str, data: Dataset) -> Float[Tensor, "n d"]:
    """Return the features of the training images, then of the test images; train if need be."""
    path = KEPT / f"{name}_encoder.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train(name, data), path)
    return torch.load(path)


def train(name: str, data: Dataset) -> Float[Tensor, "n d"]:
    shape = data.image_shape
    assert shape is not None
    backbone = build_backbone("cnn", shape, WIDTH, seed=SEED)
    generator, start = Generator().manual_seed(SEED), time.process_time()
    losses: list[float] = []
    pretrain(
        backbone,
        data.train_inputs,
        VIEWS[name],
        generator,
        steps=STEPS,
        on_step=lambda samples, loss: losses.append(loss),
    )
    backbone.eval()
    with torch.no_grad():
        parts = torch.cat([data.train_inputs, data.test_inputs]).split(1000)
        features = torch.cat([F.normalize(backbone(part)) for part in parts])
    seconds = time.process_time() - start
    print(f"{name}: loss {losses[0]:.2f} -> {losses[-1]:.2f}, {seconds:.0f} s", file=sys.stderr)
    return features


if __name__ == "__main__":
    for chosen in sys.argv[1:] or VIEWS:
        encoded(chosen, load_data(chosen, root=ROOT))

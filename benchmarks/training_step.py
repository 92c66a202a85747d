"""A training step with the graph head costs at most 1.3 times one with softmax.

One step is: forward, cross-entropy, backward, AdamW. The softmax step encodes 256 images. The
graph head also needs labelled anchors, 10 per class, encoded anew in each step; so there are two
of its steps: anchors among the 256 images (equal batches), and anchors on top of 256.
The steps take turns; a ratio is a median time over the softmax step's.
"""

from collections.abc import Callable
from dataclasses import asdict

import torch
from _measure import argument_parser, interleave, store
from torch import nn
from torch.nn.functional import cross_entropy

from weft.heads import GraphClassifier, GraphHead, LinearHead
from weft.lab.backbones import build_backbone

CLASSES = 10
WIDTH = 128
IMAGES = {"cnn": (1, 28, 28), "resnet18": (3, 32, 32)}


def training_step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable:
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def compare(
    name: str, shape: tuple[int, int, int], batch: int, per_class: int, rounds: int
) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    num_anchors = per_class * CLASSES
    labels = torch.arange(batch + num_anchors) % CLASSES
    pattern = torch.rand(CLASSES, *shape, generator=generator)
    images = pattern[labels] + 0.3 * torch.rand(len(labels), *shape, generator=generator)
    anchors, queries = images.split([num_anchors, batch])
    anchor_labels, query_labels = labels.split([num_anchors, batch])

    def graph_model() -> nn.Module:
        backbone = build_backbone(name, shape, WIDTH, seed=0)
        return GraphClassifier(backbone, GraphHead(CLASSES), anchors, anchor_labels)

    among = batch - num_anchors
    backbone = build_backbone(name, shape, WIDTH, seed=0)
    steps = {
        "softmax": training_step(
            nn.Sequential(backbone, LinearHead(WIDTH, CLASSES)), queries, query_labels
        ),
        "graph, anchors among": training_step(graph_model(), queries[:among], query_labels[:among]),
        "graph, anchors on top": training_step(graph_model(), queries, query_labels),
    }
    timings = interleave(steps, rounds=rounds, budget=12)
    softmax = timings["softmax"]
    print(f"\n{name}, {batch} images of {'x'.join(map(str, shape))}, {num_anchors} anchors")
    print(f"{'':24}{'ms':>10}{'cpu ms':>10}{'ratio':>8}{'cpu':>8}")
    rows = {}
    for method, timing in timings.items():
        wall, cpu = timing.wall / softmax.wall, timing.cpu / softmax.cpu
        times = f"{timing.wall * 1e3:10.0f}{timing.cpu * 1e3:10.0f}"
        print(f"{method:24}{times}{wall:8.2f}{cpu:8.2f}")
        rows[method] = {**asdict(timing), "ratio": wall, "cpu_ratio": cpu}
    return {"batch": batch, "anchors": num_anchors, "image": shape, "steps": rows}


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    if arguments.quick:
        compare("cnn", (1, 8, 8), batch=32, per_class=1, rounds=2)
        return
    result = {
        name: compare(name, shape, batch=256, per_class=10, rounds=15)
        for name, shape in IMAGES.items()
    }
    store("training_step", result, arguments)


if __name__ == "__main__":
    main()

"""Data, networks and training: every method sees the same encoder, images, steps and optimiser."""

import copy
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from objectives import Objective, Plain, encoder_of, perturbed
from torch import Generator, Tensor, nn

from weft.heads import GraphClassifier, GraphHead, LinearHead, NearestHead, choose_anchors
from weft.lab.data import load_data

ROOT = Path(os.environ.get("WEFT_DATA", Path(__file__).parents[3] / "shared" / "data"))
KEPT = Path(__file__).parents[2] / "runs" / "robustness"
WIDTH = 100
VALIDATION = {"digits": 250, "mnist": 1000, "fashion_mnist": 1000, "cifar10": 500}


@dataclass(frozen=True)
class Images:
    """A task; the test part is the validation part while tuning."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Method:
    """How a classifier is made.

    Args:
        head: makes the graph head; `None`: ReLU and a linear layer.
        objective: what training minimises.
        steps: of the optimiser.
        weight_decay: of Adam.
        anchors: labelled anchors per class in each training graph, drawn anew every 50 steps.
        final_anchors: the same, when it predicts.
        hardened: the anchors that predict are joined by themselves, moved by PGD in this radius.
        encoder_of: take the encoder of this method as it is, instead of training one.
        starts_from: begin with the network of this method, and at half the learning rate; a graph
            head then sees its logits instead of its features.
        nearest: decide by the nearest training image, in the features of `encoder_of` if given,
            otherwise in pixels and the L-infinity norm; no graph.
        pixels: the graph is one of pixels; nothing is trained.
        until_as_good_as: stop once the validation part is predicted as well as by this method.
    """

    head: Callable[[], GraphHead] | None = None
    objective: Objective = field(default_factory=Plain)
    steps: int = 400
    weight_decay: float = 0.0
    anchors: int = 10
    final_anchors: int = 30
    hardened: float = 0.0
    encoder_of: str = ""
    starts_from: str = ""
    nearest: bool = False
    pixels: bool = False
    until_as_good_as: str = ""


def load(name: str, *, test: int, tuning: bool = False) -> Images:
    """Load a task: its first `test` test images, or validation images cut from the training part.

    The validation part is never trained on, so that tuning and final runs see the same images.
    """
    data = load_data(name, root=ROOT)
    inputs = data.train_inputs
    if inputs.ndim == 2:
        inputs = inputs.unflatten(1, (1, 8, 8))
    order = torch.randperm(len(inputs), generator=Generator().manual_seed(0))
    held, kept = order[: VALIDATION[name]], order[VALIDATION[name] :]
    if tuning:
        pair = inputs[held], data.train_labels[held]
    else:
        pair = data.test_inputs.reshape(-1, *inputs.shape[1:]), data.test_labels
    return Images(inputs[kept], data.train_labels[kept], pair[0][:test], pair[1][:test])


def encoder(channels: int, side: int) -> nn.Sequential:
    """Two convolutions and a linear layer: the small network of the literature on certificates.

    Source: Wong, Kolter, ICML 2018 (16 and 32 channels, 4 x 4, stride 2, width 100). Digits of
        8 x 8 pixels have 3 x 3 convolutions, the first without a stride.
    """
    small = side == 8
    first = nn.Conv2d(channels, 16, 3, 1, 1) if small else nn.Conv2d(channels, 16, 4, 2, 1)
    second = nn.Conv2d(16, 32, 3, 2, 1) if small else nn.Conv2d(16, 32, 4, 2, 1)
    width = 32 * (side // 2 if small else side // 4) ** 2
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(width, WIDTH))


def kept_at(data: str, name: str, seed: int) -> Path:
    """Return where a trained model is kept."""
    return KEPT / f"{data}-{re.sub(r'[^a-z0-9.]+', '_', name.lower())}-{seed}.pt"


def make(data: str, images: Images, name: str, methods: dict[str, Method], seed: int) -> nn.Module:
    """Return a method's classifier in evaluation mode, trained now or kept from before."""
    method, path = methods[name], kept_at(data, name, seed)
    torch.manual_seed(seed)
    body = encoder(*images.inputs.shape[1:3])
    if method.encoder_of:
        source = make(data, images, method.encoder_of, methods, seed)
        body = encoder_of(source)
    generator = Generator().manual_seed(seed)
    if method.nearest:
        return nearest(method, body, images)
    if method.pixels:
        body = nn.Flatten()
    if method.starts_from:
        body = copy.deepcopy(make(data, images, method.starts_from, methods, seed))
    if method.head is not None:
        model = GraphClassifier(body, method.head(), *anchors(images, method.anchors, generator))
    elif method.starts_from:
        model = body
    else:
        model = nn.Sequential(body, nn.ReLU(), LinearHead(WIDTH, 10))
    if path.exists():
        model.load_state_dict(torch.load(path))
        return model.eval()
    if not (method.encoder_of or method.pixels):
        goal = 0.0
        if method.until_as_good_as:
            other = make(data, images, method.until_as_good_as, methods, seed)
            goal = accuracy(other, *validation(data))
        train(model, method, images, generator, validation(data) if goal else None, goal)
    model.eval()
    if isinstance(model, GraphClassifier):
        settle(model, method, images, generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


def train(
    model: nn.Module,
    method: Method,
    images: Images,
    generator: Generator,
    watched: tuple[Tensor, Tensor] | None = None,
    goal: float = 0.0,
    batch: int = 128,
) -> None:
    """Train by Adam at 2e-3, which falls to zero in the last half; or stop at the goal."""
    rate = 1e-3 if method.starts_from else 2e-3
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=method.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 2 * (1 - step / method.steps))
    )
    model.train()
    for step in range(method.steps):
        if isinstance(model, GraphClassifier) and step % 50 == 0:
            model.set_anchors(*anchors(images, method.anchors, generator))
        rows = torch.randint(len(images.labels), (batch,), generator=generator)
        progress = step / method.steps
        loss = method.objective(
            model, images.inputs[rows], images.labels[rows], generator, progress
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not goal:
            schedule.step()
        elif watched and step % 10 == 9:
            reached = accuracy(model.eval(), *watched) >= goal
            model.train()
            if reached:
                return


def settle(model: GraphClassifier, method: Method, images: Images, generator: Generator) -> None:
    """Give a trained graph classifier the anchors that it predicts with."""
    chosen = anchors(images, method.final_anchors, generator)
    model.set_anchors(*chosen)
    if method.hardened:
        moved = [
            perturbed(model, *part, method.hardened, 10, generator)
            for part in zip(chosen[0].split(250), chosen[1].split(250), strict=True)
        ]
        model.set_anchors(torch.cat([chosen[0], *moved]), chosen[1].repeat(2))


def nearest(method: Method, body: nn.Module, images: Images) -> nn.Module:
    """Classify by the nearest of the training images' features; of the pixels without encoder."""
    front = body if method.encoder_of else nn.Flatten()
    with torch.no_grad():
        features = torch.cat([front(part) for part in images.inputs.split(1000)])
    norm = 2.0 if method.encoder_of else torch.inf
    return nn.Sequential(front, NearestHead(features, images.labels, norm=norm)).eval()


def anchors(images: Images, per_class: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw labelled anchors from the training part."""
    rows = choose_anchors(images.labels, per_class, generator=generator)
    return images.inputs[rows], images.labels[rows]


def validation(data: str) -> tuple[Tensor, Tensor]:
    """Return the validation part."""
    images = load(data, test=VALIDATION[data], tuning=True)
    return images.test_inputs, images.test_labels


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the accuracy in batches of 250."""
    right = [
        (model(part).argmax(1) == own).double()
        for part, own in zip(inputs.split(250), labels.split(250), strict=True)
    ]
    return torch.cat(right).mean().item()

"""Match the landmarks of a house between frames of a film (CMU House), from images and places.

    python experiments/discrete/house.py

A small network reads the patch round each landmark and its place in the frame, similar embeddings
are cheap to assign, and the loss counts wrong pairs. Frames are cut into blocks of five: pairs to
train on come from every second block, pairs to test on from the others. In "frames" all thirty
landmarks are in both; in "landmarks" a seed's fifteen are trained on, and the other fifteen tested;
in "patches" these are told apart by their patches alone, without their places.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from rows import Job, data_root, main, one_by_one
from torch import Generator, Tensor, nn
from torch.nn.functional import pad, softplus

from weft.discrete import (
    IMLE,
    Assignment,
    Blackbox,
    Identity,
    Projection,
    Rule,
    SolverLog,
    StraightThrough,
    hamming_l1,
    noise_margin,
    project_costs,
    sinkhorn,
    solve_discrete,
)

PATCH, BLOCK, BATCH, STEPS = 24, 5, 4, 120
GAPS = (10, 50, 90)
TRAIN_LANDMARKS = 15


@dataclass(frozen=True)
class Method:
    """How an assignment is differentiated, and what is done to the costs before it is solved."""

    rule: Callable[[Generator], Rule] = lambda _: Identity(Projection.NONE)
    noise: float = 0.0
    projection: Projection = Projection.NONE
    steps: float = 1.0


@dataclass(frozen=True)
class Film:
    """Landmark by landmark in each frame: the same row is the same landmark."""

    patches: Tensor  # (frames, landmarks, PATCH, PATCH), every second pixel round a landmark
    places: Tensor  # (frames, landmarks, 2), less their mean, divided by their spread
    contexts: Tensor  # (frames, landmarks, 60), the shape contexts that came with the data


@cache
def read_film() -> Film:
    folder = data_root() / "cmu_house"
    data = np.load(folder / "cmu_house.npz")
    points = torch.from_numpy(data["keypoints"])
    frames = []
    for index in range(len(points)):
        image = Image.open(folder / "images" / f"house.seq{index}.png").convert("L")
        frames.append(torch.from_numpy(np.asarray(image, np.float32)) / 255 - 0.5)
    images = pad(torch.stack(frames), (PATCH,) * 4)
    steps = torch.arange(0, 2 * PATCH, 2)
    corners = points.round().long()  # of the window, in the padded image
    rows = corners[..., 1, None] + steps
    columns = corners[..., 0, None] + steps
    frame = torch.arange(len(points))[:, None, None, None]
    patches = images[frame, rows[..., :, None], columns[..., None, :]]
    centred = points - points.mean(1, keepdim=True)
    places = centred / centred.std((1, 2), keepdim=True)
    return Film(patches, places, torch.from_numpy(data["shape_context"]).float())


def pairs(gap: int, *, held_out: bool) -> Tensor:
    """Return all (frame, frame + gap) with both frames in blocks of one kind, (n, 2)."""
    first = torch.arange(111 - gap)
    both = torch.stack([first, first + gap], 1)
    return both[(both // BLOCK % 2 == int(held_out)).all(1)]


class Embed(nn.Module):
    """A point's patch and place, to a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU()),
            nn.Flatten(),
        )
        self.join = nn.Sequential(nn.Linear(16 * 16 + 2, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, patches: Tensor, places: Tensor) -> Tensor:
        """Embed (..., n, 24, 24) and (..., n, 2) as (..., n, 32)."""
        seen = self.look(patches.reshape(-1, 1, PATCH, PATCH))
        joined = torch.cat([seen, places.reshape(-1, 2)], 1)
        return self.join(joined).reshape(*places.shape[:-1], -1)


def pair_costs(model: Embed, film: Film, frames: Tensor, landmarks: Tensor) -> Tensor:
    """Return costs (pairs, n, n) of frames (pairs, 2), landmarks (pairs, 2, n) in given order."""
    chosen = frames[..., None], landmarks
    embedded = model(film.patches[chosen], film.places[chosen])
    return 0.5 - softplus(embedded[:, 0] @ embedded[:, 1].mT)


def shuffled(landmarks: Tensor, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return landmarks in two random orders, (count, 2, n), and the true assignments."""
    order = torch.rand(count, 2, len(landmarks), generator=generator).argsort(-1)
    truth = (order[:, 0, :, None] == order[:, 1, None, :]).float()
    return landmarks[order], truth


def split(problem: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return the landmarks to train and to test on."""
    every = torch.randperm(30, generator=Generator().manual_seed(seed))
    if problem == "frames":
        return every, every
    return every[:TRAIN_LANDMARKS], every[TRAIN_LANDMARKS:]


def train(
    method: Method, film: Film, landmarks: Tensor, seed: int, log: SolverLog
) -> tuple[Embed, list[float]]:
    """Return the network, and the mean length of the costs at each step."""
    torch.manual_seed(seed)
    model, generator = Embed(), Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rule, lengths = method.rule(generator), []
    frames = torch.cat([pairs(gap, held_out=False) for gap in range(1, 111)])
    for _ in range(round(STEPS * method.steps)):
        chosen = frames[torch.randint(len(frames), (BATCH,), generator=generator)]
        order, truth = shuffled(landmarks, BATCH, generator)
        costs = pair_costs(model, film, chosen, order)
        lengths.append(costs.detach().flatten(1).norm(dim=1).mean().item())
        costs = noise_margin(costs, method.noise, generator=generator)
        costs = project_costs(costs, Assignment(), method.projection)
        found = solve_discrete(costs, Assignment(), rule, log=log)
        loss = hamming_l1(found, truth) * costs[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, lengths


def run(problem: str, method: Method, seed: int) -> dict[str, float]:
    film, log = read_film(), SolverLog()
    if problem == "patches":
        film = replace(film, places=torch.zeros_like(film.places))
    seen, landmarks = split(problem, seed)
    model, lengths = train(method, film, seen, seed, log)
    measures = {"last length": lengths[-1], "solved": log.instances}
    for gap in GAPS:
        frames = pairs(gap, held_out=True)
        order, truth = shuffled(landmarks, len(frames), Generator().manual_seed(1))
        with torch.no_grad():
            costs = pair_costs(model, film, frames, order)
        measures[f"right at {gap}"] = accuracy(costs, truth)
    return measures


def accuracy(costs: Tensor, truth: Tensor) -> float:
    return 100 * (Assignment()(costs) * truth).sum().item() / truth.sum().item()


def context_distance(left: Tensor, right: Tensor) -> Tensor:
    """Return the chi-squared distances of all pairs, (b, n, n), of histograms (b, n, 60)."""
    left, right = left[:, :, None], right[:, None]
    return ((left - right).square() / (left + right).clamp_min(1)).sum(-1)


def run_unlearned(problem: str, seed: int) -> dict[str, float]:
    """Assign by the chi-squared distances of shape contexts, learning nothing."""
    film = read_film()
    landmarks = split(problem, seed)[1]
    measures = {"solved": 0.0}
    for gap in GAPS:
        frames = pairs(gap, held_out=True)
        order, truth = shuffled(landmarks, len(frames), Generator().manual_seed(1))
        left, right = film.contexts[frames[..., None], order].unbind(1)
        measures[f"right at {gap}"] = accuracy(context_distance(left, right), truth)
    return measures


def identity(projection: Projection = Projection.NONE, **settings: Any) -> Method:
    return Method(lambda _: Identity(projection), **settings)


def blackbox(strength: float = 80.0, **settings: Any) -> Method:
    return Method(lambda _: Blackbox(strength), **settings)


SINKHORN = StraightThrough(partial(sinkhorn, temperature=1.0, iterations=20))
AFFINE_NORM = Projection.AFFINE_NORM
METHODS = {
    "Identity": identity(),
    "Identity, norm": identity(Projection.NORM),
    "Identity, affine norm": identity(AFFINE_NORM),
    "Identity, noise 0.1": identity(noise=0.1),
    "Identity, noise 1": identity(noise=1.0),
    "Identity, affine norm, noise 0.1": identity(AFFINE_NORM, noise=0.1),
    "Blackbox": blackbox(),
    "Blackbox, affine norm": blackbox(projection=AFFINE_NORM),
    "Blackbox, noise 0.1": blackbox(noise=0.1),
    "Blackbox, noise 1": blackbox(noise=1.0),
    "Blackbox, half the steps": blackbox(steps=0.5),
    "Sinkhorn straight through": Method(lambda _: SINKHORN),
    "I-MLE": Method(lambda g: IMLE(80.0, generator=g, temperature=0.1)),
}
PROBLEMS = ("frames", "landmarks", "patches")


def jobs(methods: Mapping[str, Method], problems: Iterable[str]) -> dict[tuple[str, str], Job]:
    places = product(problems, methods)
    return {(p, name): one_by_one(partial(run, p, methods[name])) for p, name in places}


if __name__ == "__main__":
    unlearned = {(p, "unlearned"): one_by_one(partial(run_unlearned, p)) for p in PROBLEMS}
    counts = {"frames": 3, "landmarks": 3, "patches": 5}
    main("house", unlearned | jobs(METHODS, PROBLEMS), counts, {})

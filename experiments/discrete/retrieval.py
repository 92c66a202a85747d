"""Retrieve characters of an alphabet never seen (Omniglot), trained on the recall of ranked lists.

    python experiments/discrete/retrieval.py

Each picture of a batch asks for the others of its class; all are ranked by their cosines, and the
loss looks at the ranks alone. Trained on the 96 characters of Balinese, Early Aramaic, Greek and
Latin, tested on the 40 of Korean. Settings are chosen (`--tuning`) on Latin, without which they
are then trained.

The last methods are the losses of pytorch-metric-learning. They run where it can be imported, such
as from a folder in PYTHONPATH, and all others without it.
"""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from rows import FIRST_TUNING_SEED, Job, data_root, main, one_by_one
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from weft.discrete import (
    Blackbox,
    Identity,
    Projection,
    Ranking,
    Rule,
    SolverLog,
    StraightThrough,
    noise_margin,
    project_costs,
    recall_loss,
    soft_sort,
    solve_discrete,
)

SIDE, EMBEDDING = 28, 64
CLASSES, SHOTS, STEPS = 16, 8, 250  # a batch is 16 classes of 8 pictures
TRAIN = ("Balinese", "Early_Aramaic", "Greek")


@dataclass(frozen=True)
class Method:
    """How a ranking is differentiated, or what makes a loss of features and labels without one."""

    rule: Rule = Identity(Projection.NONE)  # noqa: RUF009, frozen
    noise: float = 0.0
    projection: Projection = Projection.NONE
    flat: bool = False  # whether items that stand right have no gradient
    steps: float = 1.0
    metric: Callable[[], nn.Module] | None = None


@cache
def read_alphabets() -> Mapping[str, Tensor]:
    """Return the pictures of each alphabet, (characters, 20, 1, 28, 28), ink being one."""
    alphabets: dict[str, dict[str, list[Tensor]]] = {}
    path = data_root() / "omniglot" / "images_background_small1.zip"
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".png"):
                _, alphabet, character, _ = name.split("/")
                ink = Image.open(BytesIO(archive.read(name))).convert("L").resize((SIDE, SIDE))
                picture = 1 - torch.from_numpy(np.asarray(ink, np.float32))[None] / 255
                alphabets.setdefault(alphabet, {}).setdefault(character, []).append(picture)
    return {
        alphabet: torch.stack([torch.stack(drawn) for drawn in characters.values()])
        for alphabet, characters in alphabets.items()
    }


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, EMBEDDING))


def without_self(square: Tensor) -> Tensor:
    """Drop the diagonal: (n, n) to (n, n - 1)."""
    n = len(square)
    return square[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)


def train(method: Method, pictures: Tensor, seed: int, log: SolverLog) -> nn.Module:
    model, generator = network(seed), Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    label = torch.arange(CLASSES).repeat_interleave(SHOTS)
    same = without_self(label[:, None] == label)
    metric = None if method.metric is None else method.metric()
    for _ in range(round(STEPS * method.steps)):
        classes = torch.randperm(len(pictures), generator=generator)[:CLASSES]
        drawn = torch.rand(CLASSES, pictures.shape[1], generator=generator).topk(SHOTS).indices
        features = normalize(model(pictures[classes[:, None], drawn].flatten(0, 1)))
        if metric is not None:
            loss = metric(features, label)
        else:
            scores = without_self(features @ features.T)
            scores = noise_margin(scores, method.noise, generator=generator)
            scores = project_costs(scores, Ranking(), method.projection)
            ranks = solve_discrete(scores, Ranking(), method.rule, log=log)
            loss = recall_loss(ranks, same, flat=method.flat).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def run(method: Method, seed: int) -> dict[str, float]:
    alphabets, log = read_alphabets(), SolverLog()
    tuning = seed >= FIRST_TUNING_SEED
    seen = torch.cat([alphabets[name] for name in TRAIN + (() if tuning else ("Latin",))])
    unseen = alphabets["Latin" if tuning else "Korean"]
    model = train(method, seen, seed, log)
    with torch.no_grad():
        features = normalize(model(unseen.flatten(0, 1)))
    label = torch.arange(len(unseen)).repeat_interleave(unseen.shape[1])
    scores, same = (without_self(s) for s in (features @ features.T, label[:, None] == label))
    first = same.gather(1, scores.topk(4).indices)
    return {
        "recall at 1": 100 * first[:, 0].float().mean().item(),
        "recall at 4": 100 * first.any(1).float().mean().item(),
        "mean cosine": scores.mean().item(),
        "solved": log.instances,
    }


def metric_learning(name: str, **settings: float) -> nn.Module:
    """Return a loss of pytorch-metric-learning, which no other part of the project needs."""
    from pytorch_metric_learning import losses

    return getattr(losses, name)(**settings)


def identity(projection: Projection, **settings: Any) -> Method:
    return Method(Identity(projection), **settings)


def blackbox(strength: float, projection: Projection, **settings: Any) -> Method:
    return Method(Blackbox(strength), projection=projection, **settings)


def soft_ranks(costs: Tensor, *, temperature: float) -> Tensor:
    places = torch.arange(1.0, costs.shape[-1] + 1)
    return places @ soft_sort(costs, temperature=temperature)


def softsort(temperature: float) -> Method:
    return Method(StraightThrough(partial(soft_ranks, temperature=temperature)))


def peer(name: str, **settings: float) -> Method:
    return Method(metric=partial(metric_learning, name, **settings))


STD = Projection.STD
PROJECTIONS = {p.value: p for p in list(Projection)[:4]}
TUNED = {"none": 2.5, "mean": 2.5, "norm": 2.5, "std": 25.0}
METHODS = {
    "untrained": Method(steps=0.0),
    **{f"Identity, {name}": identity(p) for name, p in PROJECTIONS.items()},
    "Identity, none, noise 0.01": identity(Projection.NONE, noise=0.01),
    "Identity, std, noise 0.01": identity(STD, noise=0.01),
    **{f"Identity, {name}, flat": identity(p, flat=True) for name, p in PROJECTIONS.items()},
    "Identity, norm, flat, noise 0.01": identity(Projection.NORM, flat=True, noise=0.01),
    "Identity, std, flat, twice the steps": identity(STD, flat=True, steps=2.0),
    **{f"Blackbox, {name}": blackbox(TUNED[name], p) for name, p in PROJECTIONS.items()},
    "Blackbox, none, noise 0.01": blackbox(25.0, Projection.NONE, noise=0.01),
    "Blackbox, std, noise 0.01": blackbox(25.0, STD, noise=0.01),
    "Blackbox, none, flat, noise 0.01": blackbox(25.0, Projection.NONE, flat=True, noise=0.01),
    "Blackbox, std, half the steps": blackbox(25.0, STD, steps=0.5),
    "Blackbox, none, noise 0.01, half the steps": blackbox(
        25.0, Projection.NONE, noise=0.01, steps=0.5
    ),
    "SoftSort straight through": softsort(0.02),
    "contrastive": peer("ContrastiveLoss", neg_margin=0.5),
    "triplet": peer("TripletMarginLoss", margin=0.2),
    "multi-similarity": peer("MultiSimilarityLoss", beta=20.0),
    "FastAP": peer("FastAPLoss", num_bins=5),
    "SmoothAP": peer("SmoothAPLoss", temperature=0.01),
}
STRENGTHS, NOISES = (2.5, 25.0, 250.0), (0.01, 0.1)
TRIALS = {  # 24 of Identity, 24 of Blackbox
    **{
        f"Identity, {name}{', flat' * flat}{f', noise {m}' * bool(m)}": identity(
            p, noise=m, flat=flat
        )
        for (name, p), flat, m in product(PROJECTIONS.items(), (False, True), (0.0, *NOISES))
    },
    **{
        f"Blackbox {s:g}, {name}": blackbox(s, p)
        for (name, p), s in product(PROJECTIONS.items(), STRENGTHS)
    },
    **{
        f"Blackbox {s:g}, {name}, noise {m}": blackbox(s, PROJECTIONS[name], noise=m)
        for name, s, m in product(("none", "std"), STRENGTHS, NOISES)
    },
    **{f"SoftSort {t}": softsort(t) for t in (0.02, 0.1, 0.5)},
    **{f"contrastive {m}": peer("ContrastiveLoss", neg_margin=m) for m in (0.5, 1.0, 1.3)},
    **{f"triplet {m}": peer("TripletMarginLoss", margin=m) for m in (0.05, 0.2, 0.5)},
    **{f"multi-similarity {b:g}": peer("MultiSimilarityLoss", beta=b) for b in (10.0, 20.0, 50.0)},
    **{f"FastAP {b}": peer("FastAPLoss", num_bins=b) for b in (5, 10, 20)},
    **{f"SmoothAP {t}": peer("SmoothAPLoss", temperature=t) for t in (0.01, 0.05, 0.2)},
}


def jobs(methods: Mapping[str, Method]) -> dict[tuple[str, str], Job]:
    return {("omniglot", m): one_by_one(partial(run, methods[m])) for m in methods}


if __name__ == "__main__":
    main("retrieval", jobs(METHODS), {"omniglot": 6}, jobs(TRIALS))

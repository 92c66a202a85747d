"""Retrieve characters of an alphabet never seen (Omniglot), trained on the recall of ranked lists.

    python experiments/discrete/retrieval.py

Each picture of a batch asks for the others of its class; all are ranked by their cosines, and the
loss looks at the ranks alone. Trained on the 96 characters of Balinese, Early Aramaic, Greek and
Latin, tested on the 40 of Korean. Settings are chosen (`--tuning`) on Latin, without which they
are then trained.
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
from torch.nn.functional import normalize, relu

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
    """How a ranking is differentiated, or a loss on cosines that does without."""

    rule: Rule = Identity(Projection.NONE)  # noqa: RUF009, frozen
    noise: float = 0.0
    projection: Projection = Projection.NONE
    flat: bool = False  # whether items that stand right have no gradient
    steps: float = 1.0
    loss: Callable[[Tensor, Tensor], Tensor] | None = None


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
    for _ in range(round(STEPS * method.steps)):
        classes = torch.randperm(len(pictures), generator=generator)[:CLASSES]
        drawn = torch.rand(CLASSES, pictures.shape[1], generator=generator).topk(SHOTS).indices
        features = normalize(model(pictures[classes[:, None], drawn].flatten(0, 1)))
        scores = without_self(features @ features.T)
        if method.loss is not None:
            loss = method.loss(scores, same)
        else:
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


def contrastive(scores: Tensor, same: Tensor, *, margin: float) -> Tensor:
    """Pull pairs of a class together, push others to a distance (Hadsell et al., 2006).

    Distances, not squared, and the mean over pairs with a loss, as pytorch-metric-learning has it.
    """
    distance = (2 - 2 * scores).clamp_min(1e-12).sqrt()
    push = relu(margin - distance[~same])
    return distance[same].mean() + push.sum() / (push > 0).sum().clamp_min(1)


def triplet(scores: Tensor, same: Tensor, *, margin: float) -> Tensor:
    """All triplets with a loss (Schroff et al., 2015, without mining), by distance."""
    distance = (2 - 2 * scores).clamp_min(1e-12).sqrt()
    near, far = (distance[pairs].view(len(scores), -1) for pairs in (same, ~same))
    values = relu(near[:, :, None] - far[:, None] + margin)
    return values.sum() / (values > 0).sum().clamp_min(1)


def multi_similarity(scores: Tensor, same: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Weigh pairs by all others (Wang et al., 2019, eq. 15, without mining), base 0.5."""
    over = scores - 0.5
    near = torch.where(same, (-alpha * over).exp(), 0.0).sum(1).log1p() / alpha
    far = torch.where(same, 0.0, (beta * over).exp()).sum(1).log1p() / beta
    return (near + far).mean()


def identity(projection: Projection, **settings: Any) -> Method:
    return Method(Identity(projection), **settings)


def blackbox(strength: float, projection: Projection, **settings: Any) -> Method:
    return Method(Blackbox(strength), projection=projection, **settings)


def soft_ranks(costs: Tensor, *, temperature: float) -> Tensor:
    places = torch.arange(1.0, costs.shape[-1] + 1)
    return places @ soft_sort(costs, temperature=temperature)


def softsort(temperature: float) -> Method:
    return Method(StraightThrough(partial(soft_ranks, temperature=temperature)))


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
    "contrastive": Method(loss=partial(contrastive, margin=0.5)),
    "triplet": Method(loss=partial(triplet, margin=0.2)),
    "multi-similarity": Method(loss=partial(multi_similarity, alpha=2.0, beta=10.0)),
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
    **{f"contrastive {m}": Method(loss=partial(contrastive, margin=m)) for m in (0.5, 1.0, 1.3)},
    **{f"triplet {m}": Method(loss=partial(triplet, margin=m)) for m in (0.05, 0.2, 0.5)},
    **{
        f"multi-similarity {b:g}": Method(loss=partial(multi_similarity, alpha=2.0, beta=b))
        for b in (10.0, 20.0, 50.0)
    },
}


def jobs(methods: Mapping[str, Method]) -> dict[tuple[str, str], Job]:
    return {("omniglot", m): one_by_one(partial(run, methods[m])) for m in methods}


if __name__ == "__main__":
    main("retrieval", jobs(METHODS), {"omniglot": 6}, jobs(TRIALS))

"""Learn to match generated points, with every rule, margin and projection, on ten seeds.

    python experiments/discrete/points.py

Two views of ten points each: turned, stretched and shuffled; each point has a place, 16 features
under heavy noise, and 16 numbers that mean nothing. A network makes an embedding of each point,
similar ones are cheap to assign, and the loss counts wrong pairs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from rows import Job, main
from stacked import StackedMLP
from torch import Generator, Tensor
from torch.nn.functional import softplus

from weft.discrete import (
    IMLE,
    AdaptiveIMLE,
    Assignment,
    Blackbox,
    Identity,
    Projection,
    Rule,
    SolverLog,
    StraightThrough,
    fenchel_young_loss,
    hamming_l1,
    informed_margin,
    noise_margin,
    project_costs,
    sinkhorn,
    solve_discrete,
)

NUM_TEMPLATES, NUM_POINTS, FEATURES, DISTRACTORS = 12, 10, 16, 16
BATCH, STEPS, NUM_TEST = 8, 600, 300


@dataclass(frozen=True)
class Method:
    """How an assignment is differentiated, and what is done to the costs before it is solved."""

    rule: Callable[[Generator], Rule] = lambda _: Identity(Projection.NONE)
    fenchel_young: float = 0.0  # scale of the noise in the loss that needs no rule
    noise: float = 0.0
    informed: float = 0.0
    projection: Projection = Projection.NONE
    steps: float = 1.0
    linear: bool = False  # the loss whose gradient stays where the solution is right


class Templates:
    """For each seed twelve sets of points with their features."""

    def __init__(self, seeds: Sequence[int]) -> None:
        size = (NUM_TEMPLATES, NUM_POINTS, 2 + FEATURES)
        drawn = [torch.randn(size, generator=Generator().manual_seed(seed)) for seed in seeds]
        self.points = torch.stack(drawn)

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return two views (seeds, count, points, 34), and the true assignments of all pairs."""
        which = torch.randint(NUM_TEMPLATES, (count,), generator=generator)
        chosen = self.points[:, which]
        left, right = (self._view(chosen, generator) for _ in range(2))
        order = torch.rand(right.shape[:-1], generator=generator).argsort(-1)
        right = right.take_along_dim(order[..., None], 2)
        truth = (order[..., None, :] == torch.arange(NUM_POINTS)[:, None]).float()
        return left, right, truth

    def _view(self, chosen: Tensor, generator: Generator) -> Tensor:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*chosen.shape[:2], *shape, generator=generator)

        places = chosen[..., :2] @ (torch.eye(2) + 0.3 * normal(2, 2))
        places = places + 0.05 * normal(NUM_POINTS, 2)
        features = chosen[..., 2:] + normal(NUM_POINTS, FEATURES)
        return torch.cat([places, features, normal(NUM_POINTS, DISTRACTORS)], -1)


def pair_costs(left: Tensor, right: Tensor) -> Tensor:
    """Return minus the affinities of embeddings (..., n, d): (..., n, n)."""
    return 0.5 - softplus(left @ right.mT)


def train(
    method: Method, templates: Templates, seeds: Sequence[int], log: SolverLog
) -> tuple[StackedMLP, list[Tensor]]:
    """Return the networks, and the mean length of the costs (seeds,) at each step."""
    generator = Generator().manual_seed(seeds[0])
    model = StackedMLP((2 + FEATURES + DISTRACTORS, 64, 32), seeds)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rule, lengths = method.rule(generator), []
    for _ in range(round(STEPS * method.steps)):
        left, right, truth = templates.draw(BATCH, generator)
        costs = pair_costs(model(left), model(right))
        lengths.append(costs.detach().flatten(2).norm(dim=-1).mean(1))
        if method.fenchel_young:
            settings = {"samples": 5, "scale": method.fenchel_young, "log": log}
            settings["generator"] = generator
            loss = fenchel_young_loss(costs, truth, Assignment(), **settings).sum() / BATCH
        else:
            costs = noise_margin(costs, method.noise, generator=generator)
            costs = informed_margin(costs, truth, method.informed)
            costs = project_costs(costs, Assignment(), method.projection)
            found = solve_discrete(costs, Assignment(), rule, log=log)
            if method.linear:
                loss = (found * (1 - truth) + (1 - found) * truth).sum() / BATCH
            else:
                loss = hamming_l1(found, truth) * found.numel() / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, lengths


def run(method: Method, seeds: Sequence[int]) -> Iterator[Mapping[str, float]]:
    templates, log = Templates(seeds), SolverLog()
    model, lengths = train(method, templates, seeds, log)
    left, right, truth = templates.draw(NUM_TEST, Generator().manual_seed(1))
    with torch.no_grad():
        found = Assignment()(pair_costs(model(left), model(right)))
    accuracy = 100 * (found * truth).sum((1, 2, 3)) / (NUM_TEST * NUM_POINTS)
    for index in range(len(seeds)):
        yield {
            "right": accuracy[index].item(),
            "last length": lengths[-1][index].item(),
            "solved": log.instances / len(seeds),
        }


def identity(projection: Projection = Projection.NONE, **settings: Any) -> Method:
    return Method(lambda _: Identity(projection), **settings)


def blackbox(strength: float = 80.0, **settings: Any) -> Method:
    return Method(lambda _: Blackbox(strength), **settings)


def imle(strength: float, temperature: float) -> Method:
    return Method(lambda g: IMLE(strength, generator=g, temperature=temperature))


def adaptive(temperature: float) -> Method:
    return Method(lambda g: AdaptiveIMLE(generator=g, temperature=temperature))


def sinkhorn_through(temperature: float, **settings: Any) -> Method:
    relaxation = partial(sinkhorn, temperature=temperature, iterations=20)
    return Method(lambda _: StraightThrough(relaxation), **settings)


NORM, AFFINE_NORM = Projection.NORM, Projection.AFFINE_NORM
METHODS = {
    "Identity": identity(),
    "Identity, norm": identity(NORM),
    "Identity, affine": identity(Projection.AFFINE),
    "Identity, affine norm": identity(AFFINE_NORM),
    "Identity, noise 1": identity(noise=1.0),
    "Identity, noise 10": identity(noise=10.0),
    "Identity, norm, noise 1": identity(NORM, noise=1.0),
    "Identity, affine norm, noise 1": identity(AFFINE_NORM, noise=1.0),
    "Identity, informed 1": identity(informed=1.0),
    "Identity, linear Hamming, noise 1": identity(linear=True, noise=1.0),
    "Blackbox": blackbox(),
    "Blackbox, norm": blackbox(projection=NORM),
    "Blackbox, affine norm": blackbox(projection=AFFINE_NORM),
    "Blackbox, noise 1": blackbox(noise=1.0),
    "Blackbox, noise 10": blackbox(noise=10.0),
    "Blackbox, noise 1, half the steps": blackbox(noise=1.0, steps=0.5),
    "Blackbox, linear Hamming, noise 1": blackbox(linear=True, noise=1.0),
    "Sinkhorn straight through": sinkhorn_through(1.0),
    "Sinkhorn straight through, noise 1": sinkhorn_through(1.0, noise=1.0),
    "I-MLE": imle(80.0, 1.0),
    "Adaptive I-MLE": adaptive(1.0),
    "Fenchel-Young, 5 samples": Method(fenchel_young=10.0),
}
STRENGTHS, SCALES = (8.0, 80.0, 800.0), (0.1, 1.0, 10.0)
TRIALS = {
    **{f"Identity, noise {m:g}": identity(noise=m) for m in SCALES},
    **{f"Identity, affine norm, noise {m:g}": identity(AFFINE_NORM, noise=m) for m in SCALES},
    **{f"Blackbox 80, noise {m:g}": blackbox(noise=m) for m in SCALES},
    **{f"Blackbox {s:g}, noise 1": blackbox(s, noise=1.0) for s in STRENGTHS},
    **{f"Blackbox {s:g}, norm": blackbox(s, projection=NORM) for s in STRENGTHS},
    **{f"I-MLE {s:g}, {t}": imle(s, t) for s, t in product(STRENGTHS, SCALES)},
    **{f"Adaptive I-MLE {t}": adaptive(t) for t in SCALES},
    **{f"Sinkhorn {t}": sinkhorn_through(t) for t in SCALES},
    **{f"Fenchel-Young {s}": Method(fenchel_young=s) for s in SCALES},
}


def jobs(methods: Mapping[str, Method]) -> dict[tuple[str, str], Job]:
    return {("points", name): partial(run, method) for name, method in methods.items()}


if __name__ == "__main__":
    main("matching", jobs(METHODS), {"points": 10}, jobs(TRIALS))

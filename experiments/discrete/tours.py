"""Learn where places lie on the globe from tours through them.

    python experiments/discrete/tours.py

A network reads the noisy code of each of k places and puts it on the sphere; the shortest tour by
these points is compared with the true one, edge by edge. Nothing else says where places are. Codes
are smooth functions of the true place, so that places never seen can be placed too: those of
TSPLIB's instances on the globe (burma14, ulysses16, ulysses22) are held out.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from rows import Job, data_root, main
from stacked import StackedMLP
from torch import Generator, Tensor
from torch.nn.functional import normalize

from weft.discrete import (
    IMLE,
    AdaptiveIMLE,
    Blackbox,
    Identity,
    Perturbed,
    Projection,
    Rule,
    SolverLog,
    Tour,
    fenchel_young_loss,
    hamming_l1,
    margin_size,
    noise_margin,
    project_costs,
    solve_discrete,
)

NUM_PLACES, CODE, CODE_NOISE = 100, 24, 0.3
BATCH, STEPS_PER_EPOCH, EPOCHS = 50, 40, 25
GEO = ("burma14", "ulysses16", "ulysses22")


@dataclass(frozen=True)
class Problem:
    """How many places a tour has, and what is wrong in training: labels, or the gradient."""

    k: int
    gradient_noise: float = 0.0  # in units of one instance's gradient
    flipped: float = 0.0  # share of the edges that a label has, or has not, wrongly


@dataclass(frozen=True)
class Method:
    """How a tour is differentiated; noise is added in the first half of the training only."""

    rule: Callable[[Generator], Rule] = lambda _: Identity(Projection.NONE)
    fenchel_young: float = 0.0  # scale of the noise in the loss that needs no rule
    margin: float = 0.0
    projection: Projection = Projection.NONE
    epochs: float = 1.0


class Worlds:
    """For each seed 100 places on the sphere, what their codes look like, and sets of k places."""

    def __init__(self, seeds: Sequence[int], k: int) -> None:
        worlds = [self._draw(Generator().manual_seed(seed), k) for seed in seeds]
        self.places, self.maps, self.train, self.test = map(torch.stack, zip(*worlds, strict=True))

    def _draw(self, generator: Generator, k: int) -> tuple[Tensor, ...]:
        places = normalize(torch.randn(NUM_PLACES, 3, generator=generator), dim=-1)
        maps = 2 * torch.randn(4, CODE, generator=generator)  # frequencies, and a phase
        sets = torch.rand(BATCH * STEPS_PER_EPOCH + 500, NUM_PLACES, generator=generator)
        train, test = sets.topk(k).indices.split([BATCH * STEPS_PER_EPOCH, 500])
        return places, maps, train, test

    def points(self, sets: Tensor) -> Tensor:
        """Return the places of sets (seeds, n, k): (seeds, n, k, 3)."""
        return self.places[torch.arange(len(sets))[:, None, None], sets]

    def codes(self, points: Tensor, generator: Generator) -> Tensor:
        """Return noisy codes of points (seeds, n, k, 3)."""
        angles = points @ self.maps[:, None, :3] + self.maps[:, None, 3:]
        noise = torch.randn(angles.shape, generator=generator)
        return math.sqrt(2) * angles.sin() + CODE_NOISE * noise


def distances(points: Tensor) -> Tensor:
    """Return (..., pairs) from points (..., k, 3)."""
    i, j = torch.triu_indices(points.shape[-2], points.shape[-2], 1)
    return (points[..., i, :] - points[..., j, :]).square().sum(-1).clamp_min(1e-12).sqrt()


def place(model: StackedMLP, codes: Tensor) -> Tensor:
    return normalize(model(codes), dim=-1)


def train(
    problem: Problem, method: Method, worlds: Worlds, seeds: Sequence[int], log: SolverLog
) -> tuple[StackedMLP, list[Tensor]]:
    """Return the networks, and the mean length of the costs (seeds,) after each epoch."""
    generator = Generator().manual_seed(seeds[0])
    model = StackedMLP((CODE, 128, 3), seeds)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    rule = method.rule(generator)
    true_points = worlds.points(worlds.train)
    tours = Tour()(distances(true_points))
    wrong = torch.rand(tours.shape, generator=Generator().manual_seed(2)) < problem.flipped
    tours = tours.where(~wrong, 1 - tours)
    epochs, lengths = round(EPOCHS * method.epochs), []
    for step in range(epochs * STEPS_PER_EPOCH):
        rows = torch.randint(worlds.train.shape[1], (BATCH,), generator=generator)
        points = place(model, worlds.codes(true_points[:, rows], generator))
        costs = raw = distances(points)
        margin = margin_size(method.margin, step, hold=epochs * STEPS_PER_EPOCH // 2)
        costs = noise_margin(costs, margin, generator=generator)
        costs = project_costs(costs, Tour(), method.projection)
        if method.fenchel_young:
            settings = {"samples": 5, "scale": method.fenchel_young, "log": log}
            settings["generator"] = generator
            loss = fenchel_young_loss(costs, tours[:, rows], Tour(), **settings).sum() / BATCH
        else:
            found = solve_discrete(costs, Tour(), rule, log=log)
            if problem.gradient_noise:
                noise = torch.randn(found.shape, generator=generator)
                noise *= problem.gradient_noise / BATCH
                found.register_hook(noise.__add__)
            loss = hamming_l1(found, tours[:, rows]) * found.numel() / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % STEPS_PER_EPOCH == 0:
            lengths.append(raw.detach().norm(dim=-1).mean(1))
    return model, lengths


def read_geo(name: str) -> Tensor:
    """Return the places of an instance on the sphere, (n, 3), enlarged.

    They are turned to the pole, and their distances from it stretched to 1.2 radians at most: in
    their true size, a fraction of that, the noise of the codes would hide them all.
    """
    lines = (data_root() / "tsplib" / f"{name}.tsp").read_text().split("NODE_COORD_SECTION")[1]
    numbers = [line.split()[1:] for line in lines.strip().splitlines() if len(line.split()) == 3]
    degrees = torch.tensor([[float(number) for number in line] for line in numbers])
    latitude, longitude = ((degrees.trunc() + degrees.frac() / 0.6) * math.pi / 180).unbind(-1)
    flat = [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()]
    points = torch.stack(flat, -1)
    middle = normalize(points.mean(0), dim=0)
    across = points - (points @ middle)[:, None] * middle
    angle = torch.atan2(across.norm(dim=-1), points @ middle)
    angle = angle / angle.max() * 1.2
    return angle.cos()[:, None] * middle + angle.sin()[:, None] * normalize(across, dim=-1)


def solve_held_out(
    model: StackedMLP, worlds: Worlds, points: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return for each seed: share of right tours in percent, mean ratio of lengths times 100."""
    points = points.expand(len(worlds.places), *points.shape[-3:])
    true = distances(points)
    with torch.no_grad():
        found = Tour()(distances(place(model, worlds.codes(points, generator))))
    best = Tour()(true[:1]).expand_as(true) if (points[0] == points).all() else Tour()(true)
    ratio = (true * found).sum(-1) / (true * best).sum(-1)
    return 100 * (found == best).all(-1).float().mean(1), 100 * ratio.mean(1)


def run(problem: Problem, method: Method, seeds: Sequence[int]) -> Iterator[Mapping[str, float]]:
    worlds, log = Worlds(seeds, problem.k), SolverLog()
    model, lengths = train(problem, method, worlds, seeds, log)
    generator = Generator().manual_seed(1)
    right, ratio = solve_held_out(model, worlds, worlds.points(worlds.test), generator)
    unseen, whole = [], []
    for geo in map(read_geo, GEO):
        sets = torch.rand(100, len(geo), generator=generator).topk(problem.k).indices
        unseen.append(solve_held_out(model, worlds, geo[sets][None], generator)[0])
        whole.append(solve_held_out(model, worlds, geo[None, None], generator)[1])
    measures = {
        "right": right,
        "ratio": ratio,
        "unseen right": torch.stack(unseen).mean(0),
        "unseen ratio": torch.stack(whole).mean(0),
        "first length": lengths[0],
        "last length": lengths[-1],
        "solved": torch.full((len(seeds),), log.instances / len(seeds)),
    }
    for index in range(len(seeds)):
        yield {name: values[index].item() for name, values in measures.items()}


def identity(projection: Projection = Projection.NONE, **settings: Any) -> Method:
    return Method(lambda _: Identity(projection), **settings)


def blackbox(strength: float = 20.0, **settings: Any) -> Method:
    return Method(lambda _: Blackbox(strength), **settings)


def imle(strength: float, temperature: float) -> Method:
    return Method(lambda g: IMLE(strength, generator=g, temperature=temperature))


def adaptive(temperature: float) -> Method:
    return Method(lambda g: AdaptiveIMLE(generator=g, temperature=temperature))


def perturbed(scale: float) -> Method:
    return Method(lambda g: Perturbed(scale, 5, generator=g))


AFFINE_NORM, STD = Projection.AFFINE_NORM, Projection.STD
METHODS = {
    "Identity": identity(),
    "Identity, norm": identity(Projection.NORM),
    "Identity, std": identity(STD),
    "Identity, affine": identity(Projection.AFFINE),
    "Identity, affine norm": identity(AFFINE_NORM),
    "Identity, noise 0.2": identity(margin=0.2),
    "Identity, std, noise 0.2": identity(STD, margin=0.2),
    "Blackbox": blackbox(),
    "Blackbox, std": blackbox(projection=STD),
    "Blackbox, affine norm": blackbox(projection=AFFINE_NORM),
    "Blackbox, noise 0.2": blackbox(margin=0.2),
    "Blackbox, std, noise 0.2": blackbox(projection=STD, margin=0.2),
    "Blackbox, affine norm, half the epochs": blackbox(projection=AFFINE_NORM, epochs=0.5),
    "Blackbox, noise 0.2, half the epochs": blackbox(margin=0.2, epochs=0.5),
    "I-MLE": imle(20.0, 0.2),
    "Adaptive I-MLE": adaptive(0.2),
    "Perturbed, 5 samples": perturbed(0.2),
    "Fenchel-Young, 5 samples": Method(fenchel_young=0.2),
}
STRENGTHS = (5.0, 20.0, 100.0)
SCALES = (0.05, 0.2, 0.5)
TRIALS = {
    **{f"Identity, noise {m}": identity(margin=m) for m in SCALES},
    **{f"Identity, std, noise {m}": identity(STD, margin=m) for m in SCALES},
    **{f"Blackbox {s:g}, noise 0.2": blackbox(s, margin=0.2) for s in STRENGTHS},
    **{f"Blackbox {s:g}, std": blackbox(s, projection=STD) for s in STRENGTHS},
    **{f"Blackbox {s:g}, affine norm": blackbox(s, projection=AFFINE_NORM) for s in STRENGTHS},
    **{f"I-MLE {s:g}, {t}": imle(s, t) for s, t in product(STRENGTHS[1:], SCALES)},
    **{f"Adaptive I-MLE {t}": adaptive(t) for t in SCALES},
    **{f"Perturbed {s}": perturbed(s) for s in SCALES},
    **{f"Fenchel-Young {s}": Method(fenchel_young=s) for s in SCALES},
}
FEW = (
    "Identity, affine norm",
    "Identity, std, noise 0.2",
    "Blackbox, noise 0.2",
    "Blackbox, std, noise 0.2",
    "Blackbox, affine norm",
)
CORRUPTED = ("Blackbox 5, noise 0.2", "Blackbox 5, affine norm")  # the best for gradient noise
PROBLEMS = {
    "5 places": Problem(5),
    "5 places, gradient noise 0.25": Problem(5, 0.25),
    "5 places, gradient noise 12.5": Problem(5, 12.5),
    "5 places, a tenth of labels flipped": Problem(5, flipped=0.1),
    "8 places": Problem(8),
}


def jobs(methods: Mapping[str, Method], problem: str) -> dict[tuple[str, str], Job]:
    return {(problem, m): partial(run, PROBLEMS[problem], methods[m]) for m in methods}


if __name__ == "__main__":
    few = {name: METHODS[name] for name in FEW}
    tuned = {name: TRIALS[name] for name in CORRUPTED}
    everything = jobs(METHODS, "5 places")
    for problem in list(PROBLEMS)[1:]:
        everything |= jobs(few | tuned, problem)
    counts = dict.fromkeys(PROBLEMS, 10) | {"8 places": 4}
    corrupted = {name: TRIALS[name] for name in TRIALS if "Blackbox" in name}
    trials = jobs(TRIALS, "5 places") | jobs(corrupted, "5 places, gradient noise 0.25")
    main("tours", everything, counts, trials)

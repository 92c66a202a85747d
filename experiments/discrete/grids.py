"""Learn what terrain costs from pictures of it and the cheapest paths through it.

    python experiments/discrete/grids.py

A small network gives each cell a cost, the solver a path, and the loss counts the cells in which
it differs from the true one. Pictures are generated, as Warcraft's are not free: smooth terrain of
five costs, each drawn with its own texture; or grid maps of the Moving AI Lab, walls being dear.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch
from rows import Job, data_root, main, one_by_one
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, softplus

from weft.discrete import (
    IMLE,
    AdaptiveIMLE,
    Blackbox,
    FunctionSolver,
    GridPath,
    Identity,
    PerturbedMultiplicative,
    Projection,
    Rule,
    SolverLog,
    fenchel_young_loss,
    hamming_l1,
    noise_margin,
    project_costs,
    solve_discrete,
    spo_plus_loss,
)

COSTS = torch.tensor([0.8, 1.2, 5.3, 7.7, 9.2])
PATCH = 4  # pixels of a cell's side
BATCH = 50


@dataclass(frozen=True)
class Problem:
    """Where grids come from, how large and noisy they are, and how long they are learned."""

    grids: Callable[["Problem", int, int, Generator], Tensor]
    size: int
    noise: float
    num_train: int
    epochs: int


@dataclass(frozen=True)
class Method:
    """How a path is differentiated, or which loss does without."""

    rule: Callable[[Generator], Rule] = field(default=lambda _: Identity(Projection.NONE))
    margin: float = 0.0
    normalize: bool = False
    epochs: float = 1.0
    loss: Callable[[Tensor, Tensor, Tensor, Generator, SolverLog], Tensor] | None = None


@dataclass(frozen=True)
class Grids:
    """Pictures of grids, what their cells cost, and the cheapest paths."""

    pictures: Tensor  # (n, 3, 4 size, 4 size)
    costs: Tensor  # (n, size, size)
    paths: Tensor


def smooth_terrain(problem: Problem, count: int, size: int, generator: Generator) -> Tensor:
    """Return classes (count, size, size): smoothed noise, cut at its quantiles."""
    margin = 4
    noise = torch.randn(count, 1, size + 2 * margin, size + 2 * margin, generator=generator)
    bell = torch.exp(-torch.arange(-margin, margin + 1.0).square() / (2 * 1.5**2))
    heights = conv2d(noise, (bell[:, None] * bell)[None, None])[:, 0]
    cuts = heights.flatten(1).quantile(torch.tensor([0.25, 0.5, 0.7, 0.85]), dim=1)
    return (heights[None] > cuts[..., None, None]).sum(0)


def read_map(name: str) -> Tensor:
    lines = (data_root() / "gridmaps" / f"{name}.map").read_text().splitlines()[4:]
    return torch.tensor([[0 if cell == "." else 4 for cell in line] for line in lines if line])


def map_windows(problem: Problem, count: int, size: int, generator: Generator) -> Tensor:
    """Cut windows from three maps to train on, or turn and mirror three others to test on."""
    if size == problem.size:
        maps = [read_map(n) for n in ("random-64-64-20", "room-64-64-8", "warehouse-10-20-10-2-1")]
        windows = []
        for index in range(count):
            whole = maps[index % 3]
            top, left = (
                int(torch.randint(side - size + 1, (), generator=generator)) for side in whole.shape
            )
            windows.append(whole[top : top + size, left : left + size])
        return torch.stack(windows)
    maps = [read_map(n) for n in ("random-32-32-20", "room-32-32-4", "maze-32-32-2")]
    turned = [m.rot90(k) for m, k in product(maps, range(4))]
    return torch.stack([*turned, *(m.mT for m in turned)])


def draw(problem: Problem, classes: Tensor, textures: Tensor, generator: Generator) -> Grids:
    pictures = textures[classes].permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
    pictures = pictures + problem.noise * torch.randn(pictures.shape, generator=generator)
    costs = COSTS[classes]
    return Grids(pictures, costs, GridPath()(costs))


def make(problem: Problem, seed: int) -> tuple[Grids, Grids]:
    """Draw textures and grids to train and to test on."""
    generator = Generator().manual_seed(seed)
    textures = torch.rand(len(COSTS), 3, PATCH, PATCH, generator=generator)
    test_size = 32 if problem.grids is map_windows else problem.size
    train = problem.grids(problem, problem.num_train, problem.size, generator)
    test = problem.grids(problem, 200, test_size, generator)
    return draw(problem, train, textures, generator), draw(problem, test, textures, generator)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 16, PATCH, PATCH), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 1, 1), nn.Flatten(1, 2))


def train(
    problem: Problem, method: Method, grids: Grids, seed: int, log: SolverLog
) -> tuple[nn.Module, list[float]]:
    """Return the network, and the mean length of the costs at each step."""
    generator = Generator().manual_seed(seed + 1000)
    model, rule = network(seed), method.rule(generator)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    epochs = round(problem.epochs * method.epochs)
    lengths = []
    for epoch in range(epochs):
        if epoch == round(0.6 * epochs):
            optimizer.param_groups[0]["lr"] = 5e-4
        for rows in torch.randperm(len(grids.costs), generator=generator).split(BATCH):
            costs = softplus(model(grids.pictures[rows]))
            lengths.append(costs.detach().flatten(1).norm(dim=1).mean().item())
            if method.loss is not None:
                loss = method.loss(costs, grids.costs[rows], grids.paths[rows], generator, log)
            else:
                if method.normalize:
                    costs = project_costs(costs, GridPath(), Projection.NORM)
                if method.margin:
                    costs = noise_margin(costs, method.margin, generator=generator).clamp_min(0)
                paths = solve_discrete(costs, GridPath(), rule, log=log)
                loss = hamming_l1(paths, grids.paths[rows]) * costs[0].numel()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model, lengths


def run(problem: Problem, method: Method, seed: int) -> dict[str, float]:
    grids, test = make(problem, seed)
    log = SolverLog()
    model, lengths = train(problem, method, grids, seed, log)
    with torch.no_grad():
        paths = GridPath()(softplus(model(test.pictures)))
    spent, least = ((test.costs * found).flatten(1).sum(1) for found in (paths, test.paths))
    return {
        "ratio": 100 * (spent / least).mean().item(),
        "optimal": 100 * (spent < 1.0001 * least).float().mean().item(),
        "length": lengths[-1],
        "solved": log.instances,
    }


# Two losses move costs below zero, which the solver refuses: they are then taken for zero.
CLAMPED = FunctionSolver(lambda costs: GridPath()(costs.clamp_min(0)), item_dims=2)


def spo_plus(
    costs: Tensor, true_costs: Tensor, paths: Tensor, generator: Generator, log: SolverLog
) -> Tensor:
    return spo_plus_loss(costs, true_costs, CLAMPED, log=log).mean()


def fenchel_young(scale: float) -> Method:
    def loss(
        costs: Tensor, true_costs: Tensor, paths: Tensor, generator: Generator, log: SolverLog
    ) -> Tensor:
        settings = {"samples": 5, "scale": scale, "generator": generator, "log": log}
        return fenchel_young_loss(costs, paths, CLAMPED, **settings).mean()

    return Method(loss=loss)


def blackbox(strength: float, **settings: Any) -> Method:
    return Method(lambda _: Blackbox(strength), **settings)


def imle(strength: float, temperature: float) -> Method:
    return Method(lambda g: IMLE(strength, generator=g, temperature=temperature))


def adaptive(temperature: float) -> Method:
    return Method(lambda g: AdaptiveIMLE(generator=g, temperature=temperature))


def perturbed(scale: float) -> Method:
    return Method(lambda g: PerturbedMultiplicative(scale, 5, generator=g))


def identity_norm(_: Generator) -> Rule:
    return Identity(Projection.NORM)


METHODS = {
    "Identity": Method(),
    "Identity, norm": Method(identity_norm),
    "Identity, noise 0.2": Method(margin=0.2),
    "Identity, norm, noise 0.2": Method(identity_norm, margin=0.2),
    "Blackbox": blackbox(20.0),
    "Blackbox, norm": blackbox(20.0, normalize=True),
    "Blackbox, noise 0.2": blackbox(20.0, margin=0.2),
    "Blackbox, norm, half the epochs": blackbox(20.0, normalize=True, epochs=0.5),
    "Blackbox, noise 0.2, half the epochs": blackbox(20.0, margin=0.2, epochs=0.5),
    "I-MLE": imle(20.0, 0.05),
    "Adaptive I-MLE": adaptive(0.05),
    "Perturbed, 5 samples": perturbed(0.5),
    "Fenchel-Young, 5 samples": fenchel_young(0.1),
    "SPO+ (sees true costs)": Method(loss=spo_plus),
}
TRIALS = {
    **{f"Identity, noise {m}": Method(margin=m) for m in (0.05, 0.2, 0.5)},
    **{f"Blackbox {s:g}, norm": blackbox(s, normalize=True) for s in (5.0, 20.0, 80.0)},
    **{f"Blackbox {s:g}, noise 0.2": blackbox(s, margin=0.2) for s in (5.0, 20.0, 80.0)},
    **{f"Blackbox 20, noise {m}": blackbox(20.0, margin=m) for m in (0.05, 0.5)},
    **{f"I-MLE {s:g}, {t}": imle(s, t) for s, t in product((20.0, 80.0), (0.05, 0.2, 0.5))},
    **{f"Adaptive I-MLE {t}": adaptive(t) for t in (0.05, 0.2, 0.5)},
    **{f"Perturbed {s}": perturbed(s) for s in (0.1, 0.5, 1.0)},
    **{f"Fenchel-Young {s}": fenchel_young(s) for s in (0.1, 0.5, 2.0)},
}
FEW = (
    "Identity",
    "Identity, norm",
    "Identity, noise 0.2",
    "Blackbox, norm",
    "Blackbox, noise 0.2",
    "Blackbox, norm, half the epochs",
    "Blackbox, noise 0.2, half the epochs",
)
PROBLEMS = {
    "terrain 12": Problem(smooth_terrain, 12, 0.15, 1000, 20),
    "terrain 18": Problem(smooth_terrain, 18, 0.15, 600, 20),
    "terrain 24": Problem(smooth_terrain, 24, 0.15, 400, 20),
    "terrain 30": Problem(smooth_terrain, 30, 0.15, 300, 20),
    "maps": Problem(map_windows, 16, 0.5, 600, 20),
}


def jobs(methods: dict[str, Method], problems: Iterable[str]) -> dict[tuple[str, str], Job]:
    pairs = product(problems, methods)
    return {(p, m): one_by_one(partial(run, PROBLEMS[p], methods[m])) for p, m in pairs}


if __name__ == "__main__":
    few = {name: METHODS[name] for name in FEW}
    larger = ["terrain 18", "terrain 24", "terrain 30"]
    everything = jobs(METHODS, ["terrain 12", "maps"]) | jobs(few, larger)
    main("grids", everything, dict.fromkeys(PROBLEMS, 6), jobs(TRIALS, ["terrain 12"]))

"""Train an autoencoder of digits whose code is k of n: ten hot numbers in each of twenty groups.

    python experiments/discrete/subsets.py

The encoder's scores get noise, the k best of each group are set to one, and the decoder draws the
picture from them: the solver sits in the middle of the network, and no label says what is right.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import torch
from rows import Job, data_root, main, one_by_one
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from weft.discrete import (
    IMLE,
    AdaptiveIMLE,
    Identity,
    Projection,
    Rule,
    SolverLog,
    StraightThrough,
    SumOfGamma,
    TopK,
    soft_argmin,
    solve_discrete,
    subset_marginals,
)
from weft.lab.data import load_data

BATCH = 100


@dataclass(frozen=True)
class Problem:
    """A data set, the sizes of the network, and how long it is trained."""

    data: str
    hidden: tuple[int, int]
    groups: int
    size: int
    k: int
    epochs: int


@dataclass(frozen=True)
class Method:
    """How the subset is differentiated; rules that draw no noise themselves are given some."""

    rule: Callable[[Problem, Generator], Rule]
    noisy: bool = True
    epochs: float = 1.0


@cache
def images(name: str) -> tuple[Tensor, Tensor]:
    """Return training and test images in [0, 1], flattened: 5000 and 2000 of MNIST at most."""
    data = load_data(name, root=data_root() if name == "mnist" else None)
    return data.train_inputs.flatten(1)[:5000], data.test_inputs.flatten(1)[:2000]


class Autoencoder(nn.Module):
    """Pictures to scores, and subsets to logits of pixels."""

    def __init__(self, problem: Problem, pixels: int) -> None:
        super().__init__()
        wide, narrow = problem.hidden
        self.groups = (problem.groups, problem.size)
        self.encode = nn.Sequential(
            *(nn.Linear(pixels, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU()),
            *(nn.Linear(narrow, problem.groups * problem.size), nn.Unflatten(1, self.groups)),
        )
        self.decode = nn.Sequential(
            *(nn.Flatten(), nn.Linear(problem.groups * problem.size, narrow), nn.ReLU()),
            *(nn.Linear(narrow, wide), nn.ReLU(), nn.Linear(wide, pixels)),
        )


def bound(
    model: Autoencoder,
    pictures: Tensor,
    problem: Problem,
    rule: Rule,
    noise: Generator | None,
    log: SolverLog,
) -> Tensor:
    """Return the negative evidence bound of each picture in nats."""
    scores = model.encode(pictures)
    noisy = scores
    if noise is not None:
        noisy = scores + SumOfGamma(problem.k).sample(scores, noise)
    code = solve_discrete(noisy, TopK(problem.k), rule, maximize=True, log=log)
    drawn = binary_cross_entropy_with_logits(model.decode(code), pictures, reduction="none")
    logs = log_softmax(scores, -1)
    from_uniform = (logs.exp() * (logs - logs.new_tensor(1 / problem.size).log())).sum((1, 2))
    return drawn.sum(1) + from_uniform


def train(problem: Problem, method: Method, seed: int, log: SolverLog) -> Autoencoder:
    pictures, _ = images(problem.data)
    torch.manual_seed(seed)
    model = Autoencoder(problem, pictures.shape[1])
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    rule = method.rule(problem, generator)
    for _ in range(round(problem.epochs * method.epochs)):
        for rows in torch.randperm(len(pictures), generator=generator).split(BATCH):
            noise = generator if method.noisy else None
            loss = bound(model, pictures[rows], problem, rule, noise, log).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def run(problem: Problem, method: Method, seed: int) -> dict[str, float]:
    log = SolverLog()
    model = train(problem, method, seed, log)
    measures: dict[str, float] = {"solved": log.instances}
    generator = Generator().manual_seed(1)
    for name, pictures in zip(("train bound", "bound"), images(problem.data), strict=True):
        with torch.no_grad():
            least = bound(model, pictures[:2000], problem, Identity(), generator, SolverLog())
            scores = model.encode(pictures[:2000])
        measures[name] = least.mean().item()
        measures["length"] = scores.norm(dim=-1).mean().item()
    return measures


def identity(projection: Projection) -> Method:
    return Method(lambda *_: Identity(projection))


def imle(strength: float, epochs: float = 1.0) -> Method:
    def rule(problem: Problem, generator: Generator) -> Rule:
        return IMLE(strength, generator=generator, noise=SumOfGamma(problem.k))

    return Method(rule, noisy=False, epochs=epochs)


METHODS = {
    "Identity": identity(Projection.NONE),
    "Identity, mean": identity(Projection.MEAN),
    "Identity, norm": identity(Projection.NORM),
    "Identity, std": identity(Projection.STD),
    "I-MLE 1": imle(1.0),
    "I-MLE 10": imle(10.0),
    "I-MLE 100": imle(100.0),
    "I-MLE 10, half the epochs": imle(10.0, 0.5),
    "Adaptive I-MLE": Method(
        lambda p, g: AdaptiveIMLE(generator=g, noise=SumOfGamma(p.k)), noisy=False
    ),
    "Softmax straight through": Method(lambda *_: StraightThrough(soft_argmin)),
    "Subset marginals straight through": Method(
        lambda p, _: StraightThrough(partial(subset_marginals, k=p.k))
    ),
}
PROBLEMS = {
    "digits": Problem("digits", (256, 128), 10, 10, 5, 30),
    "mnist": Problem("mnist", (256, 128), 20, 20, 10, 4),
    "mnist, longer": Problem("mnist", (256, 128), 20, 20, 10, 12),
}
FEW = ("Identity", "Identity, mean", "Identity, norm", "Identity, std", "I-MLE 10", "I-MLE 100")


def jobs(methods: Mapping[str, Method], problems: Iterable[str]) -> dict[tuple[str, str], Job]:
    places = product(problems, methods)
    return {(p, m): one_by_one(partial(run, PROBLEMS[p], methods[m])) for p, m in places}


if __name__ == "__main__":
    few = {name: METHODS[name] for name in FEW}
    best = {name: METHODS[name] for name in ("Identity, std", "I-MLE 10")}
    everything = jobs(METHODS, ["digits"]) | jobs(few, ["mnist"]) | jobs(best, ["mnist, longer"])
    main("subsets", everything, dict.fromkeys(PROBLEMS, 3), {})

"""Choose the few words, or pixels, from which labels are to be predicted: learning to explain.

    python experiments/discrete/explain.py

One network scores the words of a document, the k best are kept, and a second network sees these
alone and predicts the labels. Documents: bibtex, the twenty most frequent of its labels; a stand-in
for the beer reviews of the paper, which are not free. And digits, of which eight pixels are shown.
Each method picks its noise, and I-MLE its strength, by the loss on a validation part.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import torch
from rows import Job, data_root, main, one_by_one
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from weft.discrete import (
    IMLE,
    AdaptiveIMLE,
    Gumbel,
    Identity,
    Projection,
    Rule,
    StraightThrough,
    TopK,
    solve_discrete,
    subset_marginals,
)
from weft.lab.data import load_data
from weft.lab.multi_label import load_multi_label

BATCH, MOST = 100, 160  # words of a document that can be chosen; one in fifty has more
LABELS = 20


@dataclass(frozen=True)
class Samples:
    """Inputs (n, d), which of their entries can be chosen (n, m), with a mask, and labels."""

    inputs: Tensor
    entries: Tensor
    present: Tensor
    labels: Tensor

    def rows(self, rows: Tensor) -> "Samples":
        """Return a part."""
        parts = (self.inputs, self.entries, self.present, self.labels)
        return Samples(*(part[rows] for part in parts))


@dataclass(frozen=True)
class Problem:
    """Where samples come from, how many entries are shown, and how long is trained."""

    load: Callable[[], tuple[Samples, Samples]]
    k: int
    epochs: int


@dataclass(frozen=True)
class Method:
    """How the choice is differentiated: rules to try, made from a temperature and a generator."""

    rules: Sequence[Callable[[float, int, Generator], Rule]]
    noisy: bool = True  # the rule draws no noise itself
    learned: bool = True  # False: entries are chosen at random
    everything: bool = False  # nothing is chosen: the second network sees all


def choosable(inputs: Tensor, labels: Tensor, which: Tensor, most: int) -> Samples:
    entries = which.float().topk(most).indices
    return Samples(inputs, entries, which.gather(1, entries), labels)


@cache
def bibtex() -> tuple[Samples, Samples]:
    """Return documents of ten words and more."""
    data = load_multi_label("bibtex", data_root())
    frequent = data.train_targets.float().sum(0).topk(LABELS).indices
    parts = []
    for inputs, targets in (
        (data.train_inputs, data.train_targets),
        (data.test_inputs, data.test_targets),
    ):
        long = (inputs > 0).sum(1) >= 10
        words = (inputs[long] > 0).float()
        parts.append(choosable(words, targets[long][:, frequent].float(), words > 0, MOST))
    return parts[0], parts[1]


@cache
def pixels() -> tuple[Samples, Samples]:
    """Return digits, of which every pixel can be chosen."""
    data = load_data("digits")
    parts = []
    for images, labels in (
        (data.train_inputs, data.train_labels),
        (data.test_inputs, data.test_labels),
    ):
        flat = images.flatten(1)
        every = torch.ones_like(flat, dtype=torch.bool)
        parts.append(choosable(flat, one_hot(labels, 10).float(), every, flat.shape[1]))
    return parts[0], parts[1]


class Explainer(nn.Module):
    """Scores of entries, and logits of labels from the entries shown."""

    def __init__(self, num_entries: int, num_labels: int) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(num_entries, 100), nn.ReLU(), nn.Linear(100, num_entries)
        )
        self.predict = nn.Sequential(
            nn.Linear(2 * num_entries, 100), nn.ReLU(), nn.Linear(100, num_labels)
        )

    def forward(self, samples: Samples, shown: Tensor) -> Tensor:
        """Predict from entries (n, m) that are one where they are shown: their place and value."""
        visible = torch.zeros_like(samples.inputs).scatter_add(1, samples.entries, shown)
        return self.predict(torch.cat([visible, visible * samples.inputs], 1))


def choose(
    model: Explainer,
    samples: Samples,
    problem: Problem,
    method: Method,
    rule: Rule,
    temperature: float,
    noise: Generator | None,
) -> Tensor:
    """Return which entries are shown, (n, m)."""
    if method.everything:
        return samples.present.float()
    scores = model.score(samples.inputs).gather(1, samples.entries)
    if not method.learned:
        generator = noise or Generator().manual_seed(1)
        scores = torch.rand(scores.shape, generator=generator)
    elif noise is not None and method.noisy:
        scores = scores + temperature * Gumbel().sample(scores, noise)
    top = TopK(problem.k)
    return solve_discrete(scores, top, rule, maximize=True, mask=samples.present)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross-entropy, a mean over labels, times 100."""
    return 100 * binary_cross_entropy_with_logits(logits, labels)


def train(
    problem: Problem,
    method: Method,
    make_rule: Callable[[float, int, Generator], Rule],
    temperature: float,
    seed: int,
) -> tuple[float, Explainer]:
    """Return the least loss on the validation part, and the network that had it."""
    samples, _ = problem.load()
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(samples.inputs), generator=generator)
    held_out, learned = order[: len(order) // 5], order[len(order) // 5 :]
    torch.manual_seed(seed)
    model = Explainer(samples.inputs.shape[1], samples.labels.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    rule = make_rule(temperature, problem.k, generator)
    best, kept = float("inf"), model
    for _ in range(problem.epochs):
        shuffled = learned[torch.randperm(len(learned), generator=generator)]
        for rows in shuffled.split(BATCH):
            part = samples.rows(rows)
            shown = choose(model, part, problem, method, rule, temperature, generator)
            loss = loss_of(model(part, shown), part.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        validated = evaluate(model, samples.rows(held_out), problem, method)["loss"]
        if validated < best:
            best, kept = validated, copy.deepcopy(model)
    return best, kept


def chosen_entries(model: Explainer, samples: Samples, problem: Problem, method: Method) -> Tensor:
    """Return the best entries, without noise."""
    with torch.no_grad():
        return choose(model, samples, problem, method, Identity(), 0.0, None)


def evaluate(
    model: Explainer, samples: Samples, problem: Problem, method: Method
) -> dict[str, float]:
    """Measure with the best entries shown, without noise."""
    with torch.no_grad():
        logits = model(samples, chosen_entries(model, samples, problem, method))
    found, right = logits > 0, samples.labels > 0
    f1 = 2 * (found & right).sum() / (found.sum() + right.sum())
    top = samples.labels.gather(1, logits.argmax(1, keepdim=True))
    return {
        "loss": loss_of(logits, samples.labels).item(),
        "micro f1": 100 * f1.item(),
        "top right": 100 * top.mean().item(),
    }


def run(problem: Problem, method: Method, seed: int) -> dict[str, float]:
    temperatures = (0.1, 1.0) if method.learned and not method.everything else (1.0,)
    tried = [
        (*train(problem, method, rule, temperature, seed), temperature, index)
        for index, rule in enumerate(method.rules)
        for temperature in temperatures
    ]
    _, model, temperature, index = min(tried, key=lambda found: found[0])
    measures = evaluate(model, problem.load()[1], problem, method)
    return measures | {"temperature": temperature, "rule": float(index)}


def identity(projection: Projection) -> Method:
    return Method([lambda *_: Identity(projection)])


def imle(strength: float) -> Callable[[float, int, Generator], Rule]:
    return lambda temperature, _, g: IMLE(strength, generator=g, temperature=temperature)


METHODS = {
    "all entries": Method([lambda *_: Identity()], everything=True),
    "random entries": Method([lambda *_: Identity()], learned=False),
    "Identity": identity(Projection.NONE),
    "Identity, mean": identity(Projection.MEAN),
    "Identity, norm": identity(Projection.NORM),
    "Identity, std": identity(Projection.STD),
    "I-MLE": Method([imle(strength) for strength in (10.0, 1000.0)], noisy=False),
    "Adaptive I-MLE": Method(
        [lambda t, _, g: AdaptiveIMLE(generator=g, temperature=t, step=1e-3)], noisy=False
    ),
    "Subset marginals straight through": Method(
        [lambda _t, k, _g: StraightThrough(partial(subset_marginals, k=k))]
    ),
}
PROBLEMS = {
    "bibtex": Problem(bibtex, 10, 6),
    "pixels": Problem(pixels, 8, 40),
}


def jobs(methods: Mapping[str, Method], problems: Iterable[str]) -> dict[tuple[str, str], Job]:
    places = product(problems, methods)
    return {(p, m): one_by_one(partial(run, PROBLEMS[p], methods[m])) for p, m in places}


if __name__ == "__main__":
    main("explain", jobs(METHODS, PROBLEMS), {"bibtex": 3, "pixels": 5}, {})

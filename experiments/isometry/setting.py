"""Data, the paper's network, what each method minimises, and training.

Every method sees the same images, network, initial weights, batches, optimiser and epochs.
"""

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Generator, Tensor, nn

from weft.isometry import (
    Correlation,
    Discrepancy,
    Expansion,
    Perturbation,
    RandomSigns,
    Reduction,
    SquaredError,
    Stress,
    WorstDirection,
    isometry_loss,
    perturbation_loss,
)
from weft.lab.data import load_data

ROOT = Path(os.environ.get("WEFT_DATA", Path(__file__).parents[3] / "shared" / "data"))
HIDDEN, DEPTH, BATCH = 100, 5, 100
EPOCHS = {"digits": 100, "mnist": 5, "fashion_mnist": 10}
RIVALS = ("CE, weight decay 1e-3", "Jacobian 0.1", "PGD training", "TRADES 6")  # of isometry
Loss = Callable[[nn.Sequential, Tensor, Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Task:
    """Images as rows of pixels in [0, 1]."""

    name: str
    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


@lru_cache(maxsize=2)
def load(name: str, seed: int) -> Task:
    """Load a task; digits are split anew with each seed, the others as they were published."""
    if name == "digits":
        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(
            images / 16, labels, test_size=450, stratify=labels, random_state=seed
        )
        inputs, test_inputs = (torch.from_numpy(part).float() for part in parts[:2])
        return Task(
            name, inputs, torch.from_numpy(parts[2]), test_inputs, torch.from_numpy(parts[3])
        )
    data = load_data(name, root=ROOT)
    inputs, test_inputs = (part.flatten(1) for part in (data.train_inputs, data.test_inputs))
    return Task(name, inputs, data.train_labels, test_inputs, data.test_labels)


def network(width: int, seed: int) -> nn.Sequential:
    """Build `body`, five layers of 100 with tanh after each, and `head`, a linear read-out.

    Source: the network of the released code; square weights are orthogonal at first.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for depth in range(DEPTH):
        layer = nn.Linear(HIDDEN if depth else width, HIDDEN)
        if depth:
            nn.init.orthogonal_(layer.weight)
        layers += [layer, nn.Tanh()]
    head = nn.Linear(HIDDEN, 10)
    return nn.Sequential(OrderedDict(body=nn.Sequential(*layers), head=head))


@dataclass(frozen=True)
class Method:
    """What training minimises.

    Args:
        terms: functions that are added, each with its weight.
        weight_decay: of Adam.
    """

    terms: tuple[tuple[float, Loss], ...]
    weight_decay: float = 0.0

    def __call__(
        self, model: nn.Sequential, inputs: Tensor, labels: Tensor, generator: Generator
    ) -> Tensor:
        """Return the loss of a batch."""
        values = [w * term(model, inputs, labels, generator) for w, term in self.terms]
        return torch.stack(values).sum()


def plain(model: nn.Sequential, inputs: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Return the cross-entropy."""
    return F.cross_entropy(model(inputs), labels)


def within_class(
    model: nn.Sequential,
    inputs: Tensor,
    labels: Tensor,
    generator: Generator,
    *,
    discrepancy: Discrepancy,
    reduction: Reduction = Reduction.PAIRS,
) -> Tensor:
    """Return how far the last hidden layer is from keeping distances within classes."""
    features = model.body(inputs)
    return isometry_loss(inputs, features, labels, discrepancy=discrepancy, reduction=reduction)


def moved_pairs(
    model: nn.Sequential,
    inputs: Tensor,
    labels: Tensor,
    generator: Generator,
    *,
    perturbation: Perturbation,
    discrepancy: Discrepancy,
) -> Tensor:
    """Return how far the last hidden layer is from keeping small distances off the data."""
    return perturbation_loss(
        model.body, inputs, perturbation, discrepancy=discrepancy, generator=generator
    )


def jacobian(model: nn.Sequential, inputs: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Return half the squared norm of the logits' Jacobian, by one random direction.

    Source: Hoffman, Roberts, Yaida, arXiv 1908.02729.
    """
    inputs = inputs.clone().requires_grad_()
    logits = model(inputs)
    direction = F.normalize(torch.randn(logits.shape, generator=generator), dim=1)
    (slope,) = torch.autograd.grad((logits * direction).sum(), inputs, create_graph=True)
    return logits.shape[1] / 2 * slope.square().sum(1).mean()


def climb(
    objective: Callable[[Tensor], Tensor], inputs: Tensor, epsilon: float, generator: Generator
) -> Tensor:
    """Move inputs by 7 signed gradient steps from a uniform start in the L-infinity ball."""
    low, high = (inputs - epsilon).clamp_min(0), (inputs + epsilon).clamp_max(1)
    moved = inputs + epsilon * (2 * torch.rand(inputs.shape, generator=generator) - 1)
    for _ in range(7):
        moved = moved.detach().clamp(low, high).requires_grad_()
        (slope,) = torch.autograd.grad(objective(moved), moved)
        moved = moved + 2.5 * epsilon / 7 * slope.sign()
    return moved.detach().clamp(low, high)


def adversarial(
    model: nn.Sequential,
    inputs: Tensor,
    labels: Tensor,
    generator: Generator,
    *,
    epsilon: float,
) -> Tensor:
    """Return the cross-entropy where PGD left the inputs.

    Source: Madry et al., ICLR 2018.
    """
    moved = climb(
        lambda points: plain(model, points, labels, generator), inputs, epsilon, generator
    )
    return plain(model, moved, labels, generator)


def trades(
    model: nn.Sequential,
    inputs: Tensor,
    labels: Tensor,
    generator: Generator,
    *,
    epsilon: float,
) -> Tensor:
    """Return how far predictions diverge nearby, at the worst point that PGD finds.

    Source: Zhang et al., ICML 2019; beta is the weight of this term, beside the cross-entropy.
    """
    clean = model(inputs).log_softmax(1)
    fixed = clean.detach()

    def apart(points: Tensor) -> Tensor:
        return F.kl_div(model(points).log_softmax(1), fixed, log_target=True, reduction="sum")

    nearby = model(climb(apart, inputs, epsilon, generator)).log_softmax(1)
    return F.kl_div(nearby, clean, log_target=True, reduction="batchmean")


def paper(beta: float, scale: float) -> tuple[float, Loss]:
    """Return the paper's term with its two parameters."""
    return beta, partial(within_class, discrepancy=SquaredError(scale), reduction=Reduction.MATRIX)


STRESS = partial(within_class, discrepancy=Stress())
CE = (1.0, plain)


def methods(epsilon: float = 0.1) -> dict[str, Method]:
    """Return all methods; those that move inputs move them by `epsilon`."""
    signs = partial(moved_pairs, perturbation=RandomSigns(epsilon), discrepancy=SquaredError())
    hinge = partial(moved_pairs, perturbation=WorstDirection(epsilon), discrepancy=Expansion())
    correlation = partial(within_class, discrepancy=Correlation())
    return {
        "cross-entropy (CE)": Method((CE,)),
        "CE, weight decay 1e-3": Method((CE,), weight_decay=1e-3),
        "paper, beta 0.1, K 10": Method((CE, paper(0.1, 10.0))),
        "paper, beta 1, K 1": Method((CE, paper(1.0, 1.0))),
        "paper, beta 100, K 1": Method((CE, paper(100.0, 1.0))),
        "stress 10": Method((CE, (10.0, STRESS))),
        "correlation 10": Method((CE, (10.0, correlation))),
        "random-sign pairs 10": Method((CE, (10.0, signs))),
        "worst-direction hinge 10": Method((CE, (10.0, hinge))),
        "stress 10, worst-direction hinge 10": Method((CE, (10.0, STRESS), (10.0, hinge))),
        "stress 10, worst-direction hinge 100": Method((CE, (10.0, STRESS), (100.0, hinge))),
        "Jacobian 0.1": Method((CE, (0.1, jacobian))),
        "Jacobian 0.1, worst-direction hinge 10": Method((CE, (0.1, jacobian), (10.0, hinge))),
        "Jacobian 1": Method((CE, (1.0, jacobian))),
        "Jacobian 0.1, paper, beta 100, K 1": Method((CE, (0.1, jacobian), paper(100.0, 1.0))),
        "PGD training": Method(((1.0, partial(adversarial, epsilon=epsilon)),)),
        "TRADES 6": Method((CE, (6.0, partial(trades, epsilon=epsilon)))),
    }


def train(method: Method, data: str, seed: int) -> nn.Sequential:
    """Train by Adam at 1e-3, in batches of 100."""
    task = load(data, seed)
    model = network(task.inputs.shape[1], seed)
    generator = Generator().manual_seed(seed)  # of what methods draw
    order = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=1e-3, weight_decay=method.weight_decay, foreach=True
    )
    for _ in range(EPOCHS[data]):
        shuffled = torch.randperm(len(task.labels), generator=order)
        for rows in shuffled[: len(shuffled) // BATCH * BATCH].split(BATCH):
            loss = method(model, task.inputs[rows], task.labels[rows], generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()

"""Methods without a network: equations on a graph, logistic regression, and the two together."""

import torch
from setting import Method, Task
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from weft.graph import (
    ClassMass,
    Equation,
    Gauge,
    Graph,
    Laplace,
    Laplacian,
    PageRank,
    Poisson,
    Spreading,
    fit_equation,
    laplace_learning,
)

ALPHAS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)


def spread(task: Task, graph: Graph, equation: Equation, mass: bool) -> Tensor:
    normalization = ClassMass() if mass else None
    return equation.probabilities(graph, task.labels, task.known, normalization=normalization)


def propagate(task: Task, graph: Graph, seed: int, *, mass: bool) -> Tensor:
    """Label propagation: known labels stay, every other paper takes the mean of its neighbours."""
    return spread(task, graph, Laplace(), mass)


def laplace(
    task: Task, graph: Graph, seed: int, *, tau: float, laplacian: Laplacian, mass: bool
) -> Tensor:
    return spread(task, graph, Laplace(tau, laplacian=laplacian), mass)


def label_spreading(task: Task, graph: Graph, seed: int, *, alpha: float, mass: bool) -> Tensor:
    return spread(task, graph, Spreading(alpha), mass)


def page_rank(task: Task, graph: Graph, seed: int, *, alpha: float, mass: bool) -> Tensor:
    return spread(task, graph, PageRank(alpha), mass)


def poisson(task: Task, graph: Graph, seed: int, *, gauge: Gauge, mass: bool) -> Tensor:
    return spread(task, graph, Poisson(gauge), mass)


def fitted(task: Task, graph: None, seed: int) -> Tensor:
    """Laplace learning on citations + s × neighbours; tau and s by gradients, on held-out folds."""

    def mixed(scale: Tensor | float) -> Graph:
        return task.graph("both", k=10, mix=scale)

    found = fit_equation(Laplace(tau=0.1), mixed, task.labels.float(), task.known)
    return spread(task, mixed(found.scale), found.equation, mass=False)


def logistic(task: Task, graph: Graph | None, seed: int, *, C: float) -> Tensor:
    words, labels = task.words[task.data.train].numpy(), task.data.labels[task.data.train].numpy()
    model = LogisticRegression(C=C, max_iter=1000).fit(words, labels)
    return torch.from_numpy(model.predict_proba(task.words.numpy())).float()


def with_prior(task: Task, graph: Graph, seed: int, *, tau: float, C: float) -> Tensor:
    """Laplace learning in which a paper decays to what logistic regression says of its words."""
    source = tau * logistic(task, None, seed, C=C)
    return laplace_learning(
        graph, task.labels, task.known, tau=tau, source=source, normalization=None
    )


def correct_and_smooth(
    task: Task, graph: Graph, seed: int, *, correct: float, smooth: float, C: float
) -> Tensor:
    """Correct and Smooth, both spreadings solved to the end instead of iterated fifty times."""
    labels, known, base = task.labels.float(), task.known, logistic(task, None, seed, C=C)
    error = torch.where(known[:, None], labels - base, 0.0)
    spread_error = Spreading(correct)(graph, error, known)
    scale = error[known].abs().sum() / known.sum() / spread_error.abs().sum(1, keepdim=True)
    corrected = base + torch.where(scale > 1000, 1.0, scale) * spread_error
    whole = torch.where(known[:, None], labels, corrected)
    return Spreading(smooth)(graph, whole, torch.ones_like(known))


MASS = {"mass": (False, True)}
BASE = {"C": (10.0, 100.0, 1000.0)}
METHODS = {
    "label propagation": Method(propagate, MASS),
    "label spreading": Method(label_spreading, {"alpha": ALPHAS, **MASS}),
    "personalised PageRank": Method(page_rank, {"alpha": ALPHAS, **MASS}),
    "Poisson learning": Method(poisson, {"gauge": tuple(Gauge), **MASS}),
    "Laplace learning": Method(
        laplace, {"tau": (0.001, 0.01, 0.1, 1.0), "laplacian": tuple(Laplacian), **MASS}
    ),
    "Laplace learning, fitted": Method(fitted, {}, graphs=("both",), own_graph=True),
    "logistic regression": Method(
        logistic, {"C": tuple(10 ** (i / 2) for i in range(-2, 10))}, graphs=("none",)
    ),
    "Laplace learning, prior from words": Method(
        with_prior, {"tau": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), **BASE}
    ),
    "Correct and Smooth": Method(correct_and_smooth, {"correct": ALPHAS, "smooth": ALPHAS, **BASE}),
}

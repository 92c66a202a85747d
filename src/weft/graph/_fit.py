"""Fit the hyper-parameters of an equation, and of its graph, to labels held out in turn."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from weft.graph._equation import Equation, check_labels
from weft.graph._graph import Graph
from weft.graph._linear_solvers import LinearSolver

_ABOVE = {"tau": 0.0, "fidelity": 0.0, "level": 0.0, "radius": 0.0, "p": 1.0}
"""Hyper-parameters that gradients reach, by their names, and what they must exceed. `alpha`, the
only other, lies between 0 and 1."""


@dataclass(frozen=True)
class Fitted:
    """What `fit_equation` found.

    Args:
        equation: with the fitted numbers.
        scale: fitted scale of the graph; one where the graph was given.
        loss: mean loss of the held-out labels with them.
        start: the same before.
    """

    equation: Equation
    scale: float
    loss: float
    start: float


def cross_entropy(
    probabilities: Float[Tensor, "q c"], labels: Float[Tensor, "q c"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of rows that need not sum to one: what is missing is divided out."""
    return F.cross_entropy(probabilities.clamp_min(0).add(1e-6).log(), labels)


def fit_equation(
    equation: Equation,
    graph: Graph | Callable[[Tensor], Graph],
    labels: Float[Tensor, "n c"],
    known: Bool[Tensor, " n"],
    *,
    folds: int = 5,
    steps: int = 30,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    points: Float[Tensor, "n d"] | None = None,
    solver: LinearSolver | None = None,
    generator: torch.Generator | None = None,
) -> Fitted:
    """Choose hyper-parameters that predict labels which were held out, by exact gradients.

    The known nodes are cut into folds, each class spread evenly; in turn one fold is hidden and
    predicted from the others, and L-BFGS lowers the mean loss. Fitted are the numbers of the
    equation among tau, fidelity, alpha, p, level and radius that are not None and not zero, from
    where they stand, and the scale of the graph if that is a function. Only known labels are read.

    Args:
        equation: where to start; start tau at a positive number to have it fitted.
        graph: the graph; or a function from a scale, a tensor of one positive number that starts at
            one, to a graph, such as `lambda s: knn_graph(x, kernel=Gaussian(4 / s**2))`, in which s
            multiplies the bandwidths.
        labels: one-hot or shares of classes, one row per node.
        known: which nodes have a label.
        folds: parts; at most the number of labels, which leaves out one at a time.
        steps: of L-BFGS at most.
        loss: from probabilities and labels of held-out nodes to a number.
        points: as in the equation's call.
        solver: as in the equation's call.
        generator: shuffles the labels before they are cut; by default in the order of nodes.

    Raises:
        TypeError: the equation has no gradient.
        ValueError: nothing to fit, or folds do not fit the labels.
    """
    if not equation.differentiable:
        raise TypeError(
            f"`equation` must be differentiable to be fitted, got {type(equation).__name__}: "
            "compare a few values by hand."
        )
    values = _start(equation)
    if callable(graph):
        values["scale"] = 1.0
    if not values:
        raise ValueError(
            f"`equation` must have a positive hyper-parameter to fit, got {equation}: start tau "
            "above zero, or pass the graph as a function of its scale."
        )
    built = graph(labels.new_tensor(1.0)) if callable(graph) else graph
    check_labels(built, labels, known)
    parts = _cut(labels, known, folds, generator)
    free = torch.tensor(
        [_inverse(name, value) for name, value in values.items()],
        dtype=built.weights.dtype,
        device=built.weights.device,
        requires_grad=True,
    )

    def set_to(numbers: Tensor) -> tuple[Equation, Tensor]:
        chosen = {name: _bounded(name, x) for name, x in zip(values, numbers, strict=True)}
        scale = chosen.pop("scale", numbers.new_tensor(1.0))
        return dataclasses.replace(equation, **chosen), scale  # pyright: ignore

    def objective() -> Tensor:
        chosen, scale = set_to(free)
        on = graph(scale) if callable(graph) else graph
        losses = []
        for part in parts:
            shown = chosen.probabilities(on, labels, known & ~part, points=points, solver=solver)
            losses.append(loss(shown[part], labels[part].to(shown.dtype)))
        return torch.stack(losses).mean()

    optimizer = torch.optim.LBFGS([free], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    with torch.enable_grad():
        start = optimizer.step(closure)
    with torch.no_grad():
        end = objective()
        chosen, scale = set_to(free)
        numbers = {name: float(getattr(chosen, name)) for name in values if name != "scale"}
    fitted = dataclasses.replace(equation, **numbers)  # pyright: ignore
    return Fitted(fitted, float(scale), end.item(), float(start))


def _start(equation: Any) -> dict[str, float]:
    """Return the hyper-parameters that are numbers and can be fitted."""
    found = {}
    for name in (*_ABOVE, "alpha"):
        value = getattr(equation, name, None)
        if isinstance(value, Tensor) and value.numel() != 1:
            continue
        if value is not None and float(value) > _ABOVE.get(name, 0.0):
            found[name] = float(value)
    return found


def _bounded(name: str, x: Tensor) -> Tensor:
    return x.sigmoid() if name == "alpha" else _ABOVE.get(name, 0.0) + x.exp()


def _inverse(name: str, value: float) -> float:
    number = torch.tensor(value, dtype=torch.float64)
    return (number.logit() if name == "alpha" else (number - _ABOVE.get(name, 0.0)).log()).item()


def _cut(
    labels: Tensor, known: Tensor, folds: int, generator: torch.Generator | None
) -> list[Bool[Tensor, " n"]]:
    """Cut the known nodes into folds, each class spread over all of them."""
    nodes = known.reshape(-1).nonzero().squeeze(1)
    if not 2 <= folds <= len(nodes):
        raise ValueError(
            f"`folds` must lie between 2 and the number of labels, {len(nodes)}, got {folds}: "
            "one fold is predicted from the others."
        )
    if generator is not None:
        nodes = nodes[torch.randperm(len(nodes), generator=generator).to(nodes.device)]
    nodes = nodes[labels[nodes].argmax(1).argsort(stable=True)]
    parts = []
    for fold in range(folds):
        part = torch.zeros_like(known)
        part[nodes[fold::folds]] = True
        parts.append(part)
    return parts

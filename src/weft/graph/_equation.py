"""One interface for all equations: a frozen object from (graph, labels, known) to scores.

What every equation needs is done here once: checks, shapes of several graphs, half precision,
and nodes that no label reaches. What differs is one method, `solve`. Knows graphs.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft._check import check_finite, check_mask
from weft.graph._boundary import unreached as find_unreached
from weft.graph._graph import Graph
from weft.graph._linear_solvers import LinearSolver
from weft.graph._normalize import Normalization
from weft.graph._solve import SolveLog, solve_system


class Unreached(Enum):
    """What a node gets that no label reaches: its component has no label and no decay.

    Nor does a thread reach it: a label or decay counts if its way into each node on its path has
    more than 1e-5 of that node's degree in float32, 1e-9 in float64. Less is lost in rounding.
    """

    ABSTAIN = "abstain"
    """Zero scores: all its mass is abstention."""
    UNIFORM = "uniform"
    """One over the number of classes, for each class."""
    ERROR = "error"
    """A ValueError that names such a node."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What an equation solves, checked and flat: one row per node, whatever the shapes were.

    Args:
        graph: the graph, in float32 or float64.
        labels: in the graph's dtype; rows of unknown nodes are zero.
        known: which nodes have a label.
        lost: which nodes no label reaches.
        points: what the graph was made from, one row per node, for equations that look at it.
        solver: of linear systems; None takes the faster for the size.
        log: filled with the number of factorisations and the residuals.
    """

    graph: Graph
    labels: Float[Tensor, "n c"]
    known: Bool[Tensor, " n"]
    lost: Bool[Tensor, " n"]
    points: Float[Tensor, "n d"] | None
    solver: LinearSolver | None
    log: SolveLog | None

    def solve(
        self, weights: Float[Tensor, " e"], diagonal: Float[Tensor, " n"], rhs: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n c"]:
        """Solve (L(weights) + diag(diagonal)) U = rhs on the graph's edges: the one primitive."""
        return solve_system(
            weights,
            diagonal,
            rhs,
            self.graph.edges,
            num_graphs=self.graph.num_graphs,
            solver=self.solver,
            log=self.log,
        )


class Equation(ABC):
    """Maps labels of some nodes to scores of all: a frozen object, callable.

    Subclasses are frozen dataclasses of hyper-parameters, numbers or tensors, and one method,
    `solve`. Where that is arithmetic on edges around `problem.solve`, the scores are
    differentiable to any order in weights, labels and hyper-parameters.
    """

    signed: ClassVar[bool] = False
    """Whether scores may be negative, so that only their differences within a row count."""
    differentiable: ClassVar[bool] = True
    """Whether scores have gradients; an equation without refuses inputs that ask for them."""

    @abstractmethod
    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Return the scores of all nodes; those of lost nodes are not read."""

    def decay(self) -> float | Tensor:
        """Return what grounds nodes besides labels: tau, where the equation has one."""
        return 0.0

    def __call__(
        self,
        graph: Graph,
        labels: Float[Tensor, "*b n c"],
        known: Bool[Tensor, "*b n"],
        *,
        points: Float[Tensor, "*b n d"] | None = None,
        unreached: Unreached = Unreached.ABSTAIN,
        solver: LinearSolver | None = None,
        log: SolveLog | None = None,
    ) -> Float[Tensor, "*b n c"]:
        """Spread the labels of the known nodes over the graph.

        Args:
            graph: the graph; its dtype is the scores' dtype.
            labels: one row per node, one-hot or any numbers; rows of unknown nodes are not read.
                With several graphs side by side, also (b, n, c), and `known` (b, n).
            known: which nodes have a label.
            points: what the graph was made from, for `ProperlyWeighted`.
            unreached: what nodes get that no label reaches.
            solver: `Cholesky()` or `ConjugateGradient()`; by default the faster for the size.
            log: filled with the number of factorisations and the residuals.

        Returns:
            Scores with the shape of `labels`: those of the equation as it is published, without
            any correction of class masses.

        Raises:
            TypeError: a gradient is asked for, and the equation has none.
            ValueError: shapes do not fit, NaN, a hyper-parameter out of range, or an unreached
                node under `Unreached.ERROR`.
            ConvergenceError: an iteration stopped short of its tolerance.
        """
        check_labels(graph, labels, known)
        wants = torch.is_grad_enabled() and (graph.weights.requires_grad or labels.requires_grad)
        if wants and not self.differentiable:
            raise TypeError(
                f"{type(self).__name__} has no gradient, got weights or labels that require one: "
                "call it under torch.no_grad(), or train with a differentiable equation."
            )
        with torch.autocast(graph.weights.device.type, enabled=False):
            known = known.reshape(-1)
            flat = flat_labels(graph, labels, known)
            if points is not None:
                points = points.reshape(graph.num_nodes, points.shape[-1]).to(graph.weights.dtype)
            lost = find_lost(graph, known, per_node("tau", self.decay(), graph), unreached)
            problem = Problem(graph, flat, known, lost, points, solver, log)
            scores = self.solve(problem) if len(flat) else flat
            fill = 1 / flat.shape[1] if unreached is Unreached.UNIFORM else 0.0
            return scores.masked_fill(lost[:, None], fill).reshape(labels.shape)

    def probabilities(
        self,
        graph: Graph,
        labels: Float[Tensor, "n c"],
        known: Bool[Tensor, " n"],
        *,
        points: Float[Tensor, "n d"] | None = None,
        unreached: Unreached = Unreached.ABSTAIN,
        normalization: Normalization | None = None,
        solver: LinearSolver | None = None,
    ) -> Float[Tensor, "n c"]:
        """Return the scores as rows that are non-negative, as a head or an estimator needs them.

        Signed scores have no unit: they are divided by their root mean square over the nodes
        without label, and a softmax makes rows of them. Others stay as they are, so that a row's
        sum may say how much is known. Then `normalization` corrects the class masses.
        """
        scores = self(graph, labels, known, points=points, solver=solver, unreached=unreached)
        if self.signed:
            reached = (scores.detach() != 0).any(1, keepdim=True)
            free = scores * (reached & ~known[:, None])
            squares = free.square().sum() / (free.detach() != 0).sum().clamp_min(1)
            scale = torch.where(squares > 0, squares, 1.0).sqrt()
            scores = torch.where(reached, (scores / scale).softmax(1), scores)
        if normalization is not None:
            known_labels = torch.where(known[:, None], labels.to(scores.dtype), 0.0)
            scores = normalization(scores, known_labels, known, graph.num_graphs)
        return scores


def find_lost(
    graph: Graph, fixed: Bool[Tensor, " n"], decay: Float[Tensor, " n"], policy: Unreached
) -> Bool[Tensor, " n"]:
    """Return the nodes that neither a fixed value nor decay reaches; refuse them if told to."""
    lost = find_unreached(graph, torch.where(fixed, torch.inf, decay)) & ~fixed
    if policy is Unreached.ERROR and lost.any():
        raise ValueError(
            f"`known` marks no node in the component of node {int(lost.nonzero()[0])}: "
            "label one, or pass tau > 0 or another `unreached`."
        )
    return lost


def flat_labels(graph: Graph, labels: Tensor, known: Bool[Tensor, " n"]) -> Float[Tensor, "n c"]:
    """Return labels as rows in the graph's dtype, zero where unknown, checked."""
    labels = labels.reshape(graph.num_nodes, labels.shape[-1]).to(graph.weights.dtype)
    labels = torch.where(known[:, None], labels, 0.0)
    check_finite("labels", labels.detach())
    return labels


def per_node(name: str, value: float | Tensor, graph: Graph) -> Float[Tensor, " n"]:
    """Return a number or tensor as one value per node, checked."""
    value = torch.as_tensor(value, dtype=graph.weights.dtype, device=graph.weights.device)
    if value.numel() not in (1, graph.num_nodes):
        raise ValueError(
            f"`{name}` must be one number or one per node ({graph.num_nodes}), "
            f"got shape {tuple(value.shape)}: reshape it."
        )
    check_not_negative(name, value)
    return value.reshape(-1).expand(graph.num_nodes)


def check_not_negative(name: str, value: float | Tensor) -> None:
    """Refuse negative, infinite and NaN hyper-parameters."""
    value = torch.as_tensor(value)
    if not ((value >= 0) & value.isfinite()).all():
        raise ValueError(
            f"`{name}` must be finite and not negative, got {value.min().item():g} as the least: "
            "the equation would gain mass; fit its logarithm if it is learned."
        )


def check_between(name: str, value: float | Tensor, low: float, high: float) -> None:
    """Refuse a hyper-parameter that is not one number strictly between two others."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"`{name}` must be one number, got shape {tuple(value.shape)}: reduce it first."
        )
    number = float(value)
    if not low < number < high:
        raise ValueError(
            f"`{name}` must lie strictly between {low:g} and {high:g}, got {number:g}: if it is "
            "learned, learn a number that is mapped there, such as its logit."
        )


def check_labels(graph: Graph, labels: Tensor, known: Tensor) -> None:
    """Refuse labels and masks that do not have one row for each node."""
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"`labels` must be a tensor, got {type(labels).__name__}: "
            "pass (n, classes), such as one_hot(labels, classes)."
        )
    rows, classes = labels.shape[:-1].numel(), labels.shape[-1] if labels.ndim else 0
    if labels.ndim not in (2, 3) or rows != graph.num_nodes or not classes:
        raise ValueError(
            f"`labels` must have one row for each of the {graph.num_nodes} nodes, got shape "
            f"{tuple(labels.shape)}: pass (n, classes), such as one_hot(labels, classes)."
        )
    check_mask("known", known, labels.shape[:-1])

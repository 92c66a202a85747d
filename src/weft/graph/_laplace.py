"""Laplace learning: labels spread over a graph until every free node is the mean of its neighbours.

An equation of the family maps (graph, labels, known) to scores through one solve. Knows graphs.
"""

from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft._check import check_finite, check_mask
from weft.graph._boundary import FreeSystem, unreached
from weft.graph._graph import Graph
from weft.graph._linear_solvers import LinearSolver
from weft.graph._normalize import ClassMass, Normalization
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


_WHERE_LABELS_ARE_FEW = ClassMass(below=0.03)


def laplace_learning(
    graph: Graph,
    labels: Float[Tensor, "*b n c"],
    known: Bool[Tensor, "*b n"],
    *,
    tau: float | Tensor = 0.0,
    fidelity: float | Tensor | None = None,
    source: Float[Tensor, "*b n c"] | None = None,
    unreached: Unreached = Unreached.ABSTAIN,
    normalization: Normalization | None = _WHERE_LABELS_ARE_FEW,
    solver: LinearSolver | None = None,
    log: SolveLog | None = None,
) -> Float[Tensor, "*b n c"]:
    """Spread the labels of the known nodes over the graph.

    Free nodes i solve  tau_i u_i + sum_j w_ij (u_i - u_j) = f_i  with u = labels where known.
    With one-hot labels and without source, scores lie in [0, 1]; a row sums to one at tau = 0
    and to less with decay. What is missing is the abstention: the probability that a random
    walk is killed before it meets a label. Differentiable to any order in the graph's weights
    (hence in features), `labels`, `tau`, `fidelity` and `source`.

    Args:
        graph: the graph; its dtype is the scores' dtype.
        labels: one row per node, one-hot or any numbers; rows of unknown nodes are not read.
            With several graphs side by side, also (b, n, c), and `known` (b, n).
        known: which nodes have a label.
        tau: decay, in the unit of the weights, not negative: a number or one per node.
        fidelity: `None` keeps labels exactly. A positive number, or one per node, in the unit of
            the weights, adds fidelity * (u_i - label_i) to the equation of known nodes instead,
            so that they may move.
        source: f, in weights times scores; added where nodes are free.
        unreached: what nodes get that no label reaches.
        normalization: corrects the scores of free nodes after the solve. By default class masses
            are normalised where fewer than 3 % of the nodes are known: there plain Laplace
            learning gives nearly everything to one class.
        solver: `Cholesky()` or `ConjugateGradient()`; by default the faster for the size.
        log: filled with the number of factorisations and the residuals.

    Returns:
        Scores with the shape of `labels`.

    Raises:
        ValueError: shapes do not fit, NaN, negative tau or fidelity, or an unreached node under
            `Unreached.ERROR`.
        ConvergenceError: an iterative solver stopped short of its tolerance.

    Source: Zhu, Ghahramani, Lafferty, ICML 2003; with decay and in a network, Brown et al.,
        arXiv 2412.08016.
    """
    _check_shapes(graph, labels, known)
    shape = labels.shape
    with torch.autocast(graph.weights.device.type, enabled=False):
        known = known.reshape(-1)
        labels = labels.reshape(graph.num_nodes, shape[-1]).to(graph.weights.dtype)
        labels = torch.where(known[:, None], labels, 0.0)
        check_finite("labels", labels.detach())
        decay = per_node("tau", tau, graph)
        rhs = torch.zeros_like(labels)
        if source is not None:
            _check_source(source, shape)
            rhs = rhs + source.reshape(labels.shape).to(labels.dtype)
        if fidelity is None:
            fixed = known
        else:
            pull = torch.where(known, per_node("fidelity", fidelity, graph), 0.0)
            decay, rhs = decay + pull, rhs + pull[:, None] * labels
            fixed = torch.zeros_like(known)
        lost = _find_unreached(graph, fixed, decay, unreached)
        values = torch.where(fixed[:, None], labels, 0.0)
        system = FreeSystem.of(graph, fixed, lost)
        scores = _solve_free(system, values, decay, rhs, solver, log)
        if normalization is not None:
            scores = normalization(scores, labels, known, graph.num_graphs)
        if unreached is Unreached.UNIFORM:
            scores = torch.where(lost[:, None], 1 / labels.shape[1], scores)
    return scores.reshape(shape)


def _solve_free(
    system: FreeSystem,
    values: Tensor,
    decay: Tensor,
    rhs: Tensor,
    solver: LinearSolver | None,
    log: SolveLog | None,
) -> Tensor:
    """Solve on the free nodes, which may be none; the others keep their values."""
    inside = solve_system(
        system.weights,
        system.diagonal() + decay.index_select(0, system.nodes),
        system.inflow(values) + rhs.index_select(0, system.nodes),
        system.edges,
        num_graphs=system.num_graphs,
        solver=solver,
        log=log,
    )
    return values.index_copy(0, system.nodes, inside)


def _find_unreached(graph: Graph, fixed: Tensor, decay: Tensor, policy: Unreached) -> Tensor:
    lost = unreached(graph, torch.where(fixed, torch.inf, decay)) & ~fixed
    if policy is Unreached.ERROR and lost.any():
        raise ValueError(
            f"`known` marks no node in the component of node {int(lost.nonzero()[0])}: "
            "label one, or pass tau > 0 or another `unreached`."
        )
    return lost


def per_node(name: str, value: float | Tensor, graph: Graph) -> Tensor:
    """Return a number or tensor as one value per node, checked."""
    value = torch.as_tensor(value, dtype=graph.weights.dtype, device=graph.weights.device)
    if value.numel() not in (1, graph.num_nodes):
        raise ValueError(
            f"`{name}` must be one number or one per node ({graph.num_nodes}), "
            f"got shape {tuple(value.shape)}: reshape it."
        )
    if not ((value >= 0) & value.isfinite()).all():
        raise ValueError(
            f"`{name}` must be finite and not negative, got {value.min().item():g} as the least: "
            "the equation would gain mass; fit its logarithm if it is learned."
        )
    return value.reshape(-1).expand(graph.num_nodes)


def _check_shapes(graph: Graph, labels: Tensor, known: Tensor) -> None:
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


def _check_source(source: Tensor, shape: torch.Size) -> None:
    if source.shape != shape:
        raise ValueError(
            f"`source` must have the shape of `labels`, {tuple(shape)}, got "
            f"{tuple(source.shape)}: one entry per node and class."
        )
    check_finite("source", source.detach())

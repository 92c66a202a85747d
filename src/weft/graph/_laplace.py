"""Laplace learning: labels spread over a graph until every free node is the mean of its neighbours.

An equation of the family maps (graph, labels, known) to scores through one solve. Knows graphs.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft._check import check_finite
from weft.graph._boundary import FreeSystem
from weft.graph._equation import (
    Equation,
    Problem,
    Unreached,
    check_labels,
    check_not_negative,
    find_lost,
    flat_labels,
    per_node,
)
from weft.graph._graph import Graph
from weft.graph._linear_solvers import LinearSolver
from weft.graph._normalize import ClassMass, Normalization
from weft.graph._reweight import Reweighting
from weft.graph._solve import SolveLog, solve_system

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
    check_labels(graph, labels, known)
    shape = labels.shape
    with torch.autocast(graph.weights.device.type, enabled=False):
        known = known.reshape(-1)
        labels = flat_labels(graph, labels, known)
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
        lost = find_lost(graph, fixed, decay, unreached)
        values = torch.where(fixed[:, None], labels, 0.0)
        system = FreeSystem.of(graph, fixed, lost)
        scores = _solve_free(system, values, decay, rhs, solver, log)
        if normalization is not None:
            scores = normalization(scores, labels, known, graph.num_graphs)
        if unreached is Unreached.UNIFORM:
            scores = scores.masked_fill(lost[:, None], 1 / labels.shape[1])
    return scores.reshape(shape)


class Laplacian(Enum):
    """Which Laplacian is meant; they differ in how nodes of unlike degree count."""

    COMBINATORIAL = "combinatorial"
    """L = D - W: decay and fidelity in the unit of the weights."""
    RANDOM_WALK = "random walk"
    """D^-1 L: the same scores without decay; decay and fidelity as shares of a node's degree."""
    SYMMETRIC = "symmetric"
    """D^-1/2 L D^-1/2: scores grow with the root of a node's degree; rows need not sum to one."""


@dataclass(frozen=True)
class Laplace(Equation):
    """Laplace learning as an equation: `laplace_learning`, without correction of class masses.

    (A + tau) u = 0 at free nodes, where A is one of three Laplacians, and u = labels where known.
    Differentiable to any order in weights, labels, `tau` and `fidelity`.

    Args:
        tau: decay, not negative: a number or one per node, in the unit of the Laplacian.
        fidelity: `None` keeps labels exactly; otherwise how hard they pull: as in
            `laplace_learning`.
        laplacian: which one.
        reweighting: changes the edge weights by where the labels are, for few labels: `WNLL()`,
            `ProperlyWeighted()` or `PoissonReweighted()`.

    Source: Zhu, Ghahramani, Lafferty, ICML 2003.
    """

    tau: float | Tensor = 0.0
    fidelity: float | Tensor | None = None
    laplacian: Laplacian = Laplacian.COMBINATORIAL
    reweighting: Reweighting | None = None

    def __post_init__(self) -> None:
        check_not_negative("tau", self.tau)
        if self.fidelity is not None:
            check_not_negative("fidelity", self.fidelity)

    def decay(self) -> float | Tensor:
        """Return tau."""
        return self.tau

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Solve in the combinatorial Laplacian: with u = D^1/2 v, D^-1/2 L D^-1/2 u = 0 is L v = 0.

        Decay and fidelity are multiplied by D on the way.
        """
        graph, known = problem.graph, problem.known
        if self.reweighting is not None:
            graph = self.reweighting(
                graph, known, points=problem.points, solver=problem.solver, log=problem.log
            )
        tau, fidelity = self.tau, self.fidelity
        degrees = graph.degrees()
        degrees = torch.where(degrees > 0, degrees, 1.0)  # isolated nodes keep their label
        if self.laplacian is not Laplacian.COMBINATORIAL:
            tau = per_node("tau", tau, graph) * degrees
            if fidelity is not None:
                fidelity = per_node("fidelity", fidelity, graph) * degrees
        symmetric = self.laplacian is Laplacian.SYMMETRIC
        root = degrees.sqrt()[:, None] if symmetric else torch.ones_like(degrees[:, None])
        scores = laplace_learning(
            graph,
            problem.labels / root,
            known,
            tau=tau,
            fidelity=fidelity,
            normalization=None,
            solver=problem.solver,
            log=problem.log,
        )
        return root * scores


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


def _check_source(source: Tensor, shape: torch.Size) -> None:
    if source.shape != shape:
        raise ValueError(
            f"`source` must have the shape of `labels`, {tuple(shape)}, got "
            f"{tuple(source.shape)}: one entry per node and class."
        )
    check_finite("source", source.detach())

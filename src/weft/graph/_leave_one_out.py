"""What the graph would say of each labelled node, were its own label unknown.

All labels at once, from one factor: a label is taken back by arithmetic, not by another solve.
Knows graphs and the one solve.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft._check import check_mask
from weft.graph._boundary import FAINT, FreeSystem, unreached
from weft.graph._edges import laplacian_product
from weft.graph._equation import check_labels, flat_labels, per_node
from weft.graph._graph import Graph
from weft.graph._insight import check_nodes
from weft.graph._laplace import laplace_learning
from weft.graph._linear_solvers import LinearSolver, default_solver
from weft.graph._solve import solve_system

_BLOCK = 2**23  # entries of the right-hand sides solved at once: 64 MiB


def leave_one_out(
    graph: Graph,
    labels: Float[Tensor, "*b n c"],
    known: Bool[Tensor, "*b n"],
    *,
    tau: float | Tensor = 0.0,
    fidelity: float | Tensor | None = None,
    solver: LinearSolver | None = None,
) -> Float[Tensor, "*b n c"]:
    """Return the scores of each labelled node from all labels but its own.

    Let M = L + diag(tau), and u the scores, equal to the labels y where known. Setting node j free
    appends one row and column to the matrix M_uu of the free nodes: M_jj, and -w_j with the weights
    from j to them. Eliminating the others again (a Schur complement, one number) leaves

        (M_jj - g_j) p_j = M_jj v_j - g_j y_j,   v_j = sum_k w_jk u_k / M_jj,
        g_j = w_j . (M_uu)^-1 w_j,

    where v_j is what the neighbours of j say, and g_j / M_jj the share of it that is the echo of
    y_j. So all that another solve could tell is one number, and with K_jj = g_j / M_jj

        p_j = (v_j - K_jj y_j) / (1 - K_jj).

    A label with fidelity lambda is a hard label on a leaf that hangs on its node by an edge of
    weight lambda; then v_j is the node's score, and K_jj = lambda (A^-1)_jj the familiar leverage.
    Costs one factor and one right-hand side for each label. Differentiable to any order in the
    graph's weights, `labels`, `tau` and `fidelity`.

    Args:
        graph: the graph.
        labels: one row per node, one-hot or any numbers; rows of unknown nodes are not read.
        known: which nodes have a label.
        tau: decay, as in `laplace_learning`.
        fidelity: as in `laplace_learning`, and positive where known; where labels may be wrong, a
            finite one lets each be doubted by the others too.
        solver: as in `laplace_learning`; for many labels a `Cholesky()` is faster, up to some
            thousand nodes.

    Returns:
        One row per node: for labelled ones what is said above, zero where no other label reaches;
        for the others their scores.

    Raises:
        ValueError: as in `laplace_learning`.
        ConvergenceError: an iterative solver stopped short of its tolerance.

    Source: for ridge regression, Allen, Technometrics 16, 1974; for Gaussian processes, Rasmussen
        and Williams 2006, equation 5.12.
    """
    check_labels(graph, labels, known)
    shape, known = labels.shape, known.reshape(-1)
    with torch.autocast(graph.weights.device.type, enabled=False):
        labels = flat_labels(graph, labels, known)
        held = _Held.of(graph, known, per_node("tau", tau, graph), fidelity, solver)
        joined = labels.new_zeros(held.graph.num_nodes, labels.shape[1])
        joined = joined.index_copy(0, held.nodes, labels[known])
        scores = laplace_learning(
            held.graph, joined, held.known, tau=held.decay, normalization=None, solver=held.solver
        )
        flow = laplacian_product(held.graph.weights, scores, held.graph.edges)
        heard = (held.graph.degrees()[:, None] * scores - flow)[held.nodes]
        blocks = [(part.sent * part.green).sum(0) for part in held.solve(held.nodes)]
        echo = torch.cat([*blocks, labels.new_zeros(0)])
        told = (heard - echo[:, None] * labels[known]) / held.rest(held.nodes, echo)[:, None]
        scores = scores[: graph.num_nodes].index_copy(0, known.nonzero().squeeze(1), told)
    return scores.reshape(shape)


def leave_one_out_weights(
    graph: Graph,
    known: Bool[Tensor, " n"],
    nodes: Int[Tensor, " q"],
    *,
    tau: float | Tensor = 0.0,
    fidelity: float | Tensor | None = None,
    solver: LinearSolver | None = None,
) -> Float[Tensor, "q n"]:
    """Return how much each other label counts in the leave-one-out scores of labelled nodes.

    In the terms of `leave_one_out`, label l has the weight (w_jl + w_j . (M_uu)^-1 w_l) /
    (M_jj - g_j). Rows are non-negative and sum to one minus the abstention. Differentiable to any
    order in the graph's weights, `tau` and `fidelity`.

    Args:
        graph: the graph.
        known: which nodes have a label.
        nodes: the labelled nodes to explain.
        tau: as in `leave_one_out`, and so are `fidelity` and `solver`.
        fidelity: see there.
        solver: see there.

    Returns:
        One row per given node and one column per node of the graph, zero for itself and where no
        label is: `weights @ labels` are the node's leave-one-out scores.

    Raises:
        ValueError: `nodes` are not numbers of labelled nodes, or as in `laplace_learning`.
    """
    check_nodes(nodes, graph.num_nodes)
    check_mask("known", known, torch.Size([graph.num_nodes]))
    if not known[nodes].all():
        raise ValueError(
            "`nodes` must have labels that can be left out, got node "
            f"{int(nodes[~known[nodes]][0])} without one: ask `label_weights` about it."
        )
    with torch.autocast(graph.weights.device.type, enabled=False):
        held = _Held.of(graph, known, per_node("tau", tau, graph), fidelity, solver)
        own = held.nodes[(known.cumsum(0) - 1)[nodes]]
        rows = graph.weights.new_zeros(len(nodes), graph.num_nodes)
        shares = [rows[:0, : len(held.nodes)]]
        for part in held.solve(own):
            echo = (part.sent * part.green).sum(0)
            heard = (held.direct(part.nodes) + held.system.outflow(part.green))[held.nodes].T
            shares.append(heard / held.rest(part.nodes, echo)[:, None])
        rows = rows.index_copy(1, known.nonzero().squeeze(1), torch.cat(shares))
        itself = torch.arange(graph.num_nodes, device=nodes.device) == nodes[:, None]
        return torch.where(itself, 0.0, rows)


def label_noise(
    predictions: Float[Tensor, "m c"], labels: Float[Tensor, "m c"]
) -> Float[Tensor, " m"]:
    """Return how much speaks against each label: the scores of all other classes together.

    From 0, all that is known agrees with the label, to 1; zero where nothing is known, since the
    mass that reaches no label speaks for none. Differentiable to any order.

    Args:
        predictions: leave-one-out scores of labelled nodes.
        labels: their labels, one-hot.
    """
    return ((1 - labels) * predictions).sum(1)


class _Block(NamedTuple):
    """Labelled nodes j, their weights w_j to the free nodes, and (M_uu)^-1 w_j."""

    nodes: Int[Tensor, " q"]
    sent: Float[Tensor, "f q"]
    green: Float[Tensor, "f q"]


@dataclass(frozen=True, eq=False)
class _Held:
    """The graph with every label held fixed: on its node, or on a leaf of the node.

    Args:
        graph: leaves come after the nodes; without the edges of nodes that no label reaches.
        known: which of its nodes are held.
        nodes: their numbers, in the order of the labelled nodes.
        decay: tau, zero on leaves.
        system: of the free nodes.
        solver: one factor for all that is solved.
    """

    graph: Graph
    known: Bool[Tensor, " N"]
    nodes: Int[Tensor, " m"]
    decay: Float[Tensor, " N"]
    system: FreeSystem
    solver: "_Shared"

    @classmethod
    def of(
        cls,
        graph: Graph,
        known: Tensor,
        decay: Tensor,
        fidelity: float | Tensor | None,
        solver: LinearSolver | None,
    ) -> "_Held":
        nodes = known.nonzero().squeeze(1)
        if fidelity is not None:
            pull = per_node("fidelity", fidelity, graph)[nodes]
            graph, known = _with_leaves(graph, nodes, pull)
            decay = torch.nn.functional.pad(decay, (0, len(nodes)))
            nodes = known.nonzero().squeeze(1)
        lost = unreached(graph, torch.where(known, torch.inf, decay))
        cut = lost[graph.edges].any(0)
        graph = graph.with_weights(torch.where(cut, 0.0, graph.weights))
        system = FreeSystem.of(graph, known, lost)
        solver = solver or default_solver(len(system.nodes), system.num_graphs)
        return cls(graph, known, nodes, decay, system, _Shared(solver))

    def solve(self, nodes: Tensor) -> Iterator[_Block]:
        """Solve for some labelled nodes, block by block."""
        diagonal = self.system.diagonal() + self.decay[self.system.nodes]
        for part in nodes.split(max(1, _BLOCK // max(1, len(diagonal)))) if len(nodes) else ():
            place = self._place(part)[self.system.outside]
            kept = (place >= 0).nonzero().squeeze(1)
            sent = diagonal.new_zeros(len(diagonal), len(part))
            at = (self.system.inside[kept], place[kept])
            sent = sent.index_put(at, self.system.crossing[kept], accumulate=True)
            yield _Block(
                part,
                sent,
                solve_system(
                    self.system.weights,
                    diagonal,
                    sent,
                    self.system.edges,
                    num_graphs=self.system.num_graphs,
                    solver=self.solver,
                ),
            )

    def direct(self, nodes: Tensor) -> Float[Tensor, "N q"]:
        """Return the weights of the edges between all nodes and some labelled ones."""
        place = self._place(nodes)
        table = self.graph.weights.new_zeros(self.graph.num_nodes, len(nodes))
        for source, target in (self.graph.edges, self.graph.edges.flip(0)):
            kept = (place[source] >= 0).nonzero().squeeze(1)
            at = (target[kept], place[source[kept]])
            table = table.index_put(at, self.graph.weights[kept], accumulate=True)
        return table

    def rest(self, nodes: Tensor, echo: Tensor) -> Float[Tensor, " q"]:
        """Return M_jj - g_j, infinite where it is nothing but rounding: no other label reaches."""
        total = self.graph.degrees()[nodes] + self.decay[nodes]
        rest = total - echo
        return torch.where(rest > FAINT[rest.dtype] * total, rest, torch.inf)

    def _place(self, nodes: Tensor) -> Int[Tensor, " N"]:
        place = torch.full((self.graph.num_nodes,), -1, device=nodes.device)
        place[nodes] = torch.arange(len(nodes), device=nodes.device)
        return place


@dataclass
class _Shared:
    """A solver that factors one matrix and keeps it, for all who solve with that matrix."""

    solver: LinearSolver
    kept: list[Tensor] | None = field(default=None)

    def factor(self, edges: Tensor, weights: Tensor, diagonal: Tensor, num_graphs: int) -> list:
        if self.kept is None:
            self.kept = self.solver.factor(edges, weights, diagonal, num_graphs)
        return self.kept

    def solve(self, factor: list[Tensor], rhs: Tensor) -> tuple[Tensor, Tensor]:
        return self.solver.solve(factor, rhs)


def _with_leaves(graph: Graph, nodes: Tensor, pull: Tensor) -> tuple[Graph, Tensor]:
    """Hang a leaf on each of some nodes, after all nodes; return which nodes are leaves too."""
    if not (pull > 0).all():
        raise ValueError(
            "`fidelity` must be positive where known, got "
            f"{pull.min().item():g}: mark the nodes that shall not count as unknown."
        )
    leaves = graph.num_nodes + torch.arange(len(nodes), device=nodes.device)
    edges = torch.cat([graph.edges, torch.stack([nodes, leaves])], 1)
    num_nodes = graph.num_nodes + len(nodes)
    order = (edges[0] * num_nodes + edges[1]).argsort()
    weights = torch.cat([graph.weights, pull])[order]
    known = torch.arange(num_nodes, device=nodes.device) >= graph.num_nodes
    return Graph(edges[:, order], weights, num_nodes), known

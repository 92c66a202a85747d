"""Scores with their covariance: the Gaussian process behind Laplace learning, and its updates.

What a label tells about other nodes, before it is known, is in the covariance; a new label changes
scores and covariance by one rank. Knows graphs; without gradient.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.sparse.linalg import eigsh
from torch import Tensor

from weft.graph._boundary import FreeSystem, unreached
from weft.graph._equation import check_labels, flat_labels, per_node
from weft.graph._graph import Graph
from weft.graph._linear_solvers import Cholesky


@dataclass(frozen=True, eq=False)
class LabelPosterior:
    """The scores of all nodes and their covariance, given the labels so far.

    Nodes have the prior precision L + diag(tau); a label is an observation of its node with the
    variance 1 / fidelity, or none. The mean, given the labels, is what `laplace_learning` returns,
    without correction of class masses. Made by `exact` or `low_rank`; `with_label` adds a label.

    Args:
        scores: the mean, one column per class.
        known: which nodes have a label.
        basis: orthonormal columns B, or None for the identity.
        inner: C, where the covariance of the nodes is B C B'.
        noise: the variance of a label, 1 / fidelity; zero for labels kept exactly.
    """

    scores: Float[Tensor, "n c"]
    known: Bool[Tensor, " n"]
    basis: Float[Tensor, "n r"] | None
    inner: Float[Tensor, "r r"]
    noise: float

    @classmethod
    @torch.no_grad()
    def exact(
        cls,
        graph: Graph,
        labels: Float[Tensor, "n c"],
        known: Bool[Tensor, " n"],
        *,
        tau: float | Tensor = 0.0,
        fidelity: float | None = None,
    ) -> "LabelPosterior":
        """Invert the whole system: memory n^2, work n^3; for some thousand nodes.

        Args:
            graph: the graph.
            labels: as in `laplace_learning`, and so are `known`, `tau` and `fidelity`.
            known: which nodes have a label.
            tau: decay; must be positive somewhere in a component without label.
            fidelity: one number here, or None.

        Raises:
            ValueError: a node that no label and no decay grounds: its variance is infinite.
        """
        labels, decay = _checked(graph, labels, known, tau, fidelity)
        if fidelity is None:
            fixed, pull = known, torch.zeros_like(decay)
        else:
            fixed, pull = torch.zeros_like(known), fidelity * known.to(decay.dtype)
        grounded = torch.where(fixed, torch.inf, decay + pull)
        if (floating := unreached(graph, grounded) & ~fixed).any():
            raise ValueError(
                f"`tau` must be positive where no label reaches, got none at node "
                f"{int(floating.nonzero()[0])}: its variance would be infinite; pass tau > 0, or "
                "label a node of its component."
            )
        system = FreeSystem.of(graph, fixed)
        diagonal = system.diagonal() + (decay + pull)[system.nodes]
        (lower,) = Cholesky().factor(system.edges, system.weights, diagonal, 1)
        inverse = torch.cholesky_inverse(lower[0]).to(labels.dtype)
        rhs = system.inflow(labels) if fidelity is None else pull[:, None] * labels
        scores = labels.index_copy(0, system.nodes, inverse @ rhs)
        covariance = labels.new_zeros(graph.num_nodes, graph.num_nodes)
        covariance[system.nodes[:, None], system.nodes] = inverse
        return cls(scores, known, None, covariance, 1 / fidelity if fidelity else 0.0)

    @classmethod
    @torch.no_grad()
    def low_rank(
        cls,
        graph: Graph,
        labels: Float[Tensor, "n c"],
        known: Bool[Tensor, " n"],
        rank: int,
        *,
        tau: float,
        fidelity: float,
    ) -> "LabelPosterior":
        """Keep only the smoothest functions on the graph: the `rank` lowest eigenvectors of L.

        An approximation for graphs of many nodes: memory n x rank. The prior, and with it scores
        and covariance, is restricted to the span of the eigenvectors; equal to `exact` at full
        rank.

        Args:
            graph: the graph.
            labels: as in `exact`, and so is `known`.
            known: which nodes have a label.
            rank: how many eigenvectors.
            tau: decay; positive, since the lowest eigenvalue of L is zero.
            fidelity: of labels; positive.

        Source: Miller and Bertozzi, arXiv 2110.07739, section 3, for another Laplacian.
        """
        labels, _ = _checked(graph, labels, known, tau, fidelity)
        if not tau > 0:
            raise ValueError(
                f"`tau` must be positive for a low-rank posterior, got {tau}: the lowest "
                "eigenvalue of L is zero, and its variance would be infinite."
            )
        values, basis = smallest_eigenvectors(graph, rank)
        seen = basis[known]
        precision = torch.diag(values.clamp_min(0) + tau).double()
        precision += fidelity * (seen.T @ seen).double()
        inner = torch.cholesky_inverse(torch.linalg.cholesky(precision)).to(labels.dtype)
        scores = fidelity * basis @ (inner @ (seen.T @ labels[known]))
        return cls(scores, known, basis, inner, 1 / fidelity)

    def with_label(self, node: int, label: Float[Tensor, " c"]) -> "LabelPosterior":
        """Return the posterior with one more label, by an update of rank one.

        With g the node's column of the covariance G and v = g_node + noise,
            u + g (label - u_node) / v   and   G - g g' / v.

        Raises:
            ValueError: the node has an exact label already.
        """
        if self.known[node] and not self.noise:
            raise ValueError(
                f"`node` must be without label, got {node}, whose label is exact: a second one "
                "could only contradict it; pass a finite `fidelity` to average labels."
            )
        column = self.inner[:, node] if self.basis is None else self.inner @ self.basis[node]
        spread = column if self.basis is None else self.basis @ column
        step = spread / (spread[node] + self.noise)
        scores = torch.addr(self.scores, step, label.to(self.scores) - self.scores[node])
        inner = torch.addr(self.inner, column, column / (spread[node] + self.noise), alpha=-1)
        known = self.known.clone()
        known[node] = True
        if not self.noise:
            scores[node] = label  # exactly
        return replace(self, scores=scores, inner=inner, known=known)

    def variance(self) -> Float[Tensor, " n"]:
        """Return each node's variance, the diagonal of the covariance; not below zero."""
        if self.basis is None:
            return self.inner.diagonal().clamp_min(0)
        return ((self.basis @ self.inner) * self.basis).sum(1).clamp_min(0)

    def column_norms(self) -> Float[Tensor, " n"]:
        """Return the Euclidean norm of each column of the covariance."""
        # Orthonormal columns keep lengths.
        table = self.inner if self.basis is None else self.basis @ self.inner
        return torch.linalg.vector_norm(table, dim=1)

    def column_sums(self) -> Float[Tensor, " n"]:
        """Return the sum of each column of the covariance."""
        if self.basis is None:
            return self.inner.sum(1)
        return self.basis @ (self.inner @ self.basis.sum(0))


def smallest_eigenvectors(
    graph: Graph, rank: int
) -> tuple[Float[Tensor, " r"], Float[Tensor, "n r"]]:
    """Return the `rank` smallest eigenvalues of L = D - W, ascending, and orthonormal eigenvectors.

    SciPy computes them, on the CPU in float64, and from the same start each time. Signs, and the
    basis of a multiple eigenvalue, are as they come. Without gradient.

    Raises:
        ValueError: `rank` is not from 1 to the number of nodes.
    """
    if not 1 <= rank <= graph.num_nodes:
        raise ValueError(
            f"`rank` must be from 1 to the number of nodes, {graph.num_nodes}, got {rank}."
        )
    adjacency = graph.to_scipy().astype(np.float64)
    laplacian = sparse.diags_array(adjacency.sum(1)) - adjacency
    if 2 * rank >= graph.num_nodes:  # Lanczos needs room; a matrix this small has all at once
        values, vectors = np.linalg.eigh(laplacian.toarray())
        values, vectors = values[:rank], vectors[:, :rank]
    else:
        start = np.random.default_rng(0).standard_normal(graph.num_nodes)
        tol: Any = 1e-8  # SciPy's default, 0, is annotated: so an int, it seems
        values, vectors = eigsh(laplacian, rank, which="SA", v0=start, tol=tol)
    return torch.from_numpy(values).to(graph.weights), torch.tensor(vectors).to(graph.weights)


def _checked(
    graph: Graph, labels: Tensor, known: Tensor, tau: float | Tensor, fidelity: float | None
) -> tuple[Tensor, Tensor]:
    """Return the labels, zero where unknown, and the decay of each node."""
    check_labels(graph, labels, known)
    if labels.ndim != 2:
        raise ValueError(
            f"`labels` must have shape (n, c), got {tuple(labels.shape)}: one posterior a graph."
        )
    if fidelity is not None and not 0 < fidelity < float("inf"):
        raise ValueError(
            f"`fidelity` must be positive and finite, got {fidelity}: None keeps labels exactly."
        )
    return flat_labels(graph, labels, known), per_node("tau", tau, graph)

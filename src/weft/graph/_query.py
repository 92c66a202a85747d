"""One query at a time against a frozen graph of anchors, in two forms.

Knows the graph's weights and solvers; holds the scores of the anchors, solved once.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft._check import at_least_float32, check_finite
from weft.graph._boundary import FreeSystem, unreached
from weft.graph._graph import Graph
from weft.graph._laplace import laplace_learning
from weft.graph._linear_solvers import LinearSolver, default_solver
from weft.graph._neighbors import ExactNeighbors, Neighbors
from weft.graph._weights import Bandwidth, Gaussian, Kernel, SelfTuned, knn_graph, pair_weights


class Links(NamedTuple):
    """How queries hang on the anchors: the k nearest of each, and the edge weights."""

    anchors: Int[Tensor, "q k"]
    weights: Float[Tensor, "q k"]


@dataclass(frozen=True, eq=False)
class AnchorGraph:
    """A graph of anchors, frozen: who neighbours whom, all bandwidths, and the solved scores.

    A query joins its k nearest anchors; the anchors' own neighbours and bandwidths do not
    change, and queries do not see each other, so an answer does not depend on what else is
    asked. Without gradient. Made by `AnchorGraph.build`.
    """

    features: Float[Tensor, "n d"]
    labels: Float[Tensor, "n c"]
    known: Bool[Tensor, " n"]
    graph: Graph
    kth_squared: Float[Tensor, " n"]
    scores: Float[Tensor, "n c"]
    k: int
    kernel: Kernel
    bandwidth: Bandwidth
    tau: float
    solver: LinearSolver
    system: FreeSystem
    factor: list[Tensor]

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        features: Float[Tensor, "n d"],
        labels: Float[Tensor, "n c"],
        known: Bool[Tensor, " n"],
        k: int = 25,
        *,
        kernel: Kernel | None = None,
        bandwidth: Bandwidth | None = None,
        neighbors: Neighbors | None = None,
        tau: float = 0.0,
        solver: LinearSolver | None = None,
    ) -> "AnchorGraph":
        """Build the anchors' graph and solve it once, without normalisation of class masses.

        Arguments are those of `knn_graph` and `laplace_learning`.
        """
        kernel, bandwidth = kernel or Gaussian(), bandwidth or SelfTuned()
        features = at_least_float32(features.detach())
        neighbors = neighbors or ExactNeighbors()
        graph = knn_graph(features, k, kernel=kernel, bandwidth=bandwidth, neighbors=neighbors)
        k = min(k, len(features))
        labels = labels.to(features.dtype)
        scores = laplace_learning(graph, labels, known, tau=tau, normalization=None, solver=solver)
        decay = torch.full_like(features[:, 0], tau)
        fixed = known | unreached(graph, torch.where(known, torch.inf, decay))
        system = FreeSystem.of(graph, fixed)
        solver = solver or default_solver(len(system.nodes), system.num_graphs)
        diagonal = system.diagonal() + decay[system.nodes]
        factor = (
            solver.factor(system.edges, system.weights, diagonal, system.num_graphs)
            if len(system.nodes)
            else []
        )
        own = min(k, len(features) - 1)
        kth = neighbors(features, own)[:, -1] if own else torch.zeros_like(known, dtype=torch.long)
        kth_squared = (features - features[kth]).square().sum(1)
        return cls(
            features, labels, known, graph, kth_squared, scores, k, kernel, bandwidth, tau, solver,
            system, factor,
        )  # fmt: skip

    @torch.no_grad()
    def link(self, queries: Float[Tensor, "q d"]) -> Links:
        """Find each query's k nearest anchors and the weights of the edges to them."""
        if queries.ndim != 2 or queries.shape[1] != self.features.shape[1]:
            raise ValueError(
                f"`queries` must have shape (q, {self.features.shape[1]}), got "
                f"{tuple(queries.shape)}: encode them as the anchors were."
            )
        check_finite("queries", queries)
        rows = max(1, 2**22 // len(self.features))  # 32 MiB of distances at once
        parts = [self._link(part) for part in queries.to(self.features.dtype).split(rows)]
        return Links(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _link(self, queries: Tensor) -> Links:
        distances = torch.cdist(queries.double(), self.features.double())
        nearest = distances.topk(self.k, largest=False).indices
        squared = (queries[:, None] - self.features[nearest]).square().sum(2)
        kth = squared.amax(1, keepdim=True).expand_as(squared)
        weights = pair_weights(squared, kth, self.kth_squared[nearest], self.kernel, self.bandwidth)
        return Links(nearest, weights)

    @torch.no_grad()
    def query(self, queries: Float[Tensor, "q d"], *, exact: bool = False) -> Float[Tensor, "q c"]:
        """Return the scores of each query on its own.

        Args:
            queries: features, as the anchors' were made.
            exact: solve the system with the query added as one more node, by a low-rank update
                of the factor, O(k) solves a query. Otherwise the query takes the mean of its
                neighbours' frozen values, O(k) work. The two agree where all anchors are
                labelled; else the query pulls on the unlabelled ones.

        Returns:
            Scores; a row sums to one minus the query's abstention.
        """
        links = self.link(queries)
        with torch.autocast(self.features.device.type, enabled=False):
            if not exact or not self.factor:
                return self._interpolate(links)
            blocks = zip(links.anchors.split(256), links.weights.split(256), strict=True)
            return torch.cat([self._query_exactly(Links(*block)) for block in blocks])

    def label_weights(self, queries: Float[Tensor, "q d"]) -> Float[Tensor, "q n"]:
        """Return the exact weights of each query's score on the labelled anchors.

        The weights are those of the solve with the query added: they reproduce
        `query(queries, exact=True)` and sum to one minus the abstention.
        """
        identity = torch.eye(len(self.features), dtype=self.scores.dtype, device=self.scores.device)
        known = self.known.nonzero().squeeze(1)
        harmonic = laplace_learning(
            self.graph, identity[:, known], self.known, tau=self.tau, normalization=None,
            solver=self.solver,
        )  # fmt: skip
        onto = AnchorGraph(**{**vars(self), "labels": identity[:, known], "scores": harmonic})
        weights = self.scores.new_zeros(len(queries), len(self.features))
        weights[:, known] = onto.query(queries, exact=True)
        return weights

    def _interpolate(self, links: Links) -> Tensor:
        total = links.weights.sum(1, keepdim=True) + self.tau
        shares = torch.where(total > 0, links.weights / torch.where(total > 0, total, 1.0), 0.0)
        return torch.einsum("qk,qkc->qc", shares, self.scores[links.anchors])

    def _query_exactly(self, links: Links) -> Tensor:
        """Eliminate the query; what is left is the anchors' system plus a rank-k change.

        With w the query's weights, D = diag(w) on its free neighbours S and e = sum(w) + tau,
        the free anchors satisfy (A + D - w w^T / e) u = b + w (w_l . y) / e, where l are its
        fixed neighbours. With Z = (A^-1)_SS and M = D - w w^T / e this is
            (I + Z M) u_S = u0_S + Z w (w_l . y) / e.
        """
        place = torch.full((len(self.features),), -1, device=links.anchors.device)
        place[self.system.nodes] = torch.arange(len(self.system.nodes), device=place.device)
        at = place[links.anchors]  # (q, k), -1 where the neighbour is fixed
        free = at >= 0
        weight = torch.where(free, links.weights, 0.0)
        total = links.weights.sum(1) + self.tau
        safe = torch.where(total > 0, total, 1.0)
        values = self.scores[links.anchors]
        fixed_part = torch.einsum("qk,qkc->qc", links.weights - weight, values)
        columns, column_of = at[free].unique(return_inverse=True)
        if len(columns) == 0:
            return torch.where(total[:, None] > 0, fixed_part / safe[:, None], 0.0)
        units = values.new_zeros(len(self.system.nodes), len(columns))
        units[columns, torch.arange(len(columns), device=columns.device)] = 1
        green, _ = self.solver.solve(self.factor, units)  # (f, distinct neighbours)
        slot = torch.zeros_like(at)
        slot[free] = column_of
        both = free[:, :, None] & free[:, None, :]
        z = torch.where(both, green[at.clamp_min(0)[:, :, None], slot[:, None, :]], 0.0)
        m = torch.diag_embed(weight) - weight[:, :, None] * weight[:, None, :] / safe[:, None, None]
        push = weight[:, :, None] * (fixed_part / safe[:, None])[:, None, :]
        start = torch.where(free[:, :, None], values, 0.0) + z @ push
        identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        moved = torch.linalg.solve(identity + z @ m, start)
        result = (torch.einsum("qk,qkc->qc", weight, moved) + fixed_part) / safe[:, None]
        return torch.where(total[:, None] > 0, result, 0.0)

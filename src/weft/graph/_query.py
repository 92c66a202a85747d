"""One query at a time against a frozen graph of anchors, in two forms.

Knows the graph's weights and solvers; holds the scores of the anchors, solved once.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft._check import at_least_float32, check_floating
from weft.graph._boundary import FAINT, FreeSystem, unreached
from weft.graph._graph import Graph
from weft.graph._grow import Grounded, with_fixed_node, with_node
from weft.graph._laplace import laplace_learning
from weft.graph._linear_solvers import LinearSolver, default_solver
from weft.graph._neighbors import ExactNeighbors, Neighbors
from weft.graph._space import Links, Space
from weft.graph._weights import Bandwidth, Gaussian, Kernel, SelfTuned, knn_graph_and_scales


@dataclass(frozen=True, eq=False)
class AnchorGraph:
    """A graph of anchors, frozen: who neighbours whom, all bandwidths, and the solved scores.

    A query joins its k nearest anchors; the anchors' own neighbours and bandwidths do not
    change, and queries do not see each other, so an answer does not depend on what else is
    asked. Without gradient. Made by `AnchorGraph.build`.
    """

    spaces: tuple[Space, ...]
    labels: Float[Tensor, "n c"]
    known: Bool[Tensor, " n"]
    graph: Graph
    scores: Float[Tensor, "n c"]
    tau: float
    solver: Grounded
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
        inputs: Float[Tensor, "n p"] | None = None,
        input_edges: float = 1.0,
    ) -> "AnchorGraph":
        """Build the anchors' graph and solve it once, without normalisation of class masses.

        Args:
            features: of the anchors; this and what follows as in `knn_graph`.
            labels: as in `laplace_learning`, and so are `known`, `tau` and `solver`.
            known: which anchors have a label.
            k: neighbours.
            kernel: edge weights.
            bandwidth: length scales.
            neighbors: the search.
            tau: decay.
            solver: of the graph equation.
            inputs: what the features were made from, one row per anchor: a second graph, on
                these, is added to the first, and queries link to their k nearest anchors in both.
            input_edges: times the weights of that second graph.
        """
        check_floating("features", features, "n d")
        kernel, bandwidth = kernel or Gaussian(), bandwidth or SelfTuned()
        features = at_least_float32(features.detach())
        neighbors = neighbors or ExactNeighbors()
        points = [features]
        if inputs is not None:
            points.append(inputs.detach().to(features.dtype))
        spaces, graph = [], None
        for coordinates, scale in zip(points, (1.0, input_edges), strict=False):
            own, kth = knn_graph_and_scales(coordinates, k, kernel, bandwidth, neighbors)
            own = own.with_weights(scale * own.weights)
            graph = own if graph is None else graph + own
            spaces.append(Space.of(coordinates, kth, k, kernel, bandwidth, scale))
        assert graph is not None
        return cls._solve(tuple(spaces), labels.to(features.dtype), known, graph, tau, solver)

    @classmethod
    def _solve(
        cls,
        spaces: tuple[Space, ...],
        labels: Tensor,
        known: Tensor,
        graph: Graph,
        tau: float,
        solver: LinearSolver | None,
    ) -> "AnchorGraph":
        scores = laplace_learning(graph, labels, known, tau=tau, normalization=None, solver=solver)
        decay = torch.full_like(known, tau, dtype=labels.dtype)
        lost = unreached(graph, torch.where(known, torch.inf, decay))
        system = FreeSystem.of(graph, known, lost)
        grounded = Grounded(solver or default_solver(len(system.nodes), system.num_graphs))
        diagonal = system.diagonal() + decay[system.nodes]
        factor = (
            grounded.factor(system.edges, system.weights, diagonal, system.num_graphs)
            if len(system.nodes)
            else []
        )
        return cls(spaces, labels, known, graph, scores, tau, grounded, system, factor)

    @torch.no_grad()
    def with_anchor(
        self,
        features: Float[Tensor, " d"],
        label: Float[Tensor, " c"],
        inputs: Float[Tensor, " p"] | None = None,
    ) -> "AnchorGraph":
        """Return the graph with one more labelled anchor, without solving it from scratch.

        The new anchor hangs on its k nearest as a query does, and holds its label. That adds to
        the diagonal at its unlabelled neighbours: k solves with the factor there is, little where
        the solver has one, and about what solving anew takes with conjugate gradients. The others'
        neighbours and bandwidths stay, so a graph that has grown much is better built anew.

        Args:
            features: of the new anchor.
            label: its row of class probabilities.
            inputs: what its features were made from, where the others' inputs were given.
        """
        if label.shape != self.labels.shape[1:]:
            raise ValueError(
                f"`label` must be a row of {self.labels.shape[1]} classes, got shape "
                f"{tuple(label.shape)}: pass one_hot(class, {self.labels.shape[1]})."
            )
        beside = None if inputs is None else inputs[None]
        links = self.link(features[None], beside)
        near, slot = links.anchors[0].unique(return_inverse=True)
        weights = links.weights.new_zeros(len(near)).index_add(0, slot, links.weights[0])
        near, weights = near[weights > 0], weights[weights > 0]
        places = (features[None],) if beside is None else (features[None], beside)
        label = label.to(self.labels)
        grown = replace(
            self,
            spaces=tuple(s.with_point(place) for s, place in zip(self.spaces, places, strict=True)),
            labels=torch.cat([self.labels, label[None]]),
            known=torch.cat([self.known, self.known.new_ones(1)]),
            graph=with_node(self.graph, near, weights),
            scores=torch.cat([self.scores, label[None]]),
        )
        at = self._place()[near]
        if ((at < 0) & ~self.known[near]).any():  # what no label reached until now
            base = self.solver.base
            return self._solve(grown.spaces, grown.labels, grown.known, grown.graph, self.tau, base)
        at, near, weights = at[at >= 0], near[at >= 0], weights[at >= 0]
        system = with_fixed_node(self.system, at, weights)
        if not len(at):
            return replace(grown, system=system)
        factor, pulled = self.solver.ground(self.factor, at, weights)
        free = self.system.nodes
        moved = self.scores[free] + pulled @ (label - self.scores[near])
        return replace(
            grown, scores=grown.scores.index_copy(0, free, moved), system=system, factor=factor
        )

    def _place(self) -> Int[Tensor, " n"]:
        """Return where each anchor is among the free ones, -1 where it is not."""
        place = torch.full((len(self.known),), -1, device=self.known.device)
        place[self.system.nodes] = torch.arange(len(self.system.nodes), device=place.device)
        return place

    @torch.no_grad()
    def link(
        self, queries: Float[Tensor, "q d"], inputs: Float[Tensor, "q p"] | None = None
    ) -> Links:
        """Find each query's near anchors and the weights of the edges to them.

        With a second graph on inputs, 2 k of them; an anchor near in both is there twice.
        """
        places = (queries,) if inputs is None else (queries, inputs)
        if len(places) != len(self.spaces):
            raise ValueError(
                f"`inputs` must be given with the queries exactly where they were with the anchors,"
                f" got {len(places) - 1} beside anchors with {len(self.spaces) - 1}."
            )
        links = [space.link(place) for space, place in zip(self.spaces, places, strict=True)]
        return Links(*(torch.cat(column, 1) for column in zip(*links, strict=True)))

    @torch.no_grad()
    def query(
        self,
        queries: Float[Tensor, "q d"],
        inputs: Float[Tensor, "q p"] | None = None,
        *,
        exact: bool = False,
    ) -> Float[Tensor, "q c"]:
        """Return the scores of each query on its own.

        Args:
            queries: features, as the anchors' were made.
            inputs: what they were made from, where the anchors' inputs were given too.
            exact: solve the system with the query added as one more node, by a low-rank update
                of the factor, O(k) solves a query. Otherwise the query takes the mean of its
                neighbours' frozen values, O(k) work. The two agree where all anchors are
                labelled; else the query pulls on the unlabelled ones.

        Returns:
            Scores; a row sums to one minus the query's abstention.
        """
        links = self.link(queries, inputs)
        with torch.autocast(self.scores.device.type, enabled=False):
            return self._in_blocks(links, by_label=False) if exact else self._interpolate(links)

    @torch.no_grad()
    def label_weights(
        self, queries: Float[Tensor, "q d"], inputs: Float[Tensor, "q p"] | None = None
    ) -> Float[Tensor, "q n"]:
        """Return the exact weights of each query's score on the labelled anchors.

        The weights are those of the solve with the query added: they reproduce
        `query(queries, exact=True)` and sum to one minus the abstention.
        """
        links = self.link(queries, inputs)
        with torch.autocast(self.scores.device.type, enabled=False):
            return self._in_blocks(links, by_label=True)

    def _interpolate(self, links: Links) -> Tensor:
        total = links.weights.sum(1, keepdim=True) + self.tau
        shares = torch.where(total > 0, links.weights / torch.where(total > 0, total, 1.0), 0.0)
        return torch.einsum("qk,qkc->qc", shares, self.scores[links.anchors])

    def _in_blocks(self, links: Links, by_label: bool) -> Tensor:
        rows = 2**22 // max(1, links.anchors.shape[1] * len(self.known))  # 32 MiB a solve
        parts = (part.split(max(1, min(256, rows))) for part in links)
        blocks = zip(*parts, strict=True)
        return torch.cat([self._query_exactly(Links(*block), by_label) for block in blocks])

    def _query_exactly(self, links: Links, by_label: bool) -> Tensor:
        """Eliminate the query; what is left is the anchors' system plus a rank-k change.

        With w the query's weights, D = diag(w) on its free neighbours S and e = sum(w) + tau,
        the free anchors satisfy (A + D - w w^T / e) u = b + w (w_l . y) / e, where l are its
        fixed neighbours. With Z = (A^-1)_SS and M = D - w w^T / e this is
            (I + Z M) u_S = u0_S + Z w (w_l . y) / e.
        Anchors that no label reaches would follow the query: they give it nothing and drop out,
        unless it hangs on the others by a thread only and is no more reached than they are.
        """
        at = self._place()[links.anchors]  # (q, k), -1 where the neighbour is fixed
        free = at >= 0
        every = torch.where(free | self.known[links.anchors], links.weights, 0.0)
        faint = FAINT[every.dtype] * links.weights.sum(1, keepdim=True)
        every = torch.where((every > faint).any(1, keepdim=True), every, 0.0)
        weight = torch.where(free, every, 0.0)
        total = every.sum(1) + self.tau
        safe = torch.where(total > 0, total, 1.0)
        columns, slot_of = at[free].unique(return_inverse=True)  # those of several queries once
        units = every.new_zeros(len(self.system.nodes), len(columns))
        units[columns, torch.arange(len(columns), device=columns.device)] = 1
        slot = torch.zeros_like(at)
        slot[free] = slot_of
        # (f, distinct neighbours)
        green = self.solver.solve(self.factor, units)[0] if len(columns) else units
        values = (
            self._labels_behind(links.anchors, free, green, slot)
            if by_label
            else self.scores[links.anchors]
        )
        fixed_part = torch.einsum("qk,qkc->qc", every - weight, values)
        if not len(columns):
            return torch.where(total[:, None] > 0, fixed_part / safe[:, None], 0.0)
        both = free[:, :, None] & free[:, None, :]
        z = torch.where(both, green[at.clamp_min(0)[:, :, None], slot[:, None, :]], 0.0)
        m = torch.diag_embed(weight) - weight[:, :, None] * weight[:, None, :] / safe[:, None, None]
        push = weight[:, :, None] * (fixed_part / safe[:, None])[:, None, :]
        start = torch.where(free[:, :, None], values, 0.0) + z @ push
        identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        moved = torch.linalg.solve(identity + z @ m, start)
        result = (torch.einsum("qk,qkc->qc", weight, moved) + fixed_part) / safe[:, None]
        return torch.where(total[:, None] > 0, result, 0.0)

    def _labels_behind(self, anchors: Tensor, free: Tensor, green: Tensor, slot: Tensor) -> Tensor:
        """Return the weights of all labels in the scores of the given anchors, (q, k, n)."""
        itself = green.new_zeros(*anchors.shape, len(self.known)).scatter_(2, anchors[..., None], 1)
        if not green.shape[1]:
            return itself
        return torch.where(free[..., None], self.system.outflow(green).T[slot], itself)

"""Edge weights that grow towards the labels: corrections of Laplace learning for few labels.

Plain Laplace learning hangs a spike on each of a few labels; heavier edges there keep it from
doing so. Each maps (graph, known) to a graph, differentiably. Knows graphs.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.graph._graph import Graph
from weft.graph._linear_solvers import LinearSolver
from weft.graph._poisson import component_mean, solve_neumann, without_threads
from weft.graph._solve import SolveLog


class Reweighting(Protocol):
    """Weighs a graph's edges anew by where its labels are: a frozen object, callable."""

    def __call__(
        self,
        graph: Graph,
        known: Bool[Tensor, " n"],
        *,
        points: Float[Tensor, "n d"] | None = None,
        solver: LinearSolver | None = None,
        log: SolveLog | None = None,
    ) -> Graph:
        """Return the same edges with other weights."""
        ...


@dataclass(frozen=True)
class WNLL:
    """Weighted nonlocal Laplacian: edges at labelled nodes are multiplied by (n / m + 1) / 2.

    n counts the nodes and m the labels. Differentiable to any order in the weights.

    Source: Shi, Osher, Zhu, J. Sci. Comput. 73, 2017. Divided by two against the usual form, so
        that edges between unlabelled nodes keep their weights and a decay its meaning.
    """

    def __call__(
        self,
        graph: Graph,
        known: Tensor,
        *,
        points: Tensor | None = None,
        solver: LinearSolver | None = None,
        log: SolveLog | None = None,
    ) -> Graph:
        """Return the reweighted graph."""
        known = known.reshape(graph.num_graphs, -1)
        share = known.to(graph.weights.dtype).mean(1, keepdim=True)
        factor = torch.where(known, 1 / torch.where(share > 0, share, 1.0), 1.0)
        return _multiplied(graph, factor.flatten())


@dataclass(frozen=True)
class ProperlyWeighted:
    """Properly weighted Laplacian: weights grow like a power of one over the distance to a label.

    The weight of an edge is multiplied by the mean over its ends of 1 + (radius / distance)^power,
    at most `ceiling`, where distance is that of the *points* to the nearest labelled one: pass
    them with the call, as `equation(graph, labels, known, points=features)`; a head does so.
    Differentiable to any order in weights and points, while the nearest labels stay the same.

    Args:
        radius: in the unit of the points.
        power: above the points' intrinsic dimension less two, for the labels to be felt as n grows.
        ceiling: largest factor; it is reached at the labels themselves.

    Source: Calder, Slepcev, Appl. Math. Optim. 82, 2020, equation (1.9). Divided by two against
        the usual sum over both ends, as in `WNLL`.
    """

    radius: float | Tensor = 0.1
    power: float = 2.0
    ceiling: float = 1e7

    def __post_init__(self) -> None:
        for name, least in (("radius", 0), ("power", 0), ("ceiling", 1)):
            if not getattr(self, name) > least:
                raise ValueError(
                    f"`{name}` must be above {least}, got {getattr(self, name)}: weights must grow "
                    "towards labels."
                )

    def __call__(
        self,
        graph: Graph,
        known: Tensor,
        *,
        points: Tensor | None = None,
        solver: LinearSolver | None = None,
        log: SolveLog | None = None,
    ) -> Graph:
        """Return the reweighted graph."""
        if points is None or len(points) != graph.num_nodes:
            came = None if points is None else tuple(points.shape)
            raise ValueError(
                f"`points` must hold one row for each of the {graph.num_nodes} nodes, got {came}: "
                "pass what the graph was made from, equation(graph, labels, known, points=...)."
            )
        squared = _squared_distance_to_label(points.to(graph.weights.dtype), known, graph)
        least = (self.ceiling - 1) ** (-2 / self.power)
        ratio = (squared / self.radius**2).clamp_min(least)
        return _multiplied(graph, 1 + ratio ** (-self.power / 2))


@dataclass(frozen=True)
class PoissonReweighted:
    """Weights are multiplied by psi_i psi_j, where L psi = 1 on labelled nodes less the mean.

    psi, Green's function of the labels, is shifted so that `floor` is its least value in each
    component. Differentiable to any order in the weights, but for a change of the least node.

    Args:
        floor: least factor; far from all labels weights shrink to its square.

    Source: Calder, Cook, Thorpe, Slepcev, ICML 2020, and the code of the GraphLearning package,
        whose floor is the default.
    """

    floor: float = 1e-5

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"`floor` must be positive, got {self.floor}: weights must stay so.")

    def __call__(
        self,
        graph: Graph,
        known: Tensor,
        *,
        points: Tensor | None = None,
        solver: LinearSolver | None = None,
        log: SolveLog | None = None,
    ) -> Graph:
        """Return the reweighted graph; costs one solve."""
        graph = without_threads(graph)
        component = graph.components()
        mark = known.reshape(-1, 1).to(graph.weights.dtype)
        source = mark - component_mean(mark, torch.ones_like(mark[:, 0]), component)
        psi = solve_neumann(graph, source, component, solver, log).squeeze(1)
        count = int(component.max()) + 1 if len(component) else 0
        lowest = psi.new_zeros(count).scatter_reduce(0, component, psi, "amin", include_self=False)
        psi = psi - lowest[component] + self.floor
        i, j = graph.edges
        return graph.with_weights(graph.weights * psi[i] * psi[j])


def _multiplied(graph: Graph, factor: Tensor) -> Graph:
    """Multiply each weight by the mean of a factor at its two ends."""
    i, j = graph.edges
    return graph.with_weights(graph.weights * (factor[i] + factor[j]) / 2)


def _squared_distance_to_label(points: Tensor, known: Tensor, graph: Graph) -> Tensor:
    """Return each point's squared distance to the nearest labelled one of its own graph."""
    block = graph.num_nodes // graph.num_graphs
    nearest = []
    for start in range(0, graph.num_nodes, block):
        mine = slice(start, start + block)
        labelled = known.reshape(-1)[mine].nonzero().squeeze(1) + start
        if not len(labelled):
            nearest.append(points[mine].new_full((block,), torch.inf))
            continue
        rows = max(1, 2**22 // len(labelled))
        parts = points[mine].detach().split(rows)
        place = torch.cat(
            [torch.cdist(part, points[labelled].detach()).argmin(1) for part in parts]
        )
        nearest.append((points[mine] - points[labelled[place]]).square().sum(1))
    return torch.cat(nearest)

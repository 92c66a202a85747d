"""Poisson learning: labels are sources and sinks of a flow, not fixed values.

The Laplacian alone is singular; here it is grounded, which changes nothing. Knows graphs.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.graph._boundary import FAINT
from weft.graph._equation import Equation, Problem
from weft.graph._graph import Graph
from weft.graph._linear_solvers import LinearSolver
from weft.graph._solve import SolveLog, solve_system


class Gauge(Enum):
    """Which of the solutions of L u = f, which differ by a constant, is meant."""

    DEGREE = "degree"
    """The mean of u weighted by the degrees is zero: what iterations of the paper converge to."""
    MEAN = "mean"
    """The mean of u is zero."""


@dataclass(frozen=True)
class Poisson(Equation):
    """Poisson learning: L u = sum over labelled j of (y_j - mean label) at node j.

    Made for a handful of labels per class, where Laplace learning collapses. Scores are signed:
    only their order within a row counts. Differentiable to any order in weights and labels.

    Each component is a problem of its own, with the mean over its own labels. One whose labels
    all agree has no source; its scores are that label less the mean of all labels.

    Args:
        gauge: which constant is added to each class.

    Source: Calder, Cook, Thorpe, Slepcev, ICML 2020, equation (2.4); the treatment of components
        is ours.
    """

    signed: ClassVar[bool] = True
    gauge: Gauge = Gauge.DEGREE

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Solve the grounded system and move each component to the gauge."""
        graph, known = without_threads(problem.graph), problem.known
        component = graph.components()
        one = known.to(graph.weights.dtype)
        here = component_mean(problem.labels, one, component)
        source = torch.where(known[:, None], problem.labels - here, 0.0)
        potential = solve_neumann(graph, source, component, problem.solver, problem.log)
        mass = graph.degrees() if self.gauge is Gauge.DEGREE else torch.ones_like(one)
        potential = potential - component_mean(potential, mass, component)
        block = torch.arange(len(known), device=known.device) // (len(known) // graph.num_graphs)
        everywhere = component_mean(problem.labels, one, block)
        agree = component_mean(source.detach().abs(), one, component) == 0
        return torch.where(agree.all(1, keepdim=True), here - everywhere, potential)


def solve_neumann(
    graph: Graph,
    source: Float[Tensor, "n c"],
    component: Int[Tensor, " n"],
    solver: LinearSolver | None,
    log: SolveLog | None,
) -> Float[Tensor, "n c"]:
    """Return a solution of L u = source, where the source sums to zero over each component.

    A number g on the diagonal at one node of each component grounds it there: the equations of
    the component sum to g u = 0, so u is zero at that node and L u = source holds as it stands.
    The node is the one of largest degree.
    """
    degrees = graph.degrees().detach()
    order = degrees.argsort(descending=True, stable=True)
    rank = torch.arange(len(order), device=order.device)
    count = int(component.max()) + 1 if len(component) else 0
    first = rank.new_zeros(count).scatter_reduce(
        0, component[order], rank, "amin", include_self=False
    )
    grounded = order[first]
    ground = torch.where(degrees[grounded] > 0, degrees[grounded], 1.0)
    return solve_system(
        graph.weights,
        torch.zeros_like(degrees).index_put((grounded,), ground),
        source,
        graph.edges,
        num_graphs=graph.num_graphs,
        solver=solver,
        log=log,
    )


def without_threads(graph: Graph) -> Graph:
    """Set to zero the weights that are lost in rounding beside the degrees of both their ends."""
    weights, degrees = graph.weights.detach(), graph.degrees().detach()
    least = FAINT[weights.dtype] * degrees[graph.edges].amin(0)
    if (weights > least).all():
        return graph
    return replace(graph, weights=torch.where(weights > least, graph.weights, 0.0))


def component_mean(
    values: Float[Tensor, "n c"], mass: Float[Tensor, " n"], component: Int[Tensor, " n"]
) -> Float[Tensor, "n c"]:
    """Return, at each node, the mean of its component weighted by `mass`; zero without mass."""
    count = int(component.max()) + 1 if len(component) else 0
    total = mass.new_zeros(count).index_add(0, component, mass)
    sums = values.new_zeros(count, values.shape[1]).index_add(0, component, mass[:, None] * values)
    means = (
        torch.where(total[:, None] != 0, sums, 0.0) / torch.where(total != 0, total, 1.0)[:, None]
    )
    return means[component]

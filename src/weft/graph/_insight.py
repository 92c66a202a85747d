"""Why a score is what it is: its exact weights on the labelled nodes.

Knows graphs and the one solve.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft._check import check_mask
from weft.graph._boundary import FreeSystem, unreached
from weft.graph._graph import Graph
from weft.graph._laplace import per_node
from weft.graph._linear_solvers import LinearSolver
from weft.graph._solve import solve_system


def label_weights(
    graph: Graph,
    known: Bool[Tensor, " n"],
    nodes: Int[Tensor, " q"],
    *,
    tau: float | Tensor = 0.0,
    solver: LinearSolver | None = None,
) -> Float[Tensor, "q n"]:
    """Return how much each labelled node counts in the scores of the given nodes.

    Laplace learning's score is a convex combination of labels: u_q = sum_j H_qj y_j, where H_qj
    is the probability that a random walk from q meets its first label at j. Rows are
    non-negative and sum to one minus the abstention. The weights explain the scores before any
    class-mass normalisation. Differentiable to any order in the graph's weights; costs one
    solve with q right-hand sides.

    Args:
        graph: the graph.
        known: which nodes have a label.
        nodes: the nodes to explain.
        tau: decay, as in `laplace_learning`.
        solver: as in `laplace_learning`.

    Returns:
        One row per given node and one column per node of the graph, zero where no label is. A
        labelled node has weight one on itself; a node that no label reaches has a row of zeros.

    Raises:
        ValueError: `nodes` are not numbers of nodes, or as in `laplace_learning`.
    """
    check_mask("known", known, torch.Size([graph.num_nodes]))
    check_nodes(nodes, graph.num_nodes)
    decay = per_node("tau", tau, graph)
    lost = unreached(graph, torch.where(known, torch.inf, decay))
    system = FreeSystem.of(graph, known, lost)
    place = torch.full((graph.num_nodes,), -1, device=nodes.device)
    place[system.nodes] = torch.arange(len(system.nodes), device=nodes.device)
    asked = place[nodes]
    is_free = (asked >= 0).nonzero().squeeze(1)
    # A is symmetric, so row q of A^-1 is the solution for the unit vector at q.
    units = graph.weights.new_zeros(len(system.nodes), len(nodes))
    units[asked[is_free], is_free] = 1
    green = solve_system(
        system.weights,
        system.diagonal() + decay[system.nodes],
        units,
        system.edges,
        num_graphs=system.num_graphs,
        solver=solver,
    )
    weights = system.outflow(green)
    on_itself = known[nodes].to(weights.dtype)
    column = torch.arange(len(nodes), device=nodes.device)
    weights = weights.index_put((nodes, column), on_itself, accumulate=True)
    return torch.where(known[:, None], weights, 0.0).T


def check_nodes(nodes: Tensor, num_nodes: int) -> None:
    """Refuse anything but a list of numbers of nodes."""
    is_integer = not (nodes.is_floating_point() or nodes.is_complex() or nodes.dtype == torch.bool)
    if not is_integer or nodes.ndim != 1:
        raise ValueError(
            f"`nodes` must be a list of node numbers, got {nodes.dtype} of shape "
            f"{tuple(nodes.shape)}: for a mask, pass mask.nonzero().squeeze(1)."
        )
    if len(nodes) and not 0 <= int(nodes.min()) <= int(nodes.max()) < num_nodes:
        raise ValueError(
            f"`nodes` must be numbers from 0 to {num_nodes - 1}, got {int(nodes.min())} to "
            f"{int(nodes.max())}: count from the start of the graph."
        )

"""What the tests of graphs share: small graphs, and the equations solved densely by torch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from weft.graph import Graph


def _random_graph(
    num_nodes: int, num_edges: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    path = torch.stack([torch.arange(num_nodes - 1), torch.arange(1, num_nodes)])
    more = torch.randint(num_nodes, (2, num_edges), generator=generator)
    edge_index = torch.cat([path, more], dim=1)
    weights = torch.rand(edge_index.shape[1], generator=generator, dtype=dtype) + 0.05
    return Graph.from_edge_index(edge_index, weights, num_nodes=num_nodes)


def _dense_system(weights: Tensor, diagonal: Tensor, edges: Tensor) -> Tensor:
    i, j = edges
    half = weights.new_zeros(len(diagonal), len(diagonal)).index_put((i, j), weights)
    adjacency = half + half.T
    return torch.diag(adjacency.sum(1) + diagonal) - adjacency


def _dense_laplace_learning(
    weights: Tensor,
    edges: Tensor,
    labels: Tensor,
    known: Tensor,
    tau: float | Tensor = 0.0,
    fidelity: Tensor | None = None,
    source: Tensor | None = None,
) -> Tensor:
    """Laplace learning by torch.linalg.solve; every component must have a label or decay."""
    tau = torch.as_tensor(tau, dtype=weights.dtype).expand(len(known))
    source = torch.zeros_like(labels) if source is None else source
    if fidelity is not None:
        pull = torch.where(known, fidelity, 0.0)
        matrix = _dense_system(weights, tau + pull, edges)
        return torch.linalg.solve(matrix, pull[:, None] * labels + source)
    matrix = _dense_system(weights, tau, edges)
    rhs = source[~known] - matrix[~known][:, known] @ labels[known]
    free = torch.linalg.solve(matrix[~known][:, ~known], rhs)
    return labels.index_put((~known,), free)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def random_graph() -> Callable[..., Graph]:
    """A connected graph: a path and random edges, with weights between 0.05 and 1.05."""
    return _random_graph


@pytest.fixture(scope="session")
def dense_system() -> Callable[..., Tensor]:
    """L(weights) + diag(diagonal) as a dense matrix, differentiable."""
    return _dense_system


@pytest.fixture(scope="session")
def dense_laplace_learning() -> Callable[..., Tensor]:
    return _dense_laplace_learning

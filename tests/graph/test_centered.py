"""The centred kernel is its dense system, whatever is labelled, and refuses a level too low."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import CenteredKernel, ConjugateGradient, Graph, knn_graph


def case(seed=0, num_nodes=16):
    generator = torch.Generator().manual_seed(seed)
    graph = knn_graph(torch.randn(num_nodes, 2, generator=generator, dtype=torch.float64), 5)
    labels = one_hot(torch.arange(num_nodes) % 3, 3).double()
    return graph, labels, torch.randn(num_nodes, generator=generator).argsort() < 5


def adjacency(graph):
    return torch.diag(graph.degrees()) - graph.laplacian()


def oracle(graph, labels, known, level):
    size = graph.num_nodes
    centring = torch.eye(size).double() - 1 / size
    matrix = centring @ adjacency(graph) @ centring
    fixed = labels[known] - labels[known].mean(0)
    inside = level * torch.eye(size).double()[~known][:, ~known] - matrix[~known][:, ~known]
    free = torch.linalg.solve(inside, matrix[~known][:, known] @ fixed)
    return torch.zeros_like(labels).index_put((known,), fixed).index_put((~known,), free)


@pytest.mark.parametrize("solver", [None, ConjugateGradient(rtol=1e-14)], ids=["dense", "cg"])
@pytest.mark.parametrize("factor", [1.001, 1.05, 3.0])
def test_scores_are_the_dense_system(factor, solver):
    graph, labels, known = case()
    level = factor * torch.linalg.eigvalsh(adjacency(graph))[-1].item()
    scores = CenteredKernel(level)(graph, labels, known, solver=solver)
    assert_close(scores, oracle(graph, labels, known, level), rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_nodes", [16, 150])
def test_the_level_is_by_default_a_little_above_the_largest_eigenvalue(num_nodes):
    graph, labels, known = case(1, num_nodes)
    level = 1.05 * torch.linalg.eigvalsh(adjacency(graph))[-1].item()
    by_default, given = (CenteredKernel(at)(graph, labels, known) for at in (None, level))
    assert_close(by_default, given, rtol=0, atol=1e-9)


def test_derivatives_in_the_level_match_finite_differences_twice():
    graph, labels, known = case(2)
    level = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda level: CenteredKernel(level)(graph, labels, known), level)
    assert gradgradcheck(lambda level: CenteredKernel(level)(graph, labels, known), level)


def test_adding_a_constant_to_all_labels_changes_nothing():
    graph, labels, known = case(3)
    moved = CenteredKernel()(graph, labels + 5, known)
    assert_close(moved, CenteredKernel()(graph, labels, known), rtol=0, atol=1e-10)


def test_a_graph_without_weights_has_scores_at_its_labels_only():
    graph = Graph(torch.tensor([[0], [1]]), torch.zeros(1, dtype=torch.float64), 3)
    labels, known = torch.eye(3).double(), torch.tensor([True, True, False])
    scores = CenteredKernel()(graph, labels, known)
    assert_close(scores[0], torch.tensor([0.5, -0.5, 0.0]).double())
    assert not scores[2].any()


def test_refuses_a_level_below_the_largest_eigenvalue():
    graph, labels, known = case(4)
    with pytest.raises(ValueError, match="`level` must be above the largest eigenvalue"):
        CenteredKernel(0.1)(graph, labels, known)

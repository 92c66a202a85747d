"""Spreading and PageRank are their dense closed forms, and each other's limits and relatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.semi_supervised import LabelSpreading
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import ConjugateGradient, Graph, PageRank, Spreading, knn_graph

NODES = 15


def case(seed):
    generator = torch.Generator().manual_seed(seed)
    graph = knn_graph(torch.randn(NODES, 2, generator=generator, dtype=torch.float64), 5)
    labels = one_hot(torch.arange(NODES) % 3, 3).double()
    return graph, labels, torch.randn(NODES, generator=generator).argsort() < 6


def adjacency(graph):
    return torch.diag(graph.degrees()) - graph.laplacian()


@pytest.mark.parametrize("alpha", [0.01, 0.5, 0.99, 0.9999])
@pytest.mark.parametrize("solver", [None, ConjugateGradient(rtol=1e-12)], ids=["dense", "cg"])
def test_spreading_is_its_closed_form(alpha, solver):
    graph, labels, known = case(0)
    root = graph.degrees().rsqrt()
    similar = root[:, None] * adjacency(graph) * root
    matrix = torch.eye(NODES).double() - alpha * similar
    expected = (1 - alpha) * torch.linalg.solve(matrix, labels * known[:, None])
    scores = Spreading(alpha)(graph, labels, known, solver=solver)
    assert_close(scores, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha", [0.01, 0.5, 0.99])
def test_page_rank_is_its_closed_form(alpha):
    graph, labels, known = case(1)
    starts = labels * known[:, None]
    starts = starts / starts.sum(0)
    matrix = torch.eye(NODES).double() - alpha * adjacency(graph) / graph.degrees()
    expected = (1 - alpha) * torch.linalg.solve(matrix, starts)
    assert_close(PageRank(alpha)(graph, labels, known), expected, rtol=0, atol=1e-12)


def test_spreading_is_that_of_scikit_learn():
    graph, labels, known = case(2)
    weights = adjacency(graph).numpy()
    model = LabelSpreading(kernel=lambda *_: weights, alpha=0.8, max_iter=10_000, tol=1e-15)
    model.fit(torch.arange(NODES)[:, None], torch.where(known, labels.argmax(1), -1))
    rows = Spreading(0.8)(graph, labels, known)
    rows = rows / rows.sum(1, keepdim=True)
    assert_close(rows, torch.from_numpy(model.label_distributions_), rtol=0, atol=1e-10)


def test_page_rank_and_spreading_differ_by_roots_of_degrees():
    graph, labels, known = case(3)
    root = graph.degrees().sqrt()[:, None]
    starts = labels * known[:, None]
    by_spreading = root * Spreading(0.7)(graph, starts / root, known)
    assert_close(PageRank(0.7)(graph, labels, known), by_spreading / starts.sum(0))


def test_towards_one_spreading_forgets_where_labels_are():
    graph, labels, known = case(4)
    root = graph.degrees().sqrt()[:, None]
    total = (root * labels * known[:, None]).sum(0)
    expected = root * total / graph.degrees().sum()
    assert_close(Spreading(1 - 1e-9)(graph, labels, known), expected, rtol=0, atol=1e-7)


def test_towards_one_page_rank_is_the_degrees_and_towards_zero_the_labels():
    graph, labels, known = case(5)
    share = (graph.degrees() / graph.degrees().sum())[:, None].expand(-1, 3)
    assert_close(PageRank(1 - 1e-9)(graph, labels, known), share, rtol=0, atol=1e-7)
    for equation in (PageRank(1e-9), Spreading(1e-9)):
        scores = equation(graph, labels, known)
        starts = labels * known[:, None]
        if isinstance(equation, PageRank):
            starts = starts / starts.sum(0)
        assert_close(scores, starts, rtol=0, atol=1e-8)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), alpha=st.floats(0.01, 0.99))
def test_page_rank_is_a_distribution_over_nodes(seed, alpha):
    graph, labels, known = case(seed)
    scores = PageRank(alpha)(graph, labels, known)
    assert (scores >= -1e-12).all()
    has = (labels * known[:, None]).sum(0) > 0
    assert_close(scores.sum(0), has.double(), rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), alpha=st.floats(0.01, 0.99))
def test_spreading_keeps_the_roots_of_degrees(seed, alpha):
    graph, _, _ = case(seed)
    root = graph.degrees().sqrt()[:, None]
    scores = Spreading(alpha)(graph, root, torch.ones(NODES, dtype=torch.bool))
    assert_close(scores, root, rtol=0, atol=1e-11)


@pytest.mark.parametrize("equation", [Spreading, PageRank])
def test_derivatives_in_alpha_match_finite_differences_twice(equation):
    graph, labels, known = case(6)
    alpha = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda alpha: equation(alpha)(graph, labels, known), alpha)
    assert gradgradcheck(lambda alpha: equation(alpha)(graph, labels, known), alpha)


def test_an_isolated_node_keeps_its_share_of_its_label():
    graph = Graph(torch.tensor([[0], [1]]), torch.ones(1, dtype=torch.float64), 4)
    labels, known = torch.eye(4, 2).double(), torch.tensor([True, False, False, True])
    labels[3, 1] = 1.0
    for equation in (Spreading(0.75), PageRank(0.75)):
        scores = equation(graph, labels, known)
        assert_close(scores[2:], torch.tensor([[0.0, 0.0], [0.0, 0.25]]).double())


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, 2.0, float("nan")])
@pytest.mark.parametrize("equation", [Spreading, PageRank])
def test_refuses_an_alpha_outside_zero_and_one(equation, alpha):
    with pytest.raises(ValueError, match="`alpha` must lie strictly between 0 and 1, got"):
        equation(alpha)
    with pytest.raises(ValueError, match=r"`alpha` must be one number, got shape \(2,\)"):
        equation(torch.tensor([0.5, alpha]))

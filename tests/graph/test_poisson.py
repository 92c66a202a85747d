"""Poisson learning is the dense pseudo-inverse in either gauge, component by component."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import ConjugateGradient, Gauge, Graph, Poisson, SolveLog, knn_graph

NODES = 20
each_gauge = pytest.mark.parametrize("gauge", Gauge)


def case(seed, num_known=7):
    generator = torch.Generator().manual_seed(seed)
    graph = knn_graph(torch.randn(NODES, 2, generator=generator, dtype=torch.float64), 5)
    labels = one_hot(torch.arange(NODES) % 3, 3).double()
    return graph, labels, torch.randn(NODES, generator=generator).argsort() < num_known


def oracle(graph, labels, known, gauge):
    """The pseudo-inverse of the Laplacian gives mean zero; a constant moves to the other gauge."""
    shown = labels * known[:, None]
    source = shown - known[:, None] * shown.sum(0) / known.sum()
    potential = torch.linalg.pinv(graph.laplacian(), hermitian=True) @ source
    if gauge is Gauge.MEAN:
        return potential
    degrees = graph.degrees()
    return potential - degrees @ potential / degrees.sum()


@each_gauge
@pytest.mark.parametrize("solver", [None, ConjugateGradient(rtol=1e-13)], ids=["dense", "cg"])
def test_scores_are_the_pseudo_inverse(gauge, solver):
    graph, labels, known = case(0)
    assert len(graph.components().unique()) == 1
    scores = Poisson(gauge)(graph, labels, known, solver=solver)
    assert_close(scores, oracle(graph, labels, known, gauge), rtol=0, atol=1e-10)


def test_a_larger_graph_in_float32_is_the_pseudo_inverse_to_its_precision():
    generator = torch.Generator().manual_seed(1)
    graph = knn_graph(torch.randn(800, 3, generator=generator, dtype=torch.float64), 10)
    labels = one_hot(torch.arange(800) % 4, 4).double()
    known = torch.arange(800) < 8
    assert len(graph.components().unique()) == 1
    expected = oracle(graph, labels, known, Gauge.DEGREE)
    scores = Poisson()(graph.with_weights(graph.weights.float()), labels, known)
    assert_close(scores.double(), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@each_gauge
@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_flows_balance_and_the_gauge_holds_in_each_component(gauge, seed):
    graph, labels, known = case(seed)
    scores = Poisson(gauge)(graph, labels, known)
    scores = scores / scores.abs().max().clamp_min(1)  # a thin neck makes a large potential
    residual = graph.laplacian() @ scores
    assert_close(residual[~known], torch.zeros_like(residual[~known]), rtol=0, atol=1e-9)
    mass = graph.degrees() if gauge is Gauge.DEGREE else torch.ones(NODES).double()
    component = graph.components()
    for number in component.unique():
        here = component == number
        if residual[here].abs().max() > 1e-9:
            assert (mass[here] @ scores[here]).abs().max() < 1e-9
    assert_close(scores.sum(1), torch.zeros(NODES).double(), rtol=0, atol=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), factor=st.floats(0.01, 100))
def test_scores_fall_as_one_over_the_weights(seed, factor):
    graph, labels, known = case(seed)
    if len(graph.components().unique()) > 1:
        return
    scores = Poisson()(graph, labels, known)
    scaled = Poisson()(graph.with_weights(factor * graph.weights), labels, known)
    assert_close(factor * scaled, scores, rtol=0, atol=1e-9)


def test_a_component_whose_labels_agree_takes_their_label():
    edges = torch.tensor([[0, 1, 3, 4], [1, 2, 4, 5]])
    graph = Graph(edges, torch.ones(4, dtype=torch.float64), 6)
    labels = one_hot(torch.tensor([0, 0, 1, 1, 0, 0]), 2).double()
    known = torch.tensor([True, False, True, True, False, False])
    scores = Poisson()(graph, labels, known)
    # Labels 0, 1 and 1: the second component has the last of them only, a third from their mean.
    assert_close(scores[3:], torch.tensor([[-1 / 3, 1 / 3]] * 3, dtype=torch.float64))
    assert_close(scores[0], torch.tensor([0.5, -0.5]).double())
    assert_close(scores[1], torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_a_thread_does_not_join_components():
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    weights = torch.tensor([1.0, 1e-14, 1.0], dtype=torch.float64, requires_grad=True)
    labels = one_hot(torch.tensor([0, 0, 1, 1]), 2).double()
    known = torch.tensor([True, False, False, True])
    scores = Poisson()(Graph(edges, weights, 4), labels, known)
    assert_close(scores, (labels - 0.5), rtol=0, atol=1e-12)
    scores.square().sum().backward()
    assert weights.grad.isfinite().all()


def test_one_factorisation_serves_both_directions():
    graph, labels, known = case(2)
    log = SolveLog()
    weights = graph.weights.clone().requires_grad_()
    Poisson()(graph.with_weights(weights), labels, known, log=log).square().sum().backward()
    assert log.factorizations == 1


def test_a_single_label_leaves_nothing_to_tell_apart():
    graph, labels, known = case(3, num_known=1)
    assert not Poisson()(graph, labels, known)[graph.components() == 0].any()

"""The weights of labels are those of the solve: they add up, explain and predict its changes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    Cholesky,
    ConjugateGradient,
    Graph,
    knn_graph,
    label_weights,
    laplace_learning,
)

SOLVERS = [Cholesky(), ConjugateGradient(rtol=1e-13)]


@pytest.fixture
def graph(random_graph):
    return random_graph(12, 18)


@pytest.fixture
def known():
    return torch.arange(12) % 3 == 0


@pytest.fixture
def labels():
    return one_hot(torch.arange(12) % 5 % 3, 3).double()


def everyone(graph):
    return torch.arange(graph.num_nodes)


def scores(graph, labels, known, **options):
    return laplace_learning(graph, labels, known, normalization=None, **options)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("per_node", [False, True])
@pytest.mark.parametrize("tau", [0.0, 0.3])
def test_weights_times_labels_are_the_scores(graph, known, labels, tau, per_node, solver):
    tau = tau * torch.linspace(0.5, 1.5, 12, dtype=torch.float64) if per_node else tau
    weights = label_weights(graph, known, everyone(graph), tau=tau, solver=solver)
    expected = scores(graph, labels, known, tau=tau)
    assert_close(weights @ labels, expected, rtol=0, atol=1e-12)
    assert_close(weights.sum(1), expected.sum(1), rtol=0, atol=1e-12)
    assert weights.min() >= 0
    assert not weights[:, ~known].any()


def test_a_labelled_node_has_weight_one_on_itself(graph, known):
    weights = label_weights(graph, known, everyone(graph), tau=0.2)
    assert torch.equal(weights[known], torch.eye(12).double()[known])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), tau=st.sampled_from([0.0, 0.05, 2.0]))
def test_rows_are_shares_of_one(seed, tau):
    generator = torch.Generator().manual_seed(seed)
    graph = knn_graph(torch.randn(15, 2, generator=generator, dtype=torch.float64), 3)
    known = torch.rand(15, generator=generator) < 0.3
    weights = label_weights(graph, known, everyone(graph), tau=tau)
    total = scores(graph, torch.ones(15, 1).double(), known, tau=tau).squeeze(1)
    assert_close(weights.sum(1), total, rtol=0, atol=1e-9)
    assert weights.min() >= 0
    assert weights.max() <= 1 + 1e-12


def test_the_gradient_of_a_score_in_the_labels_is_its_weights(graph, known, labels):
    labels = labels.requires_grad_()
    weights = label_weights(graph, known, everyone(graph), tau=0.1)
    for node in range(12):
        score = scores(graph, labels, known, tau=0.1)[node, 1]
        (gradient,) = torch.autograd.grad(score, labels)
        assert_close(gradient[:, 1], weights[node], rtol=0, atol=1e-12)
        assert not gradient[:, [0, 2]].any()


def test_changing_a_label_moves_scores_by_the_change_times_its_weight(graph, known, labels):
    weights = label_weights(graph, known, everyone(graph))
    before = scores(graph, labels, known)
    for source in known.nonzero().squeeze(1).tolist():
        changed = labels.clone()
        changed[source] += torch.tensor([0.5, -0.3, 2.0]).double()
        moved = scores(graph, changed, known) - before
        expected = weights[:, [source]] * (changed - labels)[source]
        assert_close(moved, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_removing_a_label_and_solving_again_agrees_with_the_weights(graph, known, labels, tau):
    # Were label j its own prediction without it, p_j, nothing would change by freeing j. Hence
    # with j free, all scores are those with y_j replaced by p_j: u - H_j (y_j - p_j).
    weights = label_weights(graph, known, everyone(graph), tau=tau)
    before = scores(graph, labels, known, tau=tau)
    for source in known.nonzero().squeeze(1).tolist():
        without = known.clone()
        without[source] = False
        after = scores(graph, labels, without, tau=tau)
        expected = before - weights[:, [source]] * (labels[source] - after[source])
        assert_close(after, expected, rtol=0, atol=1e-12)


def test_derivatives_in_the_weights_match_finite_differences_twice(graph, known):
    nodes = torch.tensor([1, 3, 7])

    def run(weights, tau):
        return label_weights(graph.with_weights(weights), known, nodes, tau=tau)

    inputs = (
        graph.weights.clone().requires_grad_(),
        torch.full((12,), 0.1, dtype=torch.float64, requires_grad=True),
    )
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_nodes_may_be_asked_in_any_order_and_twice(graph, known):
    table = label_weights(graph, known, everyone(graph))
    nodes = torch.tensor([7, 0, 7, 3, 1], dtype=torch.int32)
    assert_close(label_weights(graph, known, nodes), table[nodes.long()])
    assert label_weights(graph, known, torch.empty(0, dtype=torch.long)).shape == (0, 12)


def test_unreached_nodes_have_rows_of_zeros():
    graph = Graph(torch.tensor([[0, 2], [1, 3]]), torch.ones(2), 4)
    known = torch.tensor([True, False, False, False])
    weights = label_weights(graph, known, torch.arange(4))
    assert weights.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_or_everything_may_be_known(graph, share):
    known = torch.full((12,), bool(share))
    assert_close(label_weights(graph, known, everyone(graph)), share * torch.eye(12).double())


@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradient()], ids=repr)
def test_autocast_changes_nothing(random_graph, known, solver, device):
    graph = random_graph(12, 18, dtype=torch.float32)
    graph = Graph(graph.edges.to(device), graph.weights.to(device), 12)
    arguments = (graph, known.to(device), torch.arange(12, device=device))
    plain = label_weights(*arguments, solver=solver)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(label_weights(*arguments, solver=solver), plain)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (torch.ones(12, dtype=torch.bool), r"got torch.bool .* for a mask, pass mask.nonzero"),
        (torch.tensor([0.5]), "must be a list of node numbers, got torch.float32"),
        (torch.tensor(3), r"must be a list of node numbers, got torch.int64 of shape \(\)"),
        (torch.tensor([0, 12]), "`nodes` must be numbers from 0 to 11, got 0 to 12: count"),
        (torch.tensor([-1]), "`nodes` must be numbers from 0 to 11, got -1 to -1"),
    ],
)
def test_refuses_nodes_that_are_none(graph, known, nodes, message):
    with pytest.raises(ValueError, match=message):
        label_weights(graph, known, nodes)


@pytest.mark.parametrize("tau", [-1.0, float("nan"), torch.ones(3)])
def test_refuses_a_decay_that_is_none(graph, known, tau):
    with pytest.raises(ValueError, match="`tau` must be"):
        label_weights(graph, known, everyone(graph), tau=tau)

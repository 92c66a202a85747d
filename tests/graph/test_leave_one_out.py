"""Leave-one-out scores are those of the solve without the label, for every label at once."""

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
    label_noise,
    laplace_learning,
    leave_one_out,
    leave_one_out_weights,
)

SOLVERS = [Cholesky(), ConjugateGradient(rtol=1e-13)]
each_equation = pytest.mark.parametrize(
    ("tau", "fidelity"),
    [(0.0, None), (0.3, None), (0.0, 0.7), (0.3, 0.7), (0.0, 1e3)],
)


@pytest.fixture
def graph(random_graph):
    return random_graph(12, 18)


@pytest.fixture
def known():
    return torch.arange(12) % 3 == 0


@pytest.fixture
def labels():
    return one_hot(torch.arange(12) % 5 % 3, 3).double()


def solved_without(graph, labels, known, node, **options):
    """What laplace_learning says of a node when it is not labelled."""
    rest = known.clone()
    rest[node] = False
    return laplace_learning(graph, labels, rest, normalization=None, **options)[node]


def by_brute_force(graph, labels, known, **options):
    rows = [solved_without(graph, labels, known, node, **options) for node in range(len(known))]
    return torch.stack(rows)


@each_equation
@pytest.mark.parametrize("solver", SOLVERS, ids=["cholesky", "cg"])
def test_each_row_is_that_of_the_solve_without_the_nodes_label(
    graph, known, labels, tau, fidelity, solver
):
    options = {"tau": tau, "fidelity": fidelity, "solver": solver}
    actual = leave_one_out(graph, labels, known, **options)
    assert_close(actual, by_brute_force(graph, labels, known, **options), rtol=0, atol=1e-11)


@each_equation
@pytest.mark.parametrize("solver", SOLVERS, ids=["cholesky", "cg"])
def test_weights_times_labels_are_the_scores(graph, known, labels, tau, fidelity, solver):
    options = {"tau": tau, "fidelity": fidelity, "solver": solver}
    nodes = known.nonzero().squeeze(1)
    weights = leave_one_out_weights(graph, known, nodes, **options)
    expected = leave_one_out(graph, labels, known, **options)[nodes]
    assert_close(weights @ labels, expected, rtol=0, atol=1e-11)
    assert_close(weights.sum(1), expected.sum(1), rtol=0, atol=1e-11)
    assert weights.min() >= 0
    assert not weights[:, ~known].any()
    assert not weights[torch.arange(len(nodes)), nodes].any()


def test_values_may_differ_from_node_to_node(graph, known, labels):
    options = {
        "tau": torch.linspace(0.1, 0.9, 12).double(),
        "fidelity": torch.linspace(2.0, 0.2, 12).double(),
    }
    actual = leave_one_out(graph, labels, known, **options)
    assert_close(actual, by_brute_force(graph, labels, known, **options), rtol=0, atol=1e-11)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    tau=st.sampled_from([0.0, 0.05, 2.0]),
    fidelity=st.sampled_from([None, 0.1, 5.0]),
    share=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_rows_are_those_without_the_label_on_graphs_in_pieces_too(seed, tau, fidelity, share):
    generator = torch.Generator().manual_seed(seed)
    graph = knn_graph(torch.randn(15, 2, generator=generator, dtype=torch.float64), 2)
    known = torch.rand(15, generator=generator) < share
    labels = one_hot(torch.randint(3, (15,), generator=generator), 3).double()
    options = {"tau": tau, "fidelity": fidelity}
    actual = leave_one_out(graph, labels, known, **options)
    assert_close(actual, by_brute_force(graph, labels, known, **options), rtol=0, atol=1e-7)
    assert actual.min() >= -1e-9
    assert actual.sum(1).max() <= 1 + 1e-9


def test_where_all_are_labelled_the_neighbours_vote(graph, labels):
    known = torch.ones(12, dtype=torch.bool)
    index, weights = graph.to_edge_index()
    adjacency = torch.zeros(12, 12, dtype=torch.float64).index_put(tuple(index), weights)
    expected = adjacency @ labels / (adjacency.sum(1, keepdim=True) + 0.2)
    assert_close(leave_one_out(graph, labels, known, tau=0.2), expected)


def test_one_factor_serves_all_labels(graph, known, labels):
    class Counting(Cholesky):
        factored = 0

        def factor(self, *arguments):
            type(self).factored += 1
            return super().factor(*arguments)

    leave_one_out(graph, labels, known, solver=Counting())
    assert Counting.factored == 1


def test_blocks_of_right_hand_sides_change_nothing(graph, known, labels, monkeypatch):
    expected = leave_one_out(graph, labels, known, tau=0.1)
    table = leave_one_out_weights(graph, known, known.nonzero().squeeze(1), tau=0.1)
    monkeypatch.setattr("weft.graph._leave_one_out._BLOCK", 20)  # two labels at a time
    assert_close(leave_one_out(graph, labels, known, tau=0.1), expected)
    assert_close(leave_one_out_weights(graph, known, known.nonzero().squeeze(1), tau=0.1), table)


@pytest.mark.parametrize("fidelity", [None, 0.7])
def test_derivatives_match_finite_differences_twice(graph, known, labels, fidelity):
    def run(weights, labels, tau, *pull):
        return leave_one_out(
            graph.with_weights(weights), labels, known, tau=tau, fidelity=pull[0] if pull else None
        )

    inputs = [graph.weights, labels, torch.full((12,), 0.1, dtype=torch.float64)]
    inputs += [] if fidelity is None else [torch.full((12,), fidelity, dtype=torch.float64)]
    inputs = tuple(value.clone().requires_grad_() for value in inputs)
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("fidelity", [None, 0.7])
def test_derivatives_of_the_weights_match_finite_differences_twice(graph, known, fidelity):
    def run(weights, tau):
        changed = graph.with_weights(weights)
        return leave_one_out_weights(
            changed, known, torch.tensor([3, 9]), tau=tau, fidelity=fidelity
        )

    inputs = (graph.weights.clone().requires_grad_(), torch.tensor(0.1).double().requires_grad_())
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_a_label_that_stands_alone_is_told_nothing():
    graph = Graph(torch.tensor([[0, 2], [1, 3]]), torch.ones(2), 5)
    known = torch.tensor([True, False, True, True, True])
    labels = one_hot(torch.tensor([0, 0, 1, 0, 1]), 2).float()
    for fidelity in (None, 2.0):
        told = leave_one_out(graph, labels, known, fidelity=fidelity)
        assert_close(told, torch.tensor([[0, 0], [1, 0], [1, 0], [0, 1], [0, 0]]).float())
        weights = leave_one_out_weights(graph, known, torch.tensor([0, 3, 4]), fidelity=fidelity)
        expected = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
        assert_close(weights, expected.float())


@pytest.mark.parametrize("fidelity", [None, 2.0])
def test_episodes_side_by_side_are_each_on_its_own(fidelity, generator):
    features = torch.randn(3, 8, 2, generator=generator, dtype=torch.float64)
    known = torch.arange(24).view(3, 8) % 3 == 0
    labels = one_hot(torch.arange(24).view(3, 8) % 2, 2).double()
    together = leave_one_out(knn_graph(features, 3), labels, known, fidelity=fidelity)
    for one in range(3):
        graph = knn_graph(features[one], 3)
        alone = leave_one_out(graph, labels[one], known[one], fidelity=fidelity)
        assert_close(together[one], alone)


def test_nothing_may_be_known(graph, labels):
    known = torch.zeros(12, dtype=torch.bool)
    for fidelity in (None, 1.0):
        assert not leave_one_out(graph, labels, known, fidelity=fidelity).any()
    empty = torch.empty(0, dtype=torch.long)
    assert leave_one_out_weights(graph, known, empty).shape == (0, 12)


@pytest.mark.parametrize("fidelity", [None, 2.0])
def test_float32_on_each_device_is_near_float64(graph, known, labels, fidelity, device):
    expected = leave_one_out(graph, labels, known, fidelity=fidelity)
    graph = Graph(graph.edges.to(device), graph.weights.float().to(device), 12)
    with torch.autocast(device.type, torch.bfloat16):
        told = leave_one_out(graph, labels.to(device), known.to(device), fidelity=fidelity)
        nodes = torch.tensor([0, 3], device=device)
        weights = leave_one_out_weights(graph, known.to(device), nodes, fidelity=fidelity)
    assert (told.dtype, told.device.type) == (torch.float32, device.type)
    assert_close(told.cpu().double(), expected, rtol=0, atol=1e-5)
    assert_close((weights.cpu().double() @ labels), expected[[0, 3]], rtol=0, atol=1e-5)


def test_noise_is_what_the_other_classes_have():
    predictions = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.5], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    labels = one_hot(torch.tensor([0, 1, 2, 0]), 3).float()
    assert_close(label_noise(predictions, labels), torch.tensor([0.3, 0.6, 0.0, 1.0]))


def test_a_flipped_label_has_the_largest_noise(generator):
    classes = torch.arange(90) % 3
    features = torch.randn(90, 4, generator=generator) + 4 * one_hot(classes, 4)
    flipped = classes.clone()
    flipped[[5, 40, 77]] = (flipped[[5, 40, 77]] + 1) % 3
    labels = one_hot(flipped, 3).float()
    known = torch.ones(90, dtype=torch.bool)
    for fidelity in (None, 1.0):
        told = leave_one_out(knn_graph(features, 8), labels, known, fidelity=fidelity)
        assert set(label_noise(told, labels).topk(3).indices.tolist()) == {5, 40, 77}


def test_refuses_to_leave_out_what_is_not_there(graph, known):
    with pytest.raises(ValueError, match="got node 1 without one: ask `label_weights`"):
        leave_one_out_weights(graph, known, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="`nodes` must be numbers from 0 to 11, got 12 to 12"):
        leave_one_out_weights(graph, known, torch.tensor([12]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.ones(11, 3)}, ValueError, "`labels` must have one row for each of the"),
        ({"known": torch.ones(12)}, TypeError, "`known` must be a boolean mask"),
        ({"tau": -1.0}, ValueError, "`tau` must be finite and not negative"),
        ({"fidelity": -1.0}, ValueError, "`fidelity` must be finite and not negative"),
        ({"fidelity": 0.0}, ValueError, "`fidelity` must be positive where known, got 0: mark"),
    ],
)
def test_refuses_what_is_no_problem(graph, known, labels, change, error, message):
    arguments = {"labels": labels, "known": known, **change}
    with pytest.raises(error, match=message):
        leave_one_out(graph, **arguments)

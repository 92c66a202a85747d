"""Posteriors are those of a dense solve; acquisition functions say what one more label changes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    Graph,
    LabelPosterior,
    choose_local_maxima,
    choose_sequentially,
    choose_top,
    distance_to_label,
    entropy,
    knn_graph,
    laplace_learning,
    least_confidence,
    model_change,
    model_change_variance,
    sigma_optimality,
    smallest_eigenvectors,
    smallest_margin,
    variance_optimality,
)

N = 14
UNCERTAINTIES = [smallest_margin, least_confidence, entropy, distance_to_label]
each_equation = pytest.mark.parametrize(
    ("tau", "fidelity"), [(0.0, None), (0.2, None), (0.0, 3.0), (0.2, 3.0)]
)


@pytest.fixture
def graph(random_graph):
    return random_graph(N, 20)


@pytest.fixture
def known():
    return torch.arange(N) % 5 == 0


@pytest.fixture
def labels():
    return one_hot(torch.arange(N) % 3, 3).double()


def dense_covariance(graph, known, tau, fidelity):
    """The inverse of the system that the labels leave; zero rows where labels are exact."""
    matrix = graph.laplacian() + tau * torch.eye(N).double()
    if fidelity is not None:
        return torch.linalg.inv(matrix + torch.diag(fidelity * known.double()))
    free = (~known).nonzero().squeeze(1)
    covariance = torch.zeros(N, N, dtype=torch.float64)
    covariance[free[:, None], free] = torch.linalg.inv(matrix[free[:, None], free])
    return covariance


def solved(graph, labels, known, tau, fidelity):
    return laplace_learning(graph, labels, known, tau=tau, fidelity=fidelity, normalization=None)


def with_one_more(labels, known, node, label):
    labels, known = labels.clone(), known.clone()
    labels[node], known[node] = label, True
    return labels, known


@each_equation
def test_mean_and_covariance_are_those_of_a_dense_solve(graph, labels, known, tau, fidelity):
    posterior = LabelPosterior.exact(graph, labels, known, tau=tau, fidelity=fidelity)
    expected = dense_covariance(graph, known, tau, fidelity)
    assert_close(posterior.scores, solved(graph, labels, known, tau, fidelity))
    assert_close(posterior.inner, expected)
    assert_close(posterior.variance(), expected.diagonal())
    assert_close(posterior.column_norms(), expected.norm(dim=0))
    assert_close(posterior.column_sums(), expected.sum(0))


@each_equation
def test_labels_added_one_by_one_give_what_solving_again_gives(graph, labels, known, tau, fidelity):
    posterior = LabelPosterior.exact(graph, labels, known, tau=tau, fidelity=fidelity)
    for node in (1, 7, 12):
        posterior = posterior.with_label(node, labels[node])
        labels, known = with_one_more(labels, known, node, labels[node])
        again = LabelPosterior.exact(graph, labels, known, tau=tau, fidelity=fidelity)
        assert_close(posterior.scores, again.scores, rtol=0, atol=1e-12)
        assert_close(posterior.inner, again.inner, rtol=0, atol=1e-12)
        assert torch.equal(posterior.known, known)


def test_at_full_rank_the_low_rank_posterior_is_the_exact_one(graph, labels, known):
    exact = LabelPosterior.exact(graph, labels, known, tau=0.2, fidelity=3.0)
    low = LabelPosterior.low_rank(graph, labels, known, N, tau=0.2, fidelity=3.0)
    for posteriors in (
        (exact, low),
        (exact.with_label(3, labels[3]), low.with_label(3, labels[3])),
    ):
        one, other = posteriors
        assert_close(other.scores, one.scores)
        assert_close(other.basis @ other.inner @ other.basis.T, one.inner)
        for acquisition in (variance_optimality, sigma_optimality, model_change):
            assert_close(acquisition(other), acquisition(one))


def test_a_low_rank_posterior_is_the_exact_one_on_the_smoothest_functions(graph, labels, known):
    posterior = LabelPosterior.low_rank(graph, labels, known, 5, tau=0.2, fidelity=3.0)
    values, vectors = torch.linalg.eigh(graph.laplacian())
    basis = vectors[:, :5]
    precision = torch.diag(values[:5] + 0.2) + 3 * basis[known].T @ basis[known]
    covariance = basis @ torch.linalg.inv(precision) @ basis.T
    assert_close(posterior.scores, 3 * covariance[:, known] @ labels[known])
    assert_close(posterior.variance(), covariance.diagonal())
    assert_close(posterior.column_norms(), covariance.norm(dim=0))
    assert_close(posterior.column_sums(), covariance.sum(0))
    added = posterior.with_label(3, labels[3])
    labels, known = with_one_more(labels, known, 3, labels[3])
    again = LabelPosterior.low_rank(graph, labels, known, 5, tau=0.2, fidelity=3.0)
    assert_close(added.scores, again.scores)
    assert_close(added.variance(), again.variance())


@pytest.mark.parametrize("rank", [1, 5, 40, 80])
def test_eigenvectors_are_those_of_a_dense_decomposition(random_graph, rank):
    graph = random_graph(80, 150)
    values, vectors = smallest_eigenvectors(graph, rank)
    expected = torch.linalg.eigvalsh(graph.laplacian())
    assert_close(values, expected[:rank], rtol=1e-8, atol=1e-10)
    assert_close(vectors.T @ vectors, torch.eye(rank).double())
    assert_close(graph.laplacian() @ vectors, vectors * values, rtol=0, atol=1e-7)


@each_equation
def test_variance_optimality_is_the_trace_that_a_label_takes_away(
    graph, labels, known, tau, fidelity
):
    values = variance_optimality(
        LabelPosterior.exact(graph, labels, known, tau=tau, fidelity=fidelity)
    )
    before = dense_covariance(graph, known, tau, fidelity)
    for node in (~known).nonzero().squeeze(1).tolist():
        _, more = with_one_more(labels, known, node, labels[node])
        after = dense_covariance(graph, more, tau, fidelity)
        assert_close(values[node], before.trace() - after.trace())


@each_equation
def test_sigma_optimality_is_the_sum_that_a_label_takes_away(graph, labels, known, tau, fidelity):
    values = sigma_optimality(
        LabelPosterior.exact(graph, labels, known, tau=tau, fidelity=fidelity)
    )
    before = dense_covariance(graph, known, tau, fidelity)
    for node in (~known).nonzero().squeeze(1).tolist():
        _, more = with_one_more(labels, known, node, labels[node])
        assert_close(values[node], (before - dense_covariance(graph, more, tau, fidelity)).sum())


@each_equation
def test_model_change_is_the_least_change_of_the_scores_by_a_label(
    graph, labels, known, tau, fidelity
):
    posterior = LabelPosterior.exact(graph, labels, known, tau=tau, fidelity=fidelity)
    values = model_change(posterior)
    for node in (~known).nonzero().squeeze(1).tolist():
        changes = [
            (solved(graph, *with_one_more(labels, known, node, label), tau, fidelity)
             - posterior.scores).norm()
            for label in torch.eye(3).double()
        ]  # fmt: skip
        assert_close(values[node], torch.stack(changes).min())
        assert_close(values[node], changes[posterior.scores[node].argmax()])


def test_a_product_with_an_uncertainty_is_one(graph, labels, known):
    posterior = LabelPosterior.exact(graph, labels, known)
    change = posterior.column_norms()[~known] / posterior.variance()[~known]
    for uncertainty in UNCERTAINTIES:
        unsure = uncertainty(posterior.scores)[~known]
        assert_close(model_change(posterior, uncertainty)[~known], change * unsure)
        expected = variance_optimality(posterior)[~known] * unsure
        assert_close(model_change_variance(posterior, uncertainty)[~known], expected)


def test_uncertainties_have_their_closed_forms():
    scores = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.4, 0.4, 0.0], [0.0, 0.0, 0.0]])
    assert_close(smallest_margin(scores), torch.tensor([0.8, 0.0, 1.0, 1.0]))
    assert_close(least_confidence(scores), torch.tensor([0.5, 0.0, 0.6, 1.0]))
    known = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    partly = -sum(p * math.log(p) for p in (0.4, 0.4, 0.2))
    assert_close(entropy(scores), torch.tensor([known, 0.0, partly, 0.0]))
    assert_close(distance_to_label(scores), torch.tensor([0.38, 0.0, 0.52, 1.0]).sqrt())


@pytest.mark.parametrize("uncertainty", UNCERTAINTIES)
def test_derivatives_of_uncertainties_match_finite_differences(uncertainty, generator):
    scores = 0.3 * torch.rand(4, 3, generator=generator, dtype=torch.float64)
    assert gradcheck(uncertainty, scores.requires_grad_())
    assert gradgradcheck(uncertainty, scores.requires_grad_())


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), tau=st.sampled_from([0.01, 1.0]))
def test_a_label_lowers_every_variance_and_nothing_is_negative(seed, tau):
    generator = torch.Generator().manual_seed(seed)
    graph = knn_graph(torch.randn(N, 2, generator=generator, dtype=torch.float64), 3)
    known = torch.rand(N, generator=generator) < 0.3
    labels = one_hot(torch.randint(3, (N,), generator=generator), 3).double()
    posterior = LabelPosterior.exact(graph, labels, known, tau=tau)
    for acquisition in (variance_optimality, sigma_optimality, model_change, model_change_variance):
        assert acquisition(posterior).min() >= 0
        assert not acquisition(posterior)[known].any()
    if not known.all():
        node = int((~known).nonzero()[0])
        after = posterior.with_label(node, labels[node])
        assert (after.variance() <= posterior.variance() + 1e-12).all()
        assert after.variance()[node] <= 1e-12


def test_the_top_has_the_largest_candidates_and_ties_go_to_the_lower_number():
    values = torch.tensor([3.0, 5.0, 3.0, 9.0, 1.0])
    candidates = torch.tensor([True, True, True, False, True])
    assert choose_top(values, candidates, 3).tolist() == [1, 0, 2]
    assert choose_top(values, candidates, 9).tolist() == [1, 0, 2, 4]
    assert choose_top(values, candidates, 0).tolist() == []


def test_local_maxima_are_no_neighbours_and_none_has_a_larger_one():
    path = Graph(torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]), torch.ones(5), 6)
    values = torch.tensor([1.0, 4.0, 3.0, 3.5, 3.5, 0.0])
    every = torch.ones(6, dtype=torch.bool)
    assert choose_local_maxima(path, values, every, 6).tolist() == [1, 3]  # a tie: the lower number
    assert choose_local_maxima(path, values, every, 1).tolist() == [1]
    without = every.clone()
    without[1] = False  # a node that cannot be asked hides none
    assert choose_local_maxima(path, values, without, 6).tolist() == [3, 0]
    loose = path.with_weights(torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]))
    assert choose_local_maxima(loose, values, every, 6).tolist() == [1, 3, 4]


def test_a_look_ahead_chooses_what_asking_one_at_a_time_would(graph, labels, known):
    posterior = LabelPosterior.exact(graph, labels, known)
    for acquisition in (variance_optimality, sigma_optimality):
        chosen = choose_sequentially(posterior, acquisition, ~known, 4)
        step, left = posterior, ~known
        for node in chosen.tolist():
            assert node == int(choose_top(acquisition(step), left, 1))
            left = left & (torch.arange(N) != node)
            step = step.with_label(node, labels[node])  # whatever the label
    assert len(choose_sequentially(posterior, model_change, ~known, 99)) == int((~known).sum())


def test_a_look_ahead_does_not_ask_twins_twice():
    # Two pairs of twins far apart: once one twin is known, the other pair tells more.
    edges = torch.tensor([[0, 0, 1, 2], [1, 4, 4, 3]])
    weights = torch.tensor([100.0, 1.0, 1.0, 100.0]).double()
    graph = Graph.from_edge_index(
        torch.cat([edges, torch.tensor([[2, 3], [4, 4]])], 1),
        torch.cat([weights, torch.tensor([1.1, 1.1]).double()]),
    )
    known = torch.arange(5) == 4
    posterior = LabelPosterior.exact(graph, torch.ones(5, 1).double(), known)
    top = choose_top(variance_optimality(posterior), ~known, 2).tolist()
    ahead = choose_sequentially(posterior, variance_optimality, ~known, 2).tolist()
    assert set(top) == {0, 1}
    assert len({0, 1} & set(ahead)) == 1


def test_float32_on_each_device_is_near_float64(graph, labels, known, device):
    expected = LabelPosterior.exact(graph, labels, known).with_label(3, labels[3])
    single = Graph(graph.edges.to(device), graph.weights.float().to(device), N)
    posterior = LabelPosterior.exact(single, labels.to(device), known.to(device))
    posterior = posterior.with_label(3, labels[3])
    assert (posterior.inner.dtype, posterior.inner.device.type) == (torch.float32, device.type)
    assert_close(posterior.scores.cpu().double(), expected.scores, rtol=0, atol=1e-5)
    assert_close(posterior.inner.cpu().double(), expected.inner, rtol=0, atol=1e-5)
    low = LabelPosterior.low_rank(
        single, labels.to(device), known.to(device), 5, tau=0.1, fidelity=1.0
    )
    assert (low.basis.dtype, low.basis.device.type) == (torch.float32, device.type)


def test_refuses_a_component_of_infinite_variance(labels):
    graph = Graph(torch.tensor([[0, 2], [1, 3]]), torch.ones(2), 4)
    known = torch.arange(4) < 1
    with pytest.raises(ValueError, match="got none at node 2: its variance would be inf"):
        LabelPosterior.exact(graph, labels[:4], known)
    assert LabelPosterior.exact(graph, labels[:4], known, tau=0.1).variance()[2] > 1


def test_refuses_a_second_exact_label(graph, labels, known):
    posterior = LabelPosterior.exact(graph, labels, known)
    with pytest.raises(ValueError, match="`node` must be without label, got 5, whose label is ex"):
        posterior.with_label(5, labels[5])
    LabelPosterior.exact(graph, labels, known, fidelity=1.0).with_label(5, labels[5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 0.0}, "`tau` must be positive for a low-rank posterior, got 0.0"),
        ({"fidelity": 0.0}, "`fidelity` must be positive and finite, got 0.0: None keeps labels"),
        ({"rank": 0}, "`rank` must be from 1 to the number of nodes, 14, got 0"),
        ({"rank": 15}, "`rank` must be from 1 to the number of nodes, 14, got 15"),
        ({"labels": torch.ones(1, N, 3)}, r"`labels` must have shape \(n, c\), got \(1, 14, 3\)"),
    ],
)
def test_refuses_what_has_no_posterior(graph, labels, known, change, message):
    arguments = {"labels": labels, "known": known, "rank": 3, "tau": 0.1, "fidelity": 1.0, **change}
    if arguments["labels"].ndim == 3:
        arguments["known"] = known[None]
    with pytest.raises(ValueError, match=message):
        LabelPosterior.low_rank(graph, **arguments)


def test_refuses_candidates_that_are_none(graph, known):
    with pytest.raises(TypeError, match="`candidates` must be a boolean mask"):
        choose_top(torch.ones(N), torch.ones(N), 1)
    with pytest.raises(ValueError, match="`count` must not be negative, got -1"):
        choose_local_maxima(graph, torch.ones(N), known, -1)

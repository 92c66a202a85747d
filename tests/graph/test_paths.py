"""The nearest label is that of the shortest path; sparse propagation approaches a minimal cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    Constant,
    Graph,
    NearestLabel,
    PLaplace,
    SparsePropagation,
    gaussian_length,
    knn_graph,
)


def case(seed, num_nodes=15):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_nodes, 2, generator=generator, dtype=torch.float64)
    labels = one_hot(torch.arange(num_nodes) % 3, 3).double()
    return points, labels, torch.randn(num_nodes, generator=generator).argsort() < 4


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_labels_are_those_of_floyd_and_warshall(seed):
    points, labels, known = case(seed)
    graph = knn_graph(points, 3)
    i, j = graph.edges
    distance = torch.full((15, 15), torch.inf, dtype=torch.float64).fill_diagonal_(0)
    distance[i, j] = distance[j, i] = gaussian_length(graph.weights)
    for k in range(15):
        distance = torch.minimum(distance, distance[:, k, None] + distance[k])
    to_label, nearest = distance[:, known].min(1)
    expected = labels[known][nearest] * to_label.isfinite()[:, None]
    assert torch.equal(NearestLabel()(graph, labels, known), expected)


def test_the_gaussian_length_is_the_scaled_distance():
    points, _, _ = case(0)
    graph = knn_graph(points, 4, bandwidth=Constant(2.0))
    i, j = graph.edges
    assert_close(gaussian_length(graph.weights), (points[i] - points[j]).norm(dim=1))


def test_coincident_points_are_at_no_distance_and_weightless_edges_lead_nowhere():
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    graph = Graph(edges, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), 4)
    labels, known = torch.eye(4).double(), torch.arange(4) == 0
    scores = NearestLabel()(graph, labels, known)
    assert_close(scores, torch.tensor([[1.0, 0, 0, 0]] * 3 + [[0.0] * 4]).double())


def test_another_length_makes_other_paths():
    # Straight, one edge of weight 0.1; around, two of weight 0.3.
    edges = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
    graph = Graph(edges, torch.tensor([0.3, 0.1, 0.3, 0.9]).double(), 4)
    labels, known = torch.eye(4).double(), torch.tensor([False, True, True, False])
    by_length = {
        torch.reciprocal: 1,  # 3.3 to node 1, 10 to node 2
        torch.clone: 2,  # 0.3 to node 1, 0.1 to node 2
    }
    for length, nearest in by_length.items():
        assert NearestLabel(length)(graph, labels, known)[0].argmax() == nearest


def test_refuses_negative_lengths():
    points, labels, known = case(1)
    with pytest.raises(ValueError, match="`length` must map weights to lengths that are not"):
        NearestLabel(torch.log)(knn_graph(points, 3), labels, known)


def test_sparse_propagation_approaches_the_least_total_variation():
    points, labels, known = case(2)
    graph = knn_graph(points, 4)
    i, j = graph.edges

    def variation(scores):
        return (graph.weights[:, None] * (scores[i] - scores[j]).abs()).sum()

    least = variation(PLaplace(1.02, floor=1e-5)(graph, labels, known))
    early, late = (SparsePropagation(steps)(graph, labels, known) for steps in (20, 3000))
    assert abs(variation(late) - least) < 0.05 * least
    assert abs(variation(late) - least) < abs(variation(early) - least)
    assert torch.equal(late[known], labels[known])


def test_sparse_propagation_refuses_no_steps():
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        SparsePropagation(0)

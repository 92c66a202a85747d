"""Edges between near inputs beside those between near features: head, classifier, contexts."""

import pytest
import torch
from torch import nn

from weft.graph import AnchorGraph, Graph, knn_graph, laplace_learning
from weft.heads import Batches, GraphClassifier, GraphHead, Whole, predict


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


LABELS = torch.arange(30) % 3
LABELS[12:] = -1


def test_adding_graphs_adds_their_laplacians():
    first, second = knn_graph(numbers(20, 3), 4), knn_graph(numbers(20, 5, seed=1), 3)
    both = first + second
    torch.testing.assert_close(both.laplacian(), first.laplacian() + second.laplacian())
    assert both.edges.shape[1] < first.edges.shape[1] + second.edges.shape[1]  # they share some


def test_graphs_on_other_nodes_are_refused():
    with pytest.raises(ValueError, match="same nodes to be added, got 20 in 1 and 10 in 1"):
        knn_graph(numbers(20, 3), 4) + knn_graph(numbers(10, 3), 4)


def test_a_sum_of_graphs_passes_gradients_to_both():
    def scores(x, y):
        graph = knn_graph(x, 4) + knn_graph(y, 3)
        labels = torch.eye(3, dtype=x.dtype)[torch.arange(12) % 3]
        return laplace_learning(graph, labels, torch.arange(12) < 6, normalization=None)

    inputs = numbers(12, 3).requires_grad_(), numbers(12, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(scores, inputs)


def test_the_head_solves_on_the_sum_of_both_graphs():
    features, inputs = numbers(30, 4), numbers(30, 2, 3, seed=1)
    head = GraphHead(3, k=5, input_edges=0.5)
    near = knn_graph(inputs.flatten(1), 5)
    graph = knn_graph(head.prepare(features), 5) + near.with_weights(0.5 * near.weights)
    targets = torch.eye(3, dtype=torch.float64)[LABELS.clamp_min(0)]
    expected = laplace_learning(graph, targets, LABELS >= 0, tau=head.tau)
    torch.testing.assert_close(head.scores(features, LABELS, inputs=inputs), expected)


def test_a_head_with_input_edges_asks_for_the_inputs():
    head = GraphHead(3, k=5, input_edges=0.5)
    with pytest.raises(ValueError, match=r"`inputs` are needed with input_edges = 0\.5, got None"):
        head(numbers(30, 4), LABELS)
    with pytest.raises(ValueError, match="`input_edges` must not be negative, got -1"):
        GraphHead(3, input_edges=-1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double()
    return GraphClassifier(
        backbone, GraphHead(3, k=5, input_edges=0.7), numbers(30, 2, 3, seed=1), LABELS
    )


def test_the_classifier_passes_its_inputs_on_in_every_context(model):
    asked = numbers(8, 2, 3, seed=2)
    whole = predict(model, asked, Whole())
    torch.testing.assert_close(whole.probabilities, model.eval()(asked).softmax(1))
    torch.testing.assert_close(predict(model, asked, Batches(8)).probabilities, whole.probabilities)
    model.head.input_edges = 0.0
    assert not torch.allclose(predict(model, asked, Whole()).probabilities, whole.probabilities)


def test_an_exact_query_equals_solving_with_the_query_added_to_both_graphs(model):
    model.eval()
    asked = numbers(4, 2, 3, seed=2)
    frozen = model.freeze()
    queries = model.head.prepare(model.encode(asked))
    links = frozen.link(queries, asked.flatten(1))
    assert links.anchors.shape == (4, 10)
    scores = frozen.query(queries, asked.flatten(1), exact=True)
    targets = torch.cat([frozen.labels, frozen.labels.new_zeros(1, 3)])
    known = torch.cat([frozen.known, torch.tensor([False])])
    for row in range(4):
        new = torch.stack([links.anchors[row], torch.full((10,), 30)])
        # An anchor near in both spaces hangs on two edges: as two graphs, their weights add.
        graph = Graph.from_edge_index(frozen.graph.edges, frozen.graph.weights, num_nodes=31)
        for half in (slice(0, 5), slice(5, 10)):
            graph = graph + Graph.from_edge_index(
                new[:, half], links.weights[row, half], num_nodes=31
            )
        full = laplace_learning(graph, targets, known, tau=model.head.tau, normalization=None)
        torch.testing.assert_close(scores[row], full[30], rtol=1e-9, atol=1e-10)
    weights = model.explain(asked, alone=True)
    torch.testing.assert_close(weights @ frozen.labels, scores)


def test_explanations_sum_to_one_minus_the_abstention(model):
    asked = numbers(8, 2, 3, seed=2)
    missing = predict(model, asked, Whole()).abstention
    torch.testing.assert_close(model.explain(asked).sum(1), 1 - missing, atol=1e-5, rtol=0)


def test_a_frozen_graph_with_inputs_asks_for_them_and_one_without_refuses_them(model):
    queries, inputs = numbers(2, 4), numbers(2, 6)
    with pytest.raises(ValueError, match="exactly where they were with the anchors, got 0"):
        model.freeze().query(queries)
    plain = AnchorGraph.build(numbers(30, 4), torch.eye(3).double()[LABELS], LABELS >= 0, 5)
    with pytest.raises(ValueError, match="exactly where they were with the anchors, got 1"):
        plain.query(queries, inputs)

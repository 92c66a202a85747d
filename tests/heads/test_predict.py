import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from weft.graph import Constant, Gaussian, Graph, SelfTuned, Tapered, knn_graph, laplace_learning
from weft.heads import (
    Batches,
    GraphClassifier,
    GraphHead,
    Queries,
    Whole,
    choose_anchors,
    predict,
)

CONTEXTS = [Whole(), Batches(7), Queries(), Queries(exact=True)]


@pytest.fixture
def samples():
    """Forty points in three overlapping groups, and their class numbers."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 3
    return torch.eye(3, 6)[labels] + 0.3 * torch.randn(40, 6, generator=generator), labels


def make(samples, **settings):
    """A small classifier with 18 anchors, six of them unlabelled."""
    inputs, labels = samples
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    anchor_labels = torch.where(torch.arange(18) // 3 % 3 == 2, -1, labels[:18])
    return GraphClassifier(backbone, GraphHead(3, k=5, **settings), inputs[:18], anchor_labels)


@pytest.fixture
def model(samples):
    return make(samples)


# The three contexts


def test_the_whole_set_is_one_call_in_evaluation_mode(model, samples):
    queries = samples[0][18:]
    prediction = predict(model, queries, Whole(), batch_size=11)
    torch.testing.assert_close(prediction.probabilities, model.eval()(queries).softmax(1))
    assert prediction.context == Whole()


def test_batches_are_calls_in_the_order_given(model, samples):
    queries = samples[0][18:]
    prediction = predict(model, queries, Batches(7))
    expected = torch.cat([model.eval()(part).softmax(1) for part in queries.split(7)])
    torch.testing.assert_close(prediction.probabilities, expected)
    assert prediction.context.size == 7
    one_batch = predict(model, queries, Batches(22)).probabilities
    torch.testing.assert_close(one_batch, predict(model, queries, Whole()).probabilities)


@pytest.mark.parametrize("exact", [True, False])
def test_a_query_does_not_depend_on_the_others(model, samples, exact):
    together = predict(model, samples[0], Queries(exact))
    for row in (0, 20, 39):
        alone = predict(model, samples[0][row : row + 1], Queries(exact))
        torch.testing.assert_close(alone.probabilities[0], together.probabilities[row])
        torch.testing.assert_close(alone.abstention[0], together.abstention[row])


def with_query_added(model, query, kernel, bandwidth):
    """The scores of one query by a float64 solve of the anchors' graph with one node more."""
    head = model.head
    features = head.prepare(model.anchor_features()).double()
    query = head.prepare(query[None]).double()[0]
    graph = knn_graph(features, head.k, kernel=kernel, bandwidth=bandwidth)
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    kth = distances.topk(head.k, largest=False).values[:, -1].square()
    to_query = (features - query).square().sum(1)
    nearest = to_query.topk(head.k, largest=False).indices.sort().values
    squared, own = to_query[nearest], to_query[nearest].max()
    scaled = squared / (bandwidth(own[None]) * bandwidth(kth[nearest])).sqrt()
    weights = kernel(scaled, squared / torch.maximum(own, kth[nearest]))
    count = len(features)
    links = torch.stack([nearest, torch.full_like(nearest, count)])
    graph = Graph.from_edge_index(
        torch.cat([graph.edges, links], 1), torch.cat([graph.weights, weights]), num_nodes=count + 1
    )
    known = torch.cat([model.anchor_labels >= 0, torch.tensor([False])])
    labels = F.one_hot(torch.cat([model.anchor_labels, torch.tensor([0])]).clamp_min(0), 3)
    return laplace_learning(graph, labels.double(), known, tau=head.tau, normalization=None)[-1]


@pytest.mark.parametrize("tau", [0.0, 0.05])
@pytest.mark.parametrize(
    "bandwidth", [SelfTuned(), Constant(0.8)], ids=lambda it: type(it).__name__
)
@pytest.mark.parametrize("kernel", [Gaussian(), Tapered()], ids=lambda it: type(it).__name__)
def test_an_exact_query_equals_solving_with_the_query_added(samples, kernel, bandwidth, tau):
    model = make(samples, kernel=kernel, bandwidth=bandwidth, tau=tau).eval()  # in float32
    queries = model.encode(samples[0][18:]).detach()
    scores = model.freeze().query(model.head.prepare(queries), exact=True)
    for row, query in enumerate(queries):
        expected = with_query_added(model, query, kernel, bandwidth)
        torch.testing.assert_close(scores[row].double(), expected, atol=1e-6, rtol=0)


def test_the_two_forms_of_a_query_agree_where_all_anchors_are_labelled(model, samples):
    inputs, labels = samples
    interpolated, exact = (
        predict(model, inputs, Queries(it)).probabilities for it in (False, True)
    )
    assert (interpolated - exact).abs().max() > 1e-4  # the query pulls on unlabelled anchors
    model.set_anchors(inputs[:18], labels[:18])
    interpolated, exact = (
        predict(model, inputs, Queries(it)).probabilities for it in (False, True)
    )
    torch.testing.assert_close(interpolated, exact)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_probabilities_sum_to_one_and_abstention_is_what_was_divided_out(samples, context):
    prediction = predict(make(samples, tau=0.2), samples[0], context)
    total = prediction.probabilities.sum(1)
    torch.testing.assert_close(total, torch.ones(40))
    assert (prediction.abstention > 0.01).any()
    assert (prediction.abstention <= 1).all()
    none = predict(make(samples, tau=0.0), samples[0], context).abstention
    torch.testing.assert_close(none, torch.zeros(40), atol=4e-6, rtol=0)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_far_from_every_anchor_a_query_abstains(samples, context):
    model = make(samples, normalize=False, bandwidth=Constant(1.0))
    far = predict(model, samples[0][18:20] + 1e4, context)
    near = predict(model, samples[0][18:20], context)
    assert (far.abstention > 0.999).all()
    assert (near.abstention < 0.5).all()
    torch.testing.assert_close(far.probabilities, torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_no_inputs_give_no_rows(model, samples, context):
    prediction = predict(model, samples[0][:0], context)
    assert prediction.probabilities.shape == (0, 3)
    assert prediction.abstention.shape == (0,)


@pytest.mark.parametrize("size", [0, -1])
def test_rejects_batches_of_nothing(size):
    with pytest.raises(ValueError, match=f"`size` must be at least 1, got {size}"):
        Batches(size)


# Any model, in any mode


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_a_model_without_graph_gives_the_same_in_every_context(samples, context):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(6), nn.Linear(6, 3))
    prediction = predict(model, samples[0], context, batch_size=9)
    torch.testing.assert_close(prediction.probabilities, model.eval()(samples[0]).softmax(1))
    assert (prediction.abstention == 0).all()
    assert not prediction.probabilities.requires_grad


def test_a_model_in_float64_predicts_in_float64(samples):
    model = nn.Linear(6, 3).double()
    assert predict(model, samples[0].double(), Whole()).probabilities.dtype == torch.float64


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_layers_frozen_on_purpose_stay_frozen_after_predict(model, samples, context):
    model.train()
    model.backbone[1].eval()
    predict(model, samples[0], context)
    assert [part.training for part in model.backbone] == [True, False, True, True]
    assert model.training


def test_modes_are_restored_when_predict_fails(model, samples):
    model.train()
    model.backbone[1].eval()
    with pytest.raises(RuntimeError):
        predict(model, samples[0][:, :2], Whole())
    assert [part.training for part in model.backbone] == [True, False, True, True]


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_predicting_in_between_does_not_change_training(samples, context):
    def train(predicts):
        model = make(samples).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            if predicts:
                predict(model, samples[0], context)
            optimizer.zero_grad()
            F.nll_loss(model(samples[0][18:]), samples[1][18:]).backward()
            optimizer.step()
        return model.state_dict()

    torch.testing.assert_close(train(predicts=True), train(predicts=False))


def test_rejects_a_graph_classifier_hidden_in_another_module(model, samples):
    with pytest.raises(TypeError, match=r"must be the GraphClassifier itself, got a Sequential"):
        predict(nn.Sequential(nn.Identity(), model), samples[0], Whole())


# On real data


def test_a_trained_graph_head_reads_digits_from_fifty_labels():
    """Fifty anchors, fifty more labels for the loss; the most frequent class is 10 % of the set."""
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(0)
    chosen = choose_anchors(labels, 10, generator=generator)
    within = torch.arange(100) % 10
    anchors, others = chosen[within < 5], chosen[within >= 5]
    test = torch.ones(len(labels), dtype=torch.bool)
    test[chosen] = False
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    model = GraphClassifier(backbone, GraphHead(10, k=10), inputs[anchors], labels[anchors])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    accuracy = {}
    for step in range(41):
        if step in (0, 40):
            for context in (Whole(), Batches(), Queries()):
                probabilities = predict(model, inputs[test], context).probabilities
                right = probabilities.argmax(1) == labels[test]
                accuracy[step, context.name] = right.float().mean().item()
        optimizer.zero_grad()
        F.nll_loss(model(inputs[others]), labels[others]).backward()
        optimizer.step()
    for name in ("whole", "batch", "query"):
        assert accuracy[40, name] > 0.8
        assert accuracy[40, name] > accuracy[0, name]  # training the features helps

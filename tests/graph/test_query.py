"""A query's exact answer is that of the solve with the query added; the other form is near it."""

import pytest
import torch
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    AnchorGraph,
    Cholesky,
    ConjugateGradient,
    Constant,
    FaissNeighbors,
    Gaussian,
    Graph,
    SelfTuned,
    Tapered,
    knn_graph,
    laplace_learning,
)

SOLVERS = [Cholesky(), ConjugateGradient(rtol=1e-12)]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=["cholesky", "cg"])


def points(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def anchors(num_known=10, num_anchors=40, dtype=torch.float64):
    """Features, labels and the mask of known anchors."""
    labels = one_hot(torch.arange(num_anchors) % 3, 3).to(dtype)
    return points(0, num_anchors, 2, dtype=dtype), labels, torch.arange(num_anchors) < num_known


def with_query(anchor_graph, links, row):
    """The anchors' graph with one query added as its last node."""
    index, weights = anchor_graph.graph.to_edge_index()
    num_anchors = anchor_graph.graph.num_nodes
    near, new = links.anchors[row], links.weights[row]
    index = torch.cat([index, torch.stack([near, torch.full_like(near, num_anchors)])], 1)
    return Graph.from_edge_index(index, torch.cat([weights, new]), num_nodes=num_anchors + 1)


def solved_with_query(anchor_graph, queries, labels, known, tau):
    links = anchor_graph.link(queries)
    labels = torch.cat([labels, labels.new_zeros(1, labels.shape[1])])
    known = torch.cat([known, torch.tensor([False])])
    scores = [
        laplace_learning(
            with_query(anchor_graph, links, row), labels, known,
            tau=tau, normalization=None, solver=Cholesky(),
        )[-1]
        for row in range(len(queries))
    ]  # fmt: skip
    return torch.stack(scores)


@each_solver
@pytest.mark.parametrize("tau", [0.0, 0.2])
@pytest.mark.parametrize("num_known", [1, 10, 39, 40])
@pytest.mark.parametrize(
    ("kernel", "bandwidth"),
    [(Gaussian(), SelfTuned()), (Tapered(), SelfTuned()), (Gaussian(), Constant(1.0))],
    ids=["gaussian", "tapered", "constant"],
)
def test_the_exact_answer_is_that_of_the_solve_with_the_query_added(
    kernel, bandwidth, num_known, tau, solver
):
    features, labels, known = anchors(num_known)
    graph = AnchorGraph.build(
        features, labels, known, 6, kernel=kernel, bandwidth=bandwidth, tau=tau, solver=solver
    )
    queries = 1.5 * points(1, 9, 2)
    expected = solved_with_query(graph, queries, labels, known, tau)
    assert_close(graph.query(queries, exact=True), expected, rtol=0, atol=1e-10)


@each_solver
@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_label_weights_reproduce_the_exact_answer(tau, solver):
    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6, tau=tau, solver=solver)
    queries = points(2, 7, 2)
    weights, exact = graph.label_weights(queries), graph.query(queries, exact=True)
    assert weights.shape == (7, 40)
    assert_close(weights @ labels, exact, rtol=0, atol=1e-10)
    assert_close(weights.sum(1), exact.sum(1), rtol=0, atol=1e-10)
    assert weights.min() >= -1e-12
    assert not weights[:, ~known].any()


@pytest.mark.parametrize("exact", [False, True])
def test_an_answer_does_not_depend_on_what_else_is_asked(exact):
    graph = AnchorGraph.build(*anchors(), 6)
    queries = points(3, 600, 2)  # more than a block
    together = graph.query(queries, exact=exact)
    for row in (0, 255, 256, 599):
        assert_close(graph.query(queries[[row]], exact=exact)[0], together[row])
    assert_close(graph.query(queries.flip(0), exact=exact).flip(0), together)


@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_both_forms_agree_where_all_anchors_are_labelled(tau):
    graph = AnchorGraph.build(*anchors(40), 6, tau=tau)
    queries = points(4, 9, 2)
    links = graph.link(queries)
    exact = graph.query(queries, exact=True)
    assert_close(graph.query(queries), exact)
    mean = torch.einsum("qk,qkc->qc", links.weights, graph.labels[links.anchors])
    assert_close(exact, mean / (links.weights.sum(1, keepdim=True) + tau))


def test_the_frozen_form_is_the_mean_of_the_neighbours_scores():
    graph = AnchorGraph.build(*anchors(), 6)
    queries = points(5, 9, 2)
    links = graph.link(queries)
    shares = links.weights / links.weights.sum(1, keepdim=True)
    expected = (shares[:, :, None] * graph.scores[links.anchors]).sum(1)
    assert_close(graph.query(queries), expected)
    assert_close(expected.sum(1), torch.ones(9).double())
    gap = (graph.query(queries) - graph.query(queries, exact=True)).abs().max()
    assert 1e-6 < gap < 0.3


def test_links_are_the_nearest_anchors_with_the_weights_of_the_kernel():
    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6)
    queries = points(6, 9, 2)
    links = graph.link(queries)
    distances = torch.cdist(queries, features)
    assert torch.equal(links.anchors.sort(1).values, distances.argsort(1)[:, :6].sort(1).values)
    kth_anchor = torch.cdist(features, features).sort(1).values[:, 6]
    kth_query = distances.sort(1).values[:, 5:6]
    near = distances.gather(1, links.anchors)
    expected = torch.exp(-4 * near.square() / (kth_query * kth_anchor[links.anchors]))
    assert_close(links.weights, expected, rtol=1e-9, atol=1e-12)


def test_the_anchors_scores_are_those_of_laplace_learning():
    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6, tau=0.1)
    expected = laplace_learning(knn_graph(features, 6), labels, known, tau=0.1, normalization=None)
    assert_close(graph.scores, expected)


@each_solver
def test_a_query_on_a_labelled_anchor_leans_to_its_label(solver):
    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6, solver=solver)
    for exact in (False, True):
        scores = graph.query(features[:10], exact=exact)
        assert torch.equal(scores.argmax(1), labels[:10].argmax(1))
    expected = solved_with_query(graph, features, labels, known, 0.0)
    assert_close(graph.query(features, exact=True), expected, rtol=0, atol=1e-10)


def test_identical_anchors_answer_where_they_lie_and_nowhere_else():
    features = torch.full((20, 2), 0.1)
    graph = AnchorGraph.build(features, one_hot(torch.arange(20) % 2), torch.arange(20) < 4, 5)
    for exact in (False, True):
        assert_close(graph.query(features[:1], exact=exact).sum(1), torch.ones(1))
        assert not graph.query(features[:1] + 1, exact=exact).any()  # their bandwidth is zero


def split_anchors():
    """Twenty anchors with labels among them, and twenty far away with none."""
    features, labels, _ = anchors()
    features[20:] += 50
    return features, labels, torch.arange(40) < 8


def with_k(space, k):
    return type(space)(**{**vars(space), "k": k})


@each_solver
def test_a_query_between_reached_and_unreached_anchors_is_exact(solver):
    features, labels, known = split_anchors()
    graph = AnchorGraph.build(features, labels, known, 6, bandwidth=Constant(20.0), solver=solver)
    assert not graph.scores[20:].any()
    near, far = features[:1] + 0.1, features[20:21] + 0.1
    between = torch.tensor([[25.0, 25.0]], dtype=torch.float64)
    wide = AnchorGraph(**{**vars(graph), "spaces": (with_k(graph.spaces[0], 40),)})
    queries = torch.cat([near, far, between])
    expected = solved_with_query(wide, queries, labels, known, 0.0)
    exact = wide.query(queries, exact=True)
    assert_close(exact, expected, rtol=0, atol=1e-10)
    assert_close(exact[2].sum(), torch.tensor(1.0).double())
    # Alone in the far group, a query reaches nothing.
    alone = graph.query(far, exact=True)
    assert not alone.any()
    assert not graph.query(far).any()
    assert not graph.label_weights(far).any()


def test_all_anchors_unknown_or_unreached_give_abstention():
    features, labels, _ = anchors()
    graph = AnchorGraph.build(features, labels, torch.zeros(40, dtype=torch.bool), 6)
    for exact in (False, True):
        assert not graph.query(points(7, 3, 2), exact=exact).any()


def test_a_query_too_far_for_a_constant_bandwidth_abstains():
    graph = AnchorGraph.build(*anchors(), 6, bandwidth=Constant(0.5))
    for exact in (False, True):
        assert not graph.query(torch.full((1, 2), 1e3).double(), exact=exact).any()
    assert not graph.label_weights(torch.full((1, 2), 1e3).double()).any()


@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradient()], ids=["cholesky", "cg"])
def test_float32_answers_are_near_float64_ones(solver, device):
    features, labels, known = anchors()
    queries = points(8, 9, 2)
    expected = AnchorGraph.build(features, labels, known, 6).query(queries, exact=True)
    graph = AnchorGraph.build(
        features.float().to(device), labels.to(device), known.to(device), 6, solver=solver
    )
    actual = graph.query(queries.float().to(device), exact=True)
    assert (actual.dtype, actual.device.type) == (torch.float32, device.type)
    assert_close(actual.cpu().double(), expected, rtol=0, atol=1e-4)
    assert_close(graph.query(queries.to(device), exact=True), actual)  # queries may be finer


@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradient()], ids=["cholesky", "cg"])
def test_autocast_changes_nothing(solver, device):
    features, labels, known = (part.to(device) for part in anchors(dtype=torch.float32))
    queries = points(9, 9, 2, dtype=torch.float32).to(device)

    def run():
        graph = AnchorGraph.build(features, labels, known, 6, solver=solver)
        return graph.query(queries), graph.query(queries, exact=True), graph.label_weights(queries)

    plain = run()
    with torch.autocast(device.type, torch.bfloat16):
        inside = run()
    for actual, expected in zip(inside, plain, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    features, labels, known = anchors(dtype=torch.float32)
    graph = AnchorGraph.build(features.to(dtype), labels, known, 6)
    scores = graph.query(points(10, 4, 2).to(dtype), exact=True)
    assert scores.dtype == torch.float32
    assert_close(scores.sum(1), torch.ones(4))


def test_a_graph_built_in_inference_mode_answers_there_and_after():
    features, labels, known = anchors()
    queries = points(11, 3, 2)
    expected = AnchorGraph.build(features, labels, known, 6).query(queries, exact=True)
    with torch.inference_mode():
        graph = AnchorGraph.build(features, labels, known, 6)
        assert_close(graph.query(queries, exact=True), expected)
    assert_close(graph.query(queries, exact=True), expected)


def test_nothing_has_a_gradient():
    features, labels, known = anchors()
    graph = AnchorGraph.build(features.requires_grad_(), labels.requires_grad_(), known, 6)
    queries = points(11, 3, 2).requires_grad_()
    for answer in (graph.query(queries), graph.query(queries, exact=True), graph.scores):
        assert not answer.requires_grad
    assert not graph.label_weights(queries).requires_grad


def test_a_kernel_of_the_user_sees_a_list_of_pairs():
    def kernel(scaled, reach):
        assert scaled.ndim == reach.ndim == 1
        return 1 / (1 + scaled)

    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6, kernel=kernel)
    queries = points(12, 5, 2)
    expected = solved_with_query(graph, queries, labels, known, 0.0)
    assert_close(graph.query(queries, exact=True), expected, rtol=0, atol=1e-10)


def test_anchors_may_be_found_by_an_approximate_search():
    pytest.importorskip("faiss")
    features, labels, known = anchors(40, 400)
    graph = AnchorGraph.build(
        features, labels, torch.arange(400) < 40, 6, neighbors=FaissNeighbors(probes=100)
    )
    exact = AnchorGraph.build(features, labels, torch.arange(400) < 40, 6)
    assert_close(graph.query(points(13, 4, 2)), exact.query(points(13, 4, 2)), rtol=0, atol=1e-6)
    assert known.sum() == 40


def test_one_anchor_answers_where_it_lies():
    features, labels, known = anchors(1, 1)
    graph = AnchorGraph.build(features, labels, known)
    for exact in (False, True):
        assert_close(graph.query(features, exact=exact), labels)
        assert not graph.query(features + 1, exact=exact).any()  # alone it has no bandwidth


@pytest.mark.parametrize("count", [2, 3])
def test_few_anchors_suffice(count):
    features, labels, _ = anchors(1, count)
    graph = AnchorGraph.build(features, labels, torch.arange(count) < 1)
    for exact in (False, True):
        scores = graph.query(points(14, 2, 2), exact=exact)
        assert_close(scores, torch.tensor([[1.0, 0, 0]] * 2).double())


def test_no_queries_have_no_answers():
    graph = AnchorGraph.build(*anchors(), 6)
    for exact in (False, True):
        assert graph.query(torch.empty(0, 2).double(), exact=exact).shape == (0, 3)
    assert graph.label_weights(torch.empty(0, 2).double()).shape == (0, 40)


@pytest.mark.parametrize("exact", [False, True])
def test_a_second_graph_on_inputs_is_added_for_queries_too(exact):
    features, labels, known = anchors()
    inputs, queries, query_inputs = points(15, 40, 3), points(16, 5, 2), points(17, 5, 3)
    graph = AnchorGraph.build(features, labels, known, 6, inputs=inputs, input_edges=0.5)
    links = graph.link(queries, query_inputs)
    assert links.anchors.shape == (5, 12)
    first, second = knn_graph(features, 6), knn_graph(inputs, 6)
    expected = first.laplacian() + 0.5 * second.laplacian()
    assert_close(graph.graph.laplacian(), expected)
    scores = graph.query(queries, query_inputs, exact=exact)
    assert_close(scores.sum(1), torch.ones(5).double())
    # The anchors of both graphs: an anchor that is near in both counts with both weights.
    index, weights = graph.graph.to_edge_index()
    adjacency = torch.zeros(41, 41, dtype=torch.float64).index_put(tuple(index), weights)
    row = adjacency[40].index_add(0, links.anchors[0], links.weights[0])
    adjacency[40], adjacency[:, 40] = row, row
    laplacian = torch.diag(adjacency.sum(1)) - adjacency
    free = torch.arange(41) >= 10
    solved = torch.linalg.solve(laplacian[free][:, free], -laplacian[free][:, ~free] @ labels[:10])
    if exact:
        assert_close(scores[0], solved[-1], rtol=0, atol=1e-10)


def test_near_anchors_are_certain_where_float32_cannot_tell_them_apart():
    # A tight cluster far from the mean: in float32 its points are one.
    cluster = 1 + 1e-7 * points(18, 60, 4)
    features = torch.cat([cluster, -cluster])
    known = torch.arange(120) % 3 == 0
    graph = AnchorGraph.build(features, torch.ones(120, 1).double(), known, 5)
    queries = 1 + 1e-7 * points(19, 20, 4)
    distances = (queries[:, None] - features).norm(dim=2)
    assert torch.equal(graph.link(queries).anchors, distances.argsort(1)[:, :5])


def test_equal_anchors_go_by_their_number():
    features = torch.zeros(80, 2).double()
    graph = AnchorGraph.build(features, torch.ones(80, 1).double(), torch.arange(80) < 40, 3)
    assert graph.link(torch.zeros(2, 2).double()).anchors.tolist() == [[0, 1, 2]] * 2


@each_solver
@pytest.mark.parametrize("tau", [0.0, 0.2])
@pytest.mark.parametrize("num_known", [1, 10, 40])
def test_anchors_added_give_what_solving_from_scratch_gives(num_known, tau, solver):
    features, labels, known = anchors(num_known)
    graph = AnchorGraph.build(features, labels, known, 6, tau=tau, solver=solver)
    queries = points(20, 5, 2)
    for number, point in enumerate(points(21, 4, 2)):
        label = torch.eye(3).double()[number % 3]
        joined = with_query(graph, graph.link(point[None]), 0)  # hangs on as a query does
        graph = graph.with_anchor(point, label)
        labels, known = torch.cat([labels, label[None]]), torch.cat([known, known.new_ones(1)])
        assert torch.equal(graph.graph.edges, joined.edges)
        assert_close(graph.graph.weights, joined.weights)
        assert torch.equal(graph.known, known)
        expected = laplace_learning(joined, labels, known, tau=tau, normalization=None)
        assert_close(graph.scores, expected, rtol=0, atol=1e-10)
        exact = solved_with_query(graph, queries, labels, known, tau)
        assert_close(graph.query(queries, exact=True), exact, rtol=0, atol=1e-10)
        weights = graph.label_weights(queries)
        assert_close(weights @ labels, exact, rtol=0, atol=1e-10)


def test_an_anchor_added_where_no_label_reached_brings_one():
    features = torch.cat([points(22, 20, 2), 1e3 + points(23, 20, 2)])
    labels, known = torch.eye(2).double()[(torch.arange(40) >= 20).long()], torch.arange(40) < 3
    graph = AnchorGraph.build(features, labels, known, 4)
    assert not graph.scores[20:].any()
    graph = graph.with_anchor(features[30] + 0.01, labels[30])
    assert_close(graph.scores[20:], torch.tensor([[0.0, 1.0]]).double().expand(21, 2))
    assert_close(graph.scores[3:20, 0], torch.ones(17).double())


def test_no_matrix_is_factored_again_for_an_added_anchor():
    class Counting(Cholesky):
        factored = 0

        def factor(self, *arguments):
            type(self).factored += 1
            return super().factor(*arguments)

    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6, solver=Counting())
    before = Counting.factored
    graph.with_anchor(points(24, 2), labels[0])
    assert Counting.factored == before


def test_an_added_anchor_leaves_the_graph_it_came_from_as_it_was():
    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6)
    queries = points(25, 5, 2)
    before = graph.query(queries, exact=True)
    graph.with_anchor(features[0], labels[0])
    assert torch.equal(graph.query(queries, exact=True), before)


def test_an_added_anchor_joins_both_graphs_where_there_are_two():
    features, labels, known = anchors()
    inputs = points(26, 40, 3)
    graph = AnchorGraph.build(features, labels, known, 6, inputs=inputs, input_edges=0.5)
    links = graph.link(features[:1] + 0.1, inputs[:1] + 0.1)
    grown = graph.with_anchor(features[0] + 0.1, labels[0], inputs[0] + 0.1)
    degree = grown.graph.degrees()[40]
    assert_close(degree, links.weights.sum())
    again = laplace_learning(
        grown.graph, grown.labels, grown.known, normalization=None, solver=Cholesky()
    )
    assert_close(grown.scores, again, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="`inputs` must be given with the queries exactly where"):
        graph.with_anchor(features[0], labels[0])


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        (
            torch.ones(3),
            ValueError,
            r"`queries` must have 2 axes \(q, d\), got shape \(3,\): reshape",
        ),
        (torch.ones(3, 5), ValueError, r"`queries` must have shape \(q, 2\), got \(3, 5\)"),
        (torch.full((1, 2), torch.nan), ValueError, "`queries` must be finite, got NaN or infinit"),
        (torch.full((1, 2), torch.inf), ValueError, "`queries` must be finite, got NaN or infinit"),
        (torch.ones(3, 2, dtype=torch.long), TypeError, "`queries` must be a floating-point tenso"),
    ],
)
def test_refuses_queries_it_cannot_place(queries, error, message):
    graph = AnchorGraph.build(*anchors(), 6)
    for ask in (graph.query, graph.label_weights, graph.link):
        with pytest.raises(error, match=message):
            ask(queries)


def test_refuses_a_label_that_is_no_row():
    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6)
    with pytest.raises(
        ValueError, match=r"`label` must be a row of 3 classes, got shape \(\): pass"
    ):
        graph.with_anchor(features[0], torch.tensor(2))


def test_refuses_inputs_that_the_anchors_do_not_have():
    features, labels, known = anchors()
    graph = AnchorGraph.build(features, labels, known, 6)
    with pytest.raises(ValueError, match="`inputs` must be given with the queries exactly where"):
        graph.query(features[:2], features[:2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.ones(2, 20, 2)}, ValueError, r"`features` must have 2 axes \(n, d\)"),
        ({"features": torch.ones(40, 2).long()}, TypeError, "`features` must be a floating-point"),
        ({"features": torch.full((40, 2), torch.nan)}, ValueError, "`features` must be finite"),
        (
            {"labels": torch.ones(39, 3)},
            ValueError,
            "`labels` must have one row for each of the 40",
        ),
        ({"known": torch.ones(40)}, TypeError, "`known` must be a boolean mask, got torch.float32"),
        ({"k": 0}, ValueError, "`k` must be at least 1, got 0"),
        ({"tau": -1.0}, ValueError, "`tau` must be finite and not negative, got -1"),
    ],
)
def test_refuses_anchors_it_cannot_use(change, error, message):
    features, labels, known = anchors()
    arguments = {"features": features, "labels": labels, "known": known, "k": 6, **change}
    with pytest.raises(error, match=message):
        AnchorGraph.build(**arguments)

"""Weights follow their formula, with exact derivatives, at any scale and for any points."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    Constant,
    ExactNeighbors,
    FaissNeighbors,
    Gaussian,
    SelfTuned,
    Tapered,
    knn_graph,
    laplace_learning,
)

KERNELS = [Gaussian(), Tapered()]
BANDWIDTHS = [SelfTuned(), Constant(1.3)]
seeds = st.integers(0, 2**31)


def points(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_weights(features, k, kernel, bandwidth):
    """The definition, in dense arithmetic on all pairs."""
    squared = (features[:, None] - features[None]).square().sum(2)
    others = squared.detach().clone().fill_diagonal_(torch.inf)
    nearest = others.sort(dim=1, stable=True).indices[:, :k]
    listed = torch.zeros_like(others, dtype=torch.bool).scatter(1, nearest, True)
    kth = squared.gather(1, nearest[:, -1:]).squeeze(1)
    eps = bandwidth(kth).sqrt()
    reach = squared / torch.maximum(kth[:, None], kth[None])
    weights = kernel(squared / (eps[:, None] * eps[None]), reach)
    return torch.where(listed | listed.T, weights, 0.0)


def adjacency(graph):
    i, j = graph.edges
    half = graph.weights.new_zeros(graph.num_nodes, graph.num_nodes)
    half = half.index_put((i, j), graph.weights)
    return half + half.T


@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=repr)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@settings(max_examples=30)
@given(seed=seeds)
def test_weights_and_their_gradient_are_those_of_the_definition(kernel, bandwidth, seed):
    features = points(seed, 20, 3).requires_grad_()
    ours = adjacency(knn_graph(features, 5, kernel=kernel, bandwidth=bandwidth))
    theirs = dense_weights(features, 5, kernel, bandwidth)
    assert_close(ours, theirs, rtol=0, atol=1e-14)
    (by_ours,) = torch.autograd.grad(ours.sin().sum(), features)
    (by_theirs,) = torch.autograd.grad(theirs.sin().sum(), features)
    assert_close(by_ours, by_theirs, rtol=1e-10, atol=1e-12)


def test_three_points_on_a_line_have_the_weights_of_pencil_and_paper():
    graph = knn_graph(torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64), k=1)
    # Nearest others: 1, 0, 1 at distances 1, 1, 2: edges 0-1 and 1-2.
    assert graph.edges.tolist() == [[0, 1], [1, 2]]
    assert_close(graph.weights, torch.tensor([math.exp(-4.0), math.exp(-8.0)]).double())


@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=repr)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_derivatives_match_finite_differences_twice(kernel, bandwidth):
    features = points(1, 12, 3).requires_grad_()

    def weights(features):
        return knn_graph(features, 4, kernel=kernel, bandwidth=bandwidth).weights

    assert gradcheck(weights, features, check_forward_ad=True)
    assert gradgradcheck(weights, features, fast_mode=True)


def test_a_user_may_bring_kernel_bandwidth_and_neighbors_as_functions():
    features = points(2, 12, 3).requires_grad_()

    def cauchy(scaled, reach):
        return (1 - reach.clamp_max(1)) / (1 + scaled)

    def half_way(kth_squared):
        return kth_squared / 4 + 1e-9

    def graph(features, neighbors):
        return knn_graph(features, 4, kernel=cauchy, bandwidth=half_way, neighbors=neighbors)

    assert gradcheck(lambda x: graph(x, ExactNeighbors()).weights, features)
    expected = dense_weights(features, 4, cauchy, half_way)
    assert_close(adjacency(graph(features, ExactNeighbors())), expected)
    ours = graph(features, lambda x, k: torch.cdist(x, x).topk(k + 1, largest=False).indices[:, 1:])
    assert_close(adjacency(ours), expected)


@pytest.mark.parametrize("columns", [slice(0, 4), slice(0, 5)], ids=["itself", "too many"])
def test_refuses_neighbors_that_are_not_k_others(columns):
    with pytest.raises(ValueError, match="must return 4 other rows for each of 12, got shape"):
        knn_graph(
            points(2, 12, 3), 4, neighbors=lambda x, k: torch.cdist(x, x).argsort(1)[:, columns]
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_that_are_not_contiguous_are_read_right(dtype):
    features = points(2, 3, 40, dtype=dtype).T.requires_grad_()
    graph = knn_graph(features, 5)
    expected = knn_graph(features.detach().contiguous(), 5)
    assert torch.equal(graph.edges, expected.edges)
    assert_close(graph.weights, expected.weights)
    graph.weights.sum().backward()


def test_approximate_neighbors_that_find_all_give_the_same_graph():
    pytest.importorskip("faiss")
    features = points(3, 200, 3)
    exact = knn_graph(features, 6)
    approximate = knn_graph(features, 6, neighbors=FaissNeighbors(cells=4, probes=4))
    assert torch.equal(approximate.edges, exact.edges)
    assert torch.equal(approximate.weights, exact.weights)


@settings(max_examples=30)
@given(seed=seeds)
def test_moving_turning_and_renumbering_the_points_does_not_matter(seed):
    features = points(seed, 25, 4)
    turn, _ = torch.linalg.qr(points(seed + 1, 4, 4))
    order = points(seed + 2, 25).argsort()
    before = adjacency(knn_graph(features, 6, kernel=Tapered()))
    after = adjacency(knn_graph((features @ turn + 3.0)[order], 6, kernel=Tapered()))
    assert_close(after, before[order][:, order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e10, 1e18])
def test_self_tuned_weights_do_not_depend_on_the_scale(scale, dtype):
    features = points(4, 40, 3).to(dtype)
    for kernel in KERNELS:
        expected = knn_graph(features, 6, kernel=kernel)
        scaled = knn_graph(features * scale, 6, kernel=kernel)
        assert torch.equal(scaled.edges, expected.edges)
        assert_close(scaled.weights, expected.weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_closer_than_the_floor_count_as_coincident(dtype):
    features = points(5, 40, 3).to(dtype)
    graph = knn_graph(features * 1e-20, 6)
    assert_close(graph.weights, torch.ones_like(graph.weights))


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e25), (torch.float64, 1e200)])
def test_refuses_features_whose_distances_overflow(dtype, scale):
    features = (points(6, 10, 3) * scale).to(dtype)
    with pytest.raises(ValueError, match="squared distances that fit their dtype, got entries as"):
        knn_graph(features, 3)


@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=repr)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("copies", [2, 9])
def test_coincident_points_are_joined_with_weight_one(kernel, bandwidth, copies):
    features = points(7, 8, 3).repeat(copies, 1).requires_grad_()
    graph = knn_graph(features, 4, kernel=kernel, bandwidth=bandwidth)
    i, j = graph.edges
    together = i % 8 == j % 8
    assert together.sum() >= 8 * (copies - 1)
    assert (graph.weights[together] == 1).all()
    component = knn_graph(features, copies - 1, kernel=Gaussian()).components()
    assert all(len(set(component[place::8].tolist())) == 1 for place in range(8))
    graph.weights.sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=repr)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_identical_points_make_a_connected_graph_of_ones(kernel, bandwidth):
    features = torch.full((30, 2), 0.1, requires_grad=True)
    graph = knn_graph(features, 5, kernel=kernel, bandwidth=bandwidth)
    assert (graph.weights == 1).all()
    assert not graph.components().any()
    graph.weights.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_node_on_all_its_neighbors_has_no_gradient_by_the_taper(dtype):
    features = points(7, 8, 3, dtype=dtype).repeat(9, 1).requires_grad_()
    graph = knn_graph(features, 4, kernel=Tapered(), bandwidth=Constant())
    graph.weights.sin().sum().backward()
    assert features.grad.abs().max() < 1e-5


@pytest.mark.parametrize("value", [1e-30, 1e-3])
def test_a_constant_bandwidth_too_narrow_gives_weights_of_zero(value):
    features = points(8, 30, 3, dtype=torch.float32).requires_grad_()
    weights = knn_graph(features, 5, bandwidth=Constant(value)).weights
    assert not weights.any()
    weights.sum().backward()
    assert not features.grad.any()


def test_a_bandwidth_that_underflows_still_joins_coincident_points():
    features = points(8, 10, 3, dtype=torch.float32).repeat(2, 1)
    features.requires_grad_()
    graph = knn_graph(features, 3, bandwidth=Constant(1e-30))
    together = graph.edges[1] - graph.edges[0] == 10
    assert graph.weights[together].tolist() == [1.0] * 10
    graph.weights.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("k", [9, 10, 1000])
def test_more_neighbors_than_there_are_make_a_complete_graph(k):
    graph = knn_graph(points(9, 10, 2), k)
    assert graph.weights.shape == (45,)
    assert_close(graph.weights, knn_graph(points(9, 10, 2), 9).weights)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_few_or_no_points_make_small_graphs(kernel):
    assert knn_graph(torch.empty(0, 3), kernel=kernel).num_nodes == 0
    one = knn_graph(torch.ones(1, 3), kernel=kernel)
    assert (one.num_nodes, one.edges.shape) == (1, (2, 0))
    two = knn_graph(points(0, 2, 3), kernel=kernel)
    assert two.edges.tolist() == [[0], [1]]
    expected = 0.0 if kernel == Tapered() else math.exp(-4.0)
    assert two.weights.item() == pytest.approx(expected)


def test_points_without_coordinates_coincide():
    assert (knn_graph(torch.empty(5, 0), 2).weights == 1).all()


@pytest.mark.parametrize("radius", [1e-3, 1e-6])
def test_float32_gradients_of_collapsed_clusters_do_not_cancel(radius):
    centres = torch.nn.functional.normalize(points(17, 10, 16), dim=1)
    features = (centres.repeat(12, 1) + radius * points(18, 120, 16)).float()

    def gradient(features):
        features = features.clone().requires_grad_()
        knn_graph(features, 8).weights.sin().sum().backward()
        return features.grad

    exact = gradient(features.double())
    assert (gradient(features) - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_in_float32(dtype):
    features = points(10, 30, 3).to(dtype).requires_grad_()
    graph = knn_graph(features, 5)
    assert graph.weights.dtype == torch.float32
    assert torch.equal(graph.weights, knn_graph(features.float(), 5).weights)
    graph.weights.sum().backward()
    assert features.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_neither_weights_nor_gradients(dtype, device):
    features = points(11, 50, 3, dtype=torch.float32).to(device).requires_grad_()
    plain = knn_graph(features, 6).weights
    (expected,) = torch.autograd.grad(plain.sin().sum(), features)
    with torch.autocast(device.type, dtype):
        weights = knn_graph(features, 6).weights
        (gradient,) = torch.autograd.grad(weights.sin().sum(), features)
    assert torch.equal(weights, plain)
    assert torch.equal(gradient, expected)


def test_the_graph_lies_on_the_device_of_the_features(device):
    features = points(12, 40, 3, dtype=torch.float32)
    graph = knn_graph(features.to(device), 5)
    assert graph.edges.device.type == graph.weights.device.type == device.type
    expected = knn_graph(features, 5)
    assert torch.equal(graph.edges.cpu(), expected.edges)
    assert_close(graph.weights.cpu(), expected.weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=repr)
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_episodes_are_graphs_side_by_side(kernel, bandwidth):
    features = points(13, 3, 10, 2)
    graph = knn_graph(features, 4, kernel=kernel, bandwidth=bandwidth)
    assert (graph.num_nodes, graph.num_graphs) == (30, 3)
    blocks = [adjacency(knn_graph(x, 4, kernel=kernel, bandwidth=bandwidth)) for x in features]
    assert_close(adjacency(graph), torch.block_diag(*blocks))


def test_no_episodes_make_an_empty_graph():
    assert knn_graph(torch.empty(0, 5, 3)).num_nodes == 0
    assert knn_graph(torch.empty(4, 0, 3)).num_nodes == 0
    assert knn_graph(torch.zeros(4, 1, 3)).edges.shape == (2, 0)


def detached(kth_squared):
    return kth_squared.detach().clamp_min(1e-12)


@pytest.mark.parametrize(("num_nodes", "width"), [(200, 8), (500, 32)])
def test_leaving_the_bandwidth_out_changes_the_gradient_by_a_third_or_more(num_nodes, width):
    features = points(14, num_nodes, width).requires_grad_()
    known = torch.arange(num_nodes) < num_nodes // 5
    labels = torch.arange(num_nodes) % 10

    def gradient(bandwidth):
        graph = knn_graph(features, 24, bandwidth=bandwidth)
        scores = laplace_learning(graph, one_hot(labels), known)
        loss = -scores[~known].gather(1, labels[~known, None]).clamp_min(1e-8).log().mean()
        return torch.autograd.grad(loss, features)[0]

    exact = gradient(SelfTuned())
    assert (gradient(detached) - exact).norm() > 0.3 * exact.norm()


def largest_step(kernel, bandwidth, num_steps):
    """Drag one point between two clusters; return the largest change of the scores in a step."""
    clusters = 0.5 * points(15, 80, 2)
    clusters[40:] += 2.0
    labels = one_hot((torch.arange(80) >= 40).long(), 2).double()
    known = torch.arange(80) % 8 == 1
    way = torch.linspace(0.3, 0.7, num_steps + 1, dtype=torch.float64)[:, None]
    episodes = clusters.repeat(num_steps + 1, 1, 1)
    episodes[:, 0] = way * torch.tensor([2.0, 2.2]).double()
    graph = knn_graph(episodes, 8, kernel=kernel, bandwidth=bandwidth)
    scores = laplace_learning(
        graph, labels.expand(num_steps + 1, -1, -1), known.expand(num_steps + 1, -1)
    )
    return scores.diff(dim=0).abs().max().item()


@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=repr)
def test_the_tapered_kernel_is_continuous_where_neighbors_swap(bandwidth):
    steps = [largest_step(Tapered(), bandwidth, count) for count in (150, 300, 600)]
    assert steps[1] < 0.65 * steps[0]
    assert steps[2] < 0.65 * steps[1]


@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=repr)
def test_the_gaussian_kernel_jumps_where_neighbors_swap(bandwidth):
    coarse, fine = (largest_step(Gaussian(), bandwidth, count) for count in (150, 600))
    assert fine > 0.75 * coarse


@pytest.mark.parametrize(
    ("features", "k", "message"),
    [
        (torch.ones(5, 2, dtype=torch.long), 2, "must be a floating-point tensor, got torch.int64"),
        (torch.ones(5, 2, dtype=torch.complex64), 2, "must be a floating-point tensor, got"),
        ([[1.0, 2.0]], 2, "must be a floating-point tensor, got list: call .float()"),
        (torch.ones(5), 2, r"must have shape \(n, d\) or \(b, n, d\), got \(5,\): flatten"),
        (torch.ones(5, 2, 2, 2), 2, r"got \(5, 2, 2, 2\): flatten images first"),
        (torch.ones(5, 2), 0, "`k` must be at least 1, got 0: each node needs a neighbour"),
        (torch.ones(5, 2), -3, "`k` must be at least 1, got -3"),
        (torch.tensor([[0.0], [float("nan")]]), 1, "finite, got NaN or infinity first in row 1"),
        (torch.tensor([[float("inf")], [0.0]]), 1, "finite, got NaN or infinity first in row 0"),
        (torch.full((3, 2), 7e4).half() + 1e9, 1, "finite, got NaN or infinity first in row 0"),
    ],
)
def test_refuses_features_it_cannot_use(features, k, message):
    with pytest.raises((TypeError, ValueError), match=message):
        knn_graph(features, k)


def test_refuses_one_neighbor_with_the_tapered_kernel():
    with pytest.raises(ValueError, match="at least 2 with the tapered kernel, got 1: its k-th"):
        knn_graph(torch.ones(5, 2), 1, kernel=Tapered())


def test_refuses_to_search_under_vmap_and_names_the_way_out():
    with pytest.raises(
        NotImplementedError, match=r"pass features of shape \(b, n, d\), or map only"
    ):
        torch.func.vmap(lambda x: knn_graph(x, 2).weights)(points(16, 3, 10, 2))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda scaled, reach: -scaled - 1, "`weights` must be finite and not negative, got -"),
        (lambda scaled, reach: scaled / 0, "`weights` must be finite and not negative, got inf"),
        (lambda scaled, reach: scaled[:2], r"floating point of shape \(\d+,\), got .*\(2,\)"),
    ],
)
def test_refuses_what_a_kernel_of_the_user_must_not_return(kernel, message):
    with pytest.raises(ValueError, match=message):
        knn_graph(points(16, 10, 2), 3, kernel=kernel)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_refuses_rates_and_bandwidths_that_are_not_positive(wrong):
    for name, make in [
        ("rate", lambda: Gaussian(wrong)),
        ("rate", lambda: Tapered(wrong)),
        ("floor", lambda: SelfTuned(wrong)),
        ("value", lambda: Constant(wrong)),
    ]:
        with pytest.raises(ValueError, match=f"`{name}` must be positive, got {wrong}"):
            make()

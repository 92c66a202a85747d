"""Laplace learning is the dense solve in value and derivatives, and finite on any data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacrev, jvp
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft._check import ConvergenceError
from weft.graph import (
    Cholesky,
    ClassMass,
    ConjugateGradient,
    Constant,
    Gaussian,
    Graph,
    Laplace,
    Laplacian,
    SelfTuned,
    SolveLog,
    Tapered,
    Unreached,
    knn_graph,
    label_weights,
    laplace_learning,
)

SOLVERS = [Cholesky(), ConjugateGradient(rtol=1e-13)]
KERNELS = [Gaussian(), Tapered()]
BANDWIDTHS = [SelfTuned(), Constant(1.5)]
seeds = st.integers(0, 2**31)

each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=["cholesky", "cg"])


def points(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cases(seed, num_nodes=14, classes=3, num_known=4):
    """Features, one-hot labels and the mask of known nodes, scattered."""
    features = points(seed, num_nodes, 2)
    labels = one_hot(torch.arange(num_nodes) % classes, classes).double()
    known = points(seed + 1, num_nodes).argsort() < num_known
    return features, labels, known


def plain(graph, labels, known, **options):
    return laplace_learning(graph, labels, known, normalization=None, **options)


@each_solver
@pytest.mark.parametrize("per_node", [False, True])
@pytest.mark.parametrize("tau", [0.0, 0.1])
def test_scores_are_those_of_the_dense_system(
    random_graph, dense_laplace_learning, solver, tau, per_node, generator
):
    graph = random_graph(25, 40)
    labels = torch.randn(25, 4, generator=generator, dtype=torch.float64)
    known = torch.arange(25) % 4 == 1
    tau = tau * torch.rand(25, generator=generator, dtype=torch.float64) if per_node else tau
    source = torch.randn(25, 4, generator=generator, dtype=torch.float64)
    for more in ({}, {"source": source}, {"fidelity": 0.7}, {"source": source, "fidelity": 2.0}):
        scores = plain(graph, labels, known, tau=tau, solver=solver, **more)
        dense = {key: torch.as_tensor(value, dtype=torch.float64) for key, value in more.items()}
        expected = dense_laplace_learning(
            graph.weights, graph.edges, labels, known, tau=tau, **dense
        )
        assert_close(scores, expected, rtol=0, atol=1e-12)


@each_solver
@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=["self-tuned", "constant"])
@pytest.mark.parametrize("kernel", KERNELS, ids=["gaussian", "tapered"])
def test_derivatives_in_features_match_finite_differences_twice(kernel, bandwidth, solver):
    features, labels, known = cases(3, num_nodes=9, num_known=3)

    def scores(features):
        graph = knn_graph(features, 4, kernel=kernel, bandwidth=bandwidth)
        return plain(graph, labels, known, tau=0.05, solver=solver)[~known]

    features.requires_grad_()
    assert gradcheck(scores, features, check_forward_ad=True)
    assert gradgradcheck(scores, features, fast_mode=True)


@each_solver
@pytest.mark.parametrize("bandwidth", BANDWIDTHS, ids=["self-tuned", "constant"])
@pytest.mark.parametrize("kernel", KERNELS, ids=["gaussian", "tapered"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_derivatives_in_all_together_match_finite_differences_twice(
    kernel, bandwidth, solver, soft
):
    features, labels, known = cases(4, num_nodes=7, classes=2, num_known=3)

    def scores(features, labels, tau, per_node, fidelity, source):
        return plain(
            knn_graph(features, 3, kernel=kernel, bandwidth=bandwidth),
            labels,
            known,
            tau=tau + per_node,
            fidelity=fidelity if soft else None,
            source=source,
            solver=solver,
        )

    inputs = (
        features,
        labels,
        torch.tensor(0.2, dtype=torch.float64),
        0.1 + points(5, 7).abs(),
        torch.tensor([0.7]).double() if kernel == Gaussian() else 0.1 + points(6, 7).abs(),
        points(7, 7, 2),
    )
    inputs = tuple(part.clone().requires_grad_() for part in inputs)
    assert gradcheck(scores, inputs)
    assert gradgradcheck(scores, inputs, fast_mode=True)


@each_solver
def test_a_kernel_of_the_user_is_differentiated_from_features_to_scores(solver):
    features, labels, known = cases(8, num_nodes=9)

    def scores(features):
        graph = knn_graph(features, 4, kernel=lambda scaled, reach: 1 / (1 + scaled) ** 2)
        return plain(graph, labels, known, solver=solver)

    features.requires_grad_()
    assert gradcheck(scores, features)
    assert gradgradcheck(scores, features, fast_mode=True)


def test_forward_mode_through_features_is_the_transposed_reverse_mode():
    features, labels, known = cases(9)
    tangent, cotangent = points(10, *features.shape), points(11, *labels.shape)

    def scores(features):
        return laplace_learning(knn_graph(features, 5), labels, known, tau=0.1)

    _, pushed = jvp(scores, (features,), (tangent,))
    pulled = grad(lambda features: (scores(features) * cotangent).sum())(features)
    assert_close((pushed * cotangent).sum(), (pulled * tangent).sum())


def test_a_hessian_in_features_is_symmetric():
    features, labels, known = cases(12, num_nodes=8)

    def loss(features):
        return laplace_learning(knn_graph(features, 4), labels, known).square().sum()

    hessian = torch.func.hessian(loss)(features).reshape(16, 16)
    assert_close(hessian, hessian.T, rtol=1e-8, atol=1e-9)
    by_reverse = jacrev(jacrev(loss))(features).reshape(16, 16)
    assert_close(hessian, by_reverse, rtol=1e-8, atol=1e-9)


@settings(max_examples=30)
@given(seed=seeds)
def test_rows_sum_to_one_without_decay(seed):
    features, labels, known = cases(seed)
    scores = plain(knn_graph(features, 5), labels, known, unreached=Unreached.UNIFORM)
    assert_close(scores.sum(1), torch.ones(14).double(), rtol=0, atol=1e-12)


@settings(max_examples=30)
@given(seed=seeds, tau=st.floats(0, 3))
def test_scores_obey_the_maximum_principle(seed, tau):
    features, _, known = cases(seed)
    values = points(seed + 2, 14, 2)
    scores = plain(knn_graph(features, 4), values, known, tau=tau)
    low = values[known].amin(0).clamp_max(0) - 1e-12  # decay and abstention pull towards zero
    high = values[known].amax(0).clamp_min(0) + 1e-12
    assert ((scores >= low) & (scores <= high)).all()


@settings(max_examples=30)
@given(seed=seeds)
def test_mass_falls_as_decay_grows(seed):
    features, labels, known = cases(seed)
    graph = knn_graph(features, 4)
    masses = [plain(graph, labels, known, tau=tau).sum(1) for tau in (0.0, 0.01, 0.1, 1.0)]
    for less, more in zip(masses[1:], masses[:-1], strict=True):
        assert (less <= more + 1e-12).all()
    reached = masses[0] > 0.5
    assert (masses[2] < masses[1])[reached & ~known].all()


@settings(max_examples=30)
@given(seed=seeds)
def test_the_order_of_nodes_does_not_matter(seed):
    features, labels, known = cases(seed)
    order = points(seed + 3, 14).argsort()

    def scores(features, labels, known):
        return laplace_learning(knn_graph(features, 4), labels, known, tau=0.05)

    assert_close(
        scores(features[order], labels[order], known[order]),
        scores(features, labels, known)[order],
        rtol=0,
        atol=1e-10,
    )


@settings(max_examples=30)
@given(seed=seeds)
def test_scores_are_linear_in_the_labels(seed):
    features, first, known = cases(seed)
    second = points(seed + 4, 14, 3)
    graph = knn_graph(features, 4)
    together = plain(graph, 2 * first - 3 * second, known, tau=0.1)
    apart = 2 * plain(graph, first, known, tau=0.1) - 3 * plain(graph, second, known, tau=0.1)
    assert_close(together, apart, rtol=0, atol=1e-11)


def test_the_gradient_in_the_labels_is_their_weights():
    features, labels, known = cases(13)
    graph = knn_graph(features, 4)
    jacobian = jacrev(lambda labels: plain(graph, labels, known, tau=0.1))(labels)
    weights = label_weights(graph, known, torch.arange(14), tau=0.1)
    for c in range(3):
        assert_close(jacobian[:, c, :, c], weights, rtol=0, atol=1e-12)


def test_known_nodes_keep_their_labels_and_unknown_labels_are_not_read():
    features, labels, known = cases(14)
    graph = knn_graph(features, 4)
    hidden = torch.where(known[:, None], labels, torch.nan).requires_grad_()
    scores = plain(graph, hidden, known)
    assert torch.equal(scores[known], labels[known])
    assert torch.equal(scores, plain(graph, labels, known))
    scores.sum().backward()
    assert hidden.grad.isfinite().all()
    assert not hidden.grad[~known].any()


def test_much_fidelity_is_a_hard_label_and_little_is_none():
    features, labels, known = cases(15)
    graph = knn_graph(features, 4)
    hard = plain(graph, labels, known)
    assert_close(plain(graph, labels, known, fidelity=1e9), hard, rtol=0, atol=1e-7)
    moved = plain(graph, labels, known, fidelity=0.1)
    assert (moved[known] - labels[known]).abs().max() > 0.05
    assert_close(moved.sum(1), hard.sum(1))
    assert not plain(graph, labels, known, fidelity=0.0).any()


def two_components():
    """Nodes 0-2 with a label on node 0, nodes 3-5 with none, node 6 alone."""
    edges = torch.tensor([[0, 1, 3, 4], [1, 2, 4, 5]])
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(7, 2, dtype=torch.float64)
    labels[0, 1] = 1
    return Graph(edges, weights, 7), labels.requires_grad_(), torch.arange(7) == 0


@pytest.mark.parametrize(("policy", "value"), [(Unreached.ABSTAIN, 0.0), (Unreached.UNIFORM, 0.5)])
@each_solver
def test_unreached_nodes_get_what_the_policy_says_with_finite_gradients(policy, value, solver):
    graph, labels, known = two_components()
    tau = torch.zeros((), dtype=torch.float64, requires_grad=True)
    scores = laplace_learning(graph, labels, known, tau=tau, unreached=policy, solver=solver)
    assert_close(scores[:3], torch.tensor([[0.0, 1.0]] * 3).double())
    assert (scores[3:] == value).all()
    scores.square().sum().backward()
    for part in (graph.weights, labels, tau):
        assert part.grad.isfinite().all()
    assert not graph.weights.grad[2:].any()


def test_unreached_nodes_are_an_error_that_names_one():
    graph, labels, known = two_components()
    with pytest.raises(ValueError, match="no node in the component of node 3: label one, or pass"):
        laplace_learning(graph, labels, known, unreached=Unreached.ERROR)
    laplace_learning(graph, labels, known, tau=0.1, unreached=Unreached.ERROR)


def test_decay_grounds_a_component_without_labels():
    graph, labels, known = two_components()
    for policy in Unreached:
        scores = plain(graph, labels, known, tau=0.1, unreached=policy)
        assert not scores[3:].any()
    some = torch.tensor([0, 0, 0, 0.1, 0, 0, 0], dtype=torch.float64)
    scores = plain(graph, labels, known, tau=some, unreached=Unreached.UNIFORM)
    assert not scores[3:6].any()
    assert (scores[6] == 0.5).all()


def test_an_edge_of_weight_zero_joins_nothing():
    edges = torch.tensor([[0, 1], [1, 2]])
    weights = torch.tensor([1.0, 0.0], requires_grad=True)
    labels = torch.eye(3)
    scores = laplace_learning(Graph(edges, weights, 3), labels, torch.tensor([True, False, False]))
    assert scores.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    scores.square().sum().backward()
    assert weights.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_solver
def test_a_cluster_that_hangs_on_noise_abstains_rather_than_be_wrong(dtype, solver):
    features = points(16, 60, 2)
    features[30:] += 100
    graph = knn_graph(features, 6)
    index, weights = graph.to_edge_index()
    index = torch.cat([index, torch.tensor([[0], [40]])], 1)
    graph = Graph.from_edge_index(
        index, torch.cat([weights, weights.new_tensor([1e-10])]).to(dtype), num_nodes=60
    )
    solver = type(solver)()
    scores = plain(graph, one_hot(torch.arange(60) % 2), torch.arange(60) < 6, solver=solver)
    assert_close(scores[:30].sum(1), torch.ones(30, dtype=dtype))
    assert not scores[30:].any()


@each_solver
def test_mass_does_not_leak_into_unreached_nodes(solver):
    # A label, a pair of nodes on a thin edge from it, and a heavy pair on an edge yet thinner:
    # far too thin to carry a label into the heavy pair, but not beside the thin one.
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    weights = torch.tensor([2e-9, 1.0, 1e-9, 10.0], dtype=torch.float64)
    labels = torch.ones(5, 1, dtype=torch.float64)
    graph, known = Graph(edges, weights, 5), torch.arange(5) == 0
    scores = plain(graph, labels, known, solver=type(solver)())
    assert_close(scores.squeeze(1), torch.tensor([1.0, 1, 1, 0, 0]).double(), rtol=0, atol=1e-6)
    everyone = torch.arange(5)
    assert_close(label_weights(graph, known, everyone).sum(1), scores.squeeze(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_solver
def test_far_points_beside_labelled_hubs_take_their_labels(dtype, solver):
    # A constant bandwidth gives the far point weights of 1e-11 beside degrees of one and more.
    features = torch.cat([0.1 * points(17, 20, 1), torch.tensor([[2.52]]).double()]).to(dtype)
    graph = knn_graph(features, 5, bandwidth=Constant(1.0))
    assert graph.degrees()[20] < 1e-8
    known = torch.arange(21) < 20
    scores = plain(graph, torch.ones(21, 1), known, solver=type(solver)())
    assert_close(scores[20], torch.ones(1, dtype=dtype), rtol=1e-4, atol=0)


@pytest.mark.parametrize("known_per_graph", [(3, 3, 3), (2, 5, 3), (0, 4, 10), (1, 0, 0)])
@each_solver
def test_episodes_equal_their_graphs_one_by_one(known_per_graph, solver):
    features = points(18, 3, 10, 2).requires_grad_()
    labels = one_hot(torch.arange(30) % 3).double().view(3, 10, 3)
    known = torch.arange(10) < torch.tensor(known_per_graph)[:, None]
    options = {"solver": solver, "normalization": ClassMass(below=0.35)}
    together = laplace_learning(knn_graph(features, 4), labels, known, **options)
    apart = torch.stack(
        [
            laplace_learning(knn_graph(x, 4), y, mask, **options)
            for x, y, mask in zip(features, labels, known, strict=True)
        ]
    )
    assert together.shape == (3, 10, 3)
    assert_close(together, apart, rtol=0, atol=1e-11)
    gradients = [torch.autograd.grad(s.square().sum(), features)[0] for s in (together, apart)]
    assert_close(*gradients, rtol=0, atol=1e-9)


def test_flat_labels_and_masks_of_several_graphs_are_taken_too():
    features = points(19, 2, 8, 2)
    labels = one_hot(torch.arange(16) % 2).double()
    known = torch.arange(16) % 4 == 0
    flat = laplace_learning(knn_graph(features, 3), labels, known)
    assert flat.shape == (16, 2)
    shaped = laplace_learning(knn_graph(features, 3), labels.view(2, 8, 2), known.view(2, 8))
    assert torch.equal(flat, shaped.flatten(0, 1))


@each_solver
def test_one_factorisation_serves_scores_and_gradients(solver):
    features, labels, known = cases(20)
    log = SolveLog()
    features.requires_grad_()
    scores = laplace_learning(knn_graph(features, 4), labels, known, solver=solver, log=log)
    (gradient,) = torch.autograd.grad(scores.square().sum(), features, create_graph=True)
    gradient.square().sum().backward()
    assert log.factorizations == 1
    assert len(log.residuals) >= 3
    assert max(log.residuals) <= 1e-13


def test_scores_have_the_dtype_and_device_of_the_graph(device):
    features, labels, known = cases(21)
    labels, known = labels.to(device), known.to(device)
    for dtype in (torch.float32, torch.float64):
        graph = knn_graph(features.to(device, dtype), 4)
        for given_labels in (labels.float(), labels.double(), labels.long(), labels.bool()):
            scores = laplace_learning(graph, given_labels, known, tau=torch.tensor(0.1))
            assert (scores.dtype, scores.device.type) == (dtype, device.type)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_give_float32_scores_and_half_gradients(dtype):
    features, labels, known = cases(22)
    features = features.to(dtype).requires_grad_()
    scores = laplace_learning(knn_graph(features, 4), labels.to(dtype), known)
    assert scores.dtype == torch.float32
    scores[~known].square().sum().backward()
    assert features.grad.dtype == dtype
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradient()], ids=["cholesky", "cg"])
def test_autocast_changes_neither_scores_nor_gradients(solver, dtype, device):
    features, labels, known = cases(23)
    features = features.float().to(device).requires_grad_()
    labels, known = labels.float().to(device), known.to(device)

    def run():
        scores = laplace_learning(knn_graph(features, 4), labels, known, solver=solver)
        return scores, torch.autograd.grad(scores.sin().sum(), features)[0]

    scores, gradient = run()
    with torch.autocast(device.type, dtype):
        inside = run()
    assert inside[0].dtype == torch.float32
    assert torch.equal(inside[0], scores)
    assert torch.equal(inside[1], gradient)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
def test_the_gradient_in_features_is_as_exact_as_the_tolerance(rtol):
    features = points(24, 200, 8).requires_grad_()
    labels, known = torch.arange(200) % 10, torch.arange(200) < 50

    def gradient(solver):
        scores = plain(knn_graph(features, 12), one_hot(labels), known, solver=solver)
        loss = -scores[~known].gather(1, labels[~known, None]).clamp_min(1e-6).log().mean()
        return torch.autograd.grad(loss, features)[0]

    exact = gradient(Cholesky())
    error = (gradient(ConjugateGradient(rtol=rtol)) - exact).norm() / exact.norm()
    assert error <= 20 * rtol


def test_a_solver_that_stops_short_raises():
    features, labels, known = cases(25)
    solver = ConjugateGradient(rtol=1e-12, max_iterations=2)
    with pytest.raises(ConvergenceError, match="after 2 steps: raise `rtol` or `max_iterations`"):
        laplace_learning(knn_graph(features, 4), labels, known, solver=solver)


# What may come in: each gives finite scores and finite gradients.

STRANGE = {
    "identical points": lambda x: torch.full_like(x, 0.1),
    "two places": lambda x: (torch.arange(len(x)) % 2)[:, None] * torch.ones_like(x),
    "collapsed clusters": lambda x: (torch.arange(len(x)) % 3)[:, None] + 1e-6 * x,
    "duplicates": lambda x: x[torch.arange(len(x)) // 3],
    "tiny": lambda x: 1e-20 * x,
    "huge": lambda x: 1e17 * x,
    "far from the origin": lambda x: x + 1e4,
    "one outlier": lambda x: torch.where((torch.arange(len(x)) == 5)[:, None], 1e6, x),
    "one coordinate": lambda x: x[:, :1],
    "no coordinates": lambda x: x[:, :0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bandwidth", [SelfTuned(), Constant(), Constant(1e-9)], ids=repr)
@pytest.mark.parametrize("kernel", KERNELS, ids=["gaussian", "tapered"])
@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradient()], ids=["cholesky", "cg"])
@pytest.mark.parametrize("strange", STRANGE)
def test_strange_features_give_finite_scores_and_gradients(
    strange, solver, kernel, bandwidth, dtype
):
    features = STRANGE[strange](points(26, 30, 3, dtype=dtype)).requires_grad_()
    known = torch.arange(30) < 6
    graph = knn_graph(features, 5, kernel=kernel, bandwidth=bandwidth)
    scores = plain(graph, one_hot(torch.arange(30) % 3), known, solver=solver)
    total = scores.sum(1)
    assert scores.min() >= -1e-4
    assert (((total - 1).abs() < 1e-3) | (total == 0)).all()
    loss = -scores[~known].clamp_min(1e-6).log().mean()
    loss.backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("solver", [None, *SOLVERS], ids=["default", "cholesky", "cg"])
@pytest.mark.parametrize("num_known", [0, 14])
def test_nothing_or_everything_known_leaves_nothing_to_solve_but_a_gradient(num_known, solver):
    features, labels, _ = cases(27)
    features.requires_grad_()
    known = torch.arange(14) < num_known
    scores = laplace_learning(knn_graph(features, 4), labels, known, solver=solver)
    assert torch.equal(scores, labels if num_known else torch.zeros_like(labels))
    scores.sum().backward()  # a batch without queries must not break the training
    assert not features.grad.any()


def test_one_class_takes_everything():
    features, _, known = cases(28)
    scores = laplace_learning(knn_graph(features, 4), torch.ones(14, 1), known)
    assert_close(scores, torch.ones(14, 1).double())


@pytest.mark.parametrize("num_nodes", [0, 1, 2])
def test_few_nodes_or_none_have_scores(num_nodes):
    features = torch.randn(num_nodes, 3, requires_grad=True)
    labels = one_hot(torch.arange(num_nodes) % 2, 2)
    scores = laplace_learning(knn_graph(features), labels, torch.arange(num_nodes) < 1)
    assert_close(scores, torch.tensor([[1.0, 0.0]] * num_nodes).view(num_nodes, 2))
    scores.sum().backward()


def test_no_episodes_have_no_scores():
    scores = laplace_learning(
        knn_graph(torch.zeros(0, 5, 3)), torch.zeros(0, 5, 2), torch.zeros(0, 5, dtype=torch.bool)
    )
    assert scores.shape == (0, 5, 2)


def test_scores_below_a_source_may_be_negative_and_are_not_corrected_away():
    features, labels, _ = cases(29, num_nodes=60)
    known = torch.arange(60) < 1  # few enough for the default correction
    source = -5 * torch.ones_like(labels)
    graph = knn_graph(features, 5)
    scores = laplace_learning(graph, labels, known, source=source, tau=0.1)
    assert torch.equal(
        scores.sum(1) < 0, plain(graph, labels, known, source=source, tau=0.1).sum(1) < 0
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"labels": torch.ones(13, 3)},
            ValueError,
            r"for each of the 14 nodes, got shape \(13, 3\)",
        ),
        (
            {"labels": torch.ones(14)},
            ValueError,
            r"got shape \(14,\): pass \(n, classes\), such as",
        ),
        ({"labels": torch.ones(14, 0)}, ValueError, r"got shape \(14, 0\): pass \(n, classes\)"),
        ({"labels": torch.tensor(1.0)}, ValueError, r"got shape \(\): pass \(n, classes\)"),
        ({"labels": [[1.0]]}, TypeError, "`labels` must be a tensor, got list: pass"),
        (
            {"labels": torch.full((14, 3), torch.nan)},
            ValueError,
            "`labels` must be finite, got NaN",
        ),
        ({"known": torch.ones(14)}, TypeError, "`known` must be a boolean mask, got torch.float32"),
        ({"known": torch.arange(4)}, TypeError, "must be a boolean mask, got torch.int64: compare"),
        ({"known": [True]}, TypeError, "must be a boolean mask, got list: compare, do not cast"),
        (
            {"known": torch.ones(13).bool()},
            ValueError,
            r"must have shape \(14,\), got \(13,\): one",
        ),
        ({"tau": -0.1}, ValueError, "`tau` must be finite and not negative, got -0.1 as the least"),
        ({"tau": torch.nan}, ValueError, "`tau` must be finite and not negative, got nan"),
        ({"tau": torch.inf}, ValueError, "`tau` must be finite and not negative, got inf"),
        (
            {"tau": torch.ones(3)},
            ValueError,
            r"`tau` must be one number or one per node \(14\), got",
        ),
        ({"fidelity": -1.0}, ValueError, "`fidelity` must be finite and not negative, got -1"),
        ({"fidelity": torch.ones(3)}, ValueError, "`fidelity` must be one number or one per node"),
        ({"source": torch.ones(14, 1)}, ValueError, r"shape of `labels`, \(14, 3\), got \(14, 1\)"),
        ({"source": torch.ones(3, 14)}, ValueError, r"shape of `labels`, \(14, 3\), got \(3, 14\)"),
        (
            {"source": torch.full((14, 3), torch.inf)},
            ValueError,
            "`source` must be finite, got NaN",
        ),
    ],
)
def test_refuses_what_it_cannot_use(change, error, message):
    features, labels, known = cases(30)
    arguments = {"labels": labels, "known": known, **change}
    with pytest.raises(error, match=message):
        laplace_learning(knn_graph(features, 4), **arguments)


def test_refuses_negative_labels_where_class_masses_are_corrected():
    labels = torch.zeros(100, 1)
    labels[:2, 0] = torch.tensor([-1.0, 1.0])
    graph, known = knn_graph(points(31, 100, 2), 5), torch.arange(100) < 2
    with pytest.raises(ValueError, match="pass normalization=None to spread other numbers"):
        laplace_learning(graph, labels, known)
    assert plain(graph, labels, known).min() == -1


def laplacian_matrix(graph, which):
    degrees, matrix = graph.degrees(), graph.laplacian()
    if which is Laplacian.RANDOM_WALK:
        return matrix / degrees[:, None]
    if which is Laplacian.SYMMETRIC:
        return matrix * degrees.rsqrt() * degrees.rsqrt()[:, None]
    return matrix


@each_solver
@pytest.mark.parametrize("which", Laplacian)
@pytest.mark.parametrize("tau", [0.0, 0.2])
def test_scores_are_those_of_each_laplacian_densely(random_graph, which, tau, solver, generator):
    graph = random_graph(25, 40)
    labels = torch.randn(25, 3, generator=generator, dtype=torch.float64)
    known = torch.arange(25) % 4 == 1
    matrix = laplacian_matrix(graph, which) + tau * torch.eye(25).double()
    free = torch.linalg.solve(matrix[~known][:, ~known], -matrix[~known][:, known] @ labels[known])
    expected = labels.index_put((~known,), free)
    scores = Laplace(tau, laplacian=which)(graph, labels, known, solver=solver)
    assert_close(scores, expected, rtol=0, atol=1e-11)
    pull = torch.diag(0.7 * known.double())
    soft = torch.linalg.solve(matrix + pull, pull @ labels)
    scores = Laplace(tau, 0.7, which)(graph, labels, known, solver=solver)
    assert_close(scores, soft, rtol=0, atol=1e-11)


@pytest.mark.parametrize("which", Laplacian)
def test_derivatives_in_decay_and_fidelity_match_finite_differences_twice(which):
    features, labels, known = cases(20, num_nodes=7, num_known=3)
    graph = knn_graph(features, 3)

    def scores(tau, fidelity):
        return Laplace(tau, fidelity, which)(graph, labels, known)

    inputs = [torch.tensor(x).double().requires_grad_() for x in (0.1, 0.8)]
    assert gradcheck(scores, inputs)
    assert gradgradcheck(scores, inputs)


def test_without_decay_the_random_walk_laplacian_changes_no_score():
    features, labels, known = cases(21)
    graph = knn_graph(features, 4)
    walk = Laplace(laplacian=Laplacian.RANDOM_WALK)(graph, labels, known)
    assert_close(walk, Laplace()(graph, labels, known), rtol=0, atol=1e-12)


def test_the_equation_is_the_function_without_class_masses():
    features, labels, known = cases(22)
    graph = knn_graph(features, 4)
    for tau, fidelity in ((0.0, None), (0.1, None), (0.1, 2.0)):
        expected = plain(graph, labels, known, tau=tau, fidelity=fidelity)
        assert torch.equal(Laplace(tau, fidelity)(graph, labels, known), expected)


def test_the_equation_refuses_negative_decay_and_fidelity():
    with pytest.raises(ValueError, match="`tau` must be finite and not negative, got -1"):
        Laplace(-1.0)
    with pytest.raises(ValueError, match="`fidelity` must be finite and not negative, got nan"):
        Laplace(0.0, float("nan"))

"""What all equations keep: derivatives, order of nodes, episodes, dtypes, policies, refusals."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    WNLL,
    CenteredKernel,
    ClassMass,
    ConjugateGradient,
    ConvexEnergy,
    Equation,
    Gauge,
    Graph,
    Laplace,
    Laplacian,
    NearestLabel,
    PageRank,
    PLaplace,
    Poisson,
    PoissonMBO,
    PoissonReweighted,
    Problem,
    ProperlyWeighted,
    SparsePropagation,
    Spreading,
    Unreached,
    VolumeConstraint,
    knn_graph,
    laplace_learning,
)

SMOOTH = {
    "laplace": Laplace(tau=0.05),
    "soft": Laplace(tau=0.05, fidelity=0.7),
    "random-walk": Laplace(tau=0.05, fidelity=0.7, laplacian=Laplacian.RANDOM_WALK),
    "symmetric": Laplace(tau=0.05, laplacian=Laplacian.SYMMETRIC),
    "wnll": Laplace(reweighting=WNLL()),
    "properly": Laplace(reweighting=ProperlyWeighted(radius=0.5, ceiling=100)),
    "poisson-reweighted": Laplace(reweighting=PoissonReweighted(floor=0.1)),
    "spreading": Spreading(0.8),
    "page-rank": PageRank(0.8),
    "poisson": Poisson(),
    "poisson-mean": Poisson(Gauge.MEAN),
    "centered": CenteredKernel(level=9.0),
    "p-1.5": PLaplace(1.5, tau=0.05),
    "p-3": PLaplace(3.0),
    "cosh": ConvexEnergy(torch.cosh, theta=torch.cosh, tau=0.1),
}
ROUGH = {
    "nearest": NearestLabel(),
    "sparse": SparsePropagation(),
    "mbo": PoissonMBO(VolumeConstraint((1.0, 1.0, 1.0), max_steps=100), rounds=3),
}
seeds = st.integers(0, 2**31)
each_smooth = pytest.mark.parametrize("equation", SMOOTH.values(), ids=SMOOTH)
each = pytest.mark.parametrize("equation", (SMOOTH | ROUGH).values(), ids=SMOOTH | ROUGH)


def case(seed, num_nodes=12, num_known=5, classes=3):
    """Points, one-hot labels and the mask of known nodes, scattered."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_nodes, 2, generator=generator, dtype=torch.float64)
    labels = one_hot(torch.arange(num_nodes) % classes, classes).double()
    known = torch.randn(num_nodes, generator=generator).argsort() < num_known
    return points, labels, known


@each_smooth
def test_derivatives_in_weights_and_labels_match_finite_differences_twice(equation):
    points, labels, known = case(1, num_nodes=7, num_known=3, classes=2)
    graph = knn_graph(points, 3)

    def scores(weights, labels):
        return equation(graph.with_weights(weights), labels, known, points=points)

    inputs = graph.weights.clone().requires_grad_(), labels.requires_grad_()
    assert gradcheck(scores, inputs, fast_mode=True)
    assert gradgradcheck(scores, inputs, fast_mode=True)


@each_smooth
def test_derivatives_in_features_match_finite_differences_with_either_solver(equation):
    points, labels, known = case(2, num_nodes=9, num_known=4)

    for solver in (None, ConjugateGradient(rtol=1e-13)):

        def scores(points, solver=solver):
            graph = knn_graph(points, 4)
            return equation(graph, labels, known, points=points, solver=solver)

        assert gradcheck(scores, points.requires_grad_(), fast_mode=True)


@each
@settings(max_examples=5)
@given(seed=seeds)
def test_the_order_of_nodes_does_not_matter(equation, seed):
    points, labels, known = case(seed)
    order = torch.randn(12, generator=torch.Generator().manual_seed(seed)).argsort()

    def scores(points, labels, known):
        return equation(knn_graph(points, 4), labels, known, points=points)

    ahead = scores(points, labels, known)
    if isinstance(equation, PoissonMBO) and _has_ties(points, labels, known):
        return
    behind = scores(points[order], labels[order], known[order])
    assert_close(behind, ahead[order], rtol=0, atol=1e-8)


def _has_ties(points, labels, known):
    """Whether Poisson learning ends even somewhere, so that a threshold may go either way."""
    best = Poisson()(knn_graph(points, 4), labels, known).sort(dim=1).values
    return bool((best[:, -1] - best[:, -2] < 1e-9).any())


@each
def test_episodes_equal_their_graphs_one_by_one(equation):
    cases = [case(seed) for seed in (3, 4, 5)]
    points, labels, known = (torch.stack(part) for part in zip(*cases, strict=True))
    together = equation(knn_graph(points, 4), labels, known, points=points)
    apart = [equation(knn_graph(x, 4), y, m, points=x) for x, y, m in cases]
    assert together.shape == (3, 12, 3)
    assert_close(together, torch.stack(apart), rtol=0, atol=1e-9)


@each
def test_float32_stays_float32_and_agrees_with_float64(equation):
    points, labels, known = case(6)
    exact = equation(knn_graph(points, 4), labels, known, points=points)
    graph = knn_graph(points.float(), 4)
    scores = equation(graph, labels.float(), known, points=points.float())
    assert scores.dtype == torch.float32
    scale = exact.abs().max().clamp_min(1.0)
    assert_close(scores.double() / scale, exact / scale, rtol=0, atol=2e-5)


@each
def test_labels_of_unknown_nodes_are_not_read(equation):
    points, labels, known = case(7)
    hidden = torch.where(known[:, None], labels, torch.nan)
    graph = knn_graph(points, 4)
    with_them, without = (equation(graph, y, known, points=points) for y in (labels, hidden))
    assert torch.equal(with_them, without)


def islands():
    """A component of each kind: with labels of two classes, of one, without, and an isolated node.

    Node 9 is isolated and labelled, node 10 isolated and not.
    """
    edges = torch.tensor([[0, 0, 1, 1, 4, 4, 7], [1, 2, 2, 3, 5, 6, 8]])
    weights = torch.tensor([1.0, 0.5, 0.7, 0.3, 2.0, 1.0, 0.8], dtype=torch.float64)
    labels = one_hot(torch.tensor([0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0]), 3).double()
    known = torch.zeros(11, dtype=torch.bool)
    known[[0, 3, 4, 9]] = True
    known[1] = True
    return Graph(edges, weights.requires_grad_(), 11), labels, known, torch.arange(22.0).view(11, 2)


GROUNDED = [name for name, equation in SMOOTH.items() if equation.decay()]


@pytest.mark.parametrize("name", [*SMOOTH, *ROUGH])
def test_unreached_nodes_get_what_the_policy_says_with_finite_gradients(name):
    equation = (SMOOTH | ROUGH)[name]
    graph, labels, known, points = islands()
    lost = torch.tensor([7, 8, 10])
    for policy, value in ((Unreached.ABSTAIN, 0.0), (Unreached.UNIFORM, 1 / 3)):
        with torch.set_grad_enabled(equation.differentiable):
            scores = equation(graph, labels, known, points=points, unreached=policy)
        assert scores.isfinite().all()
        wanted = 0.0 if name in GROUNDED else value
        assert_close(
            scores[lost], torch.full((3, 3), wanted, dtype=torch.float64), rtol=0, atol=1e-12
        )
        reached = torch.tensor([4, 5, 6, 9])  # where every label is of class one
        assert (scores[reached].argmax(1) == 1).all()
    if equation.differentiable:
        scores.square().sum().backward()
        assert graph.weights.grad.isfinite().all()
    if name not in GROUNDED:
        with torch.no_grad(), pytest.raises(ValueError, match="component of node 7: label one"):
            equation(graph, labels, known, points=points, unreached=Unreached.ERROR)


@each
def test_a_class_without_labels_gets_no_node_beside_labels(equation):
    points, labels, known = case(8)
    labels = torch.cat([labels[:, :2] + labels[:, 2:] / 2, torch.zeros(12, 1).double()], 1)
    scores = equation(knn_graph(points, 4), labels, known, points=points)
    assert scores.isfinite().all()
    if not isinstance(equation, PoissonMBO):  # its priors ask for nodes of that class
        assert (scores[:, 2] <= scores.amax(1)).all()
        assert_close(scores[:, 2], torch.zeros(12).double(), rtol=0, atol=1e-9)


@each
def test_nothing_known_is_nothing_said(equation):
    points, labels, known = case(9)
    scores = equation(knn_graph(points, 4), labels, torch.zeros_like(known), points=points)
    assert not scores.any()


@each
def test_graphs_of_no_node_and_of_one_have_scores(equation):
    for nodes in (0, 1):
        graph = Graph(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0).double(), nodes)
        labels, known = torch.ones(nodes, 3).double(), torch.ones(nodes, dtype=torch.bool)
        scores = equation(graph, labels, known, points=torch.zeros(nodes, 2))
        assert scores.shape == (nodes, 3)
        assert scores.isfinite().all()


@each
def test_everything_known_is_kept_or_moved_but_finite(equation):
    points, labels, known = case(10)
    scores = equation(knn_graph(points, 4), labels, torch.ones_like(known), points=points)
    assert scores.isfinite().all()
    if not (equation.signed or isinstance(equation, Spreading | PageRank)):
        assert (scores.argmax(1) == labels.argmax(1)).all()


@each
def test_probabilities_are_not_negative_and_keep_the_winner(equation):
    points, labels, known = case(11)
    graph = knn_graph(points, 4)
    scores = equation(graph, labels, known, points=points)
    rows = equation.probabilities(graph, labels, known, points=points)
    assert (rows >= 0).all()
    assert (rows.argmax(1) == scores.argmax(1)).all()
    if equation.signed:
        assert_close(rows.sum(1), torch.ones(12).double())


def test_probabilities_abstain_at_unreached_nodes_of_signed_equations_too():
    graph, labels, known, _ = islands()
    rows = Poisson().probabilities(graph, labels, known)
    assert not rows[[7, 8, 10]].any()
    even = Poisson().probabilities(graph, labels, known, unreached=Unreached.UNIFORM)
    assert_close(even[[7, 8, 10]], torch.full((3, 3), 1 / 3, dtype=torch.float64))


def test_probabilities_of_laplace_are_laplace_learning():
    points, labels, known = case(12)
    graph, correct = knn_graph(points, 4), ClassMass()
    rows = Laplace(tau=0.1).probabilities(graph, labels, known, normalization=correct)
    assert_close(rows, laplace_learning(graph, labels, known, tau=0.1, normalization=correct))


@pytest.mark.parametrize("equation", ROUGH.values(), ids=ROUGH)
def test_equations_without_gradient_refuse_to_be_trained_through(equation):
    points, labels, known = case(13)
    graph = knn_graph(points.requires_grad_(), 4)
    with pytest.raises(TypeError, match="has no gradient, got weights or labels that require one"):
        equation(graph, labels, known)
    with torch.no_grad():
        assert not equation(graph, labels, known).requires_grad


def test_an_equation_of_the_user_is_one_method():
    @dataclass(frozen=True)
    class Diffusion(Equation):
        """One step of heat flow, backwards in time: (1 + t L) U = Y."""

        time: float = 1.0

        def solve(self, problem: Problem):
            ones = torch.ones_like(problem.labels[:, 0])
            return problem.solve(self.time * problem.graph.weights, ones, problem.labels)

    points, labels, known = case(14)
    graph = knn_graph(points, 4)
    matrix = torch.eye(12).double() + 0.5 * graph.laplacian()
    expected = torch.linalg.solve(matrix, labels * known[:, None])
    assert_close(Diffusion(0.5)(graph, labels, known), expected)


def test_refuses_labels_and_masks_that_do_not_fit():
    points, labels, known = case(15)
    graph = knn_graph(points, 4)
    with pytest.raises(ValueError, match="`labels` must have one row for each of the 12 nodes"):
        Poisson()(graph, labels[1:], known[1:])
    with pytest.raises(TypeError, match="`known` must be a boolean mask"):
        Spreading()(graph, labels, known.long())
    labels[known.nonzero()[0]] = torch.nan
    with pytest.raises(ValueError, match="`labels` must be finite"):
        Poisson()(graph, labels, known)

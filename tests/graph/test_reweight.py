"""Reweighted graphs are their closed forms, smooth in points and weights, and mend the collapse."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import (
    WNLL,
    Cholesky,
    ConjugateGradient,
    Graph,
    Laplace,
    PoissonReweighted,
    ProperlyWeighted,
    knn_graph,
    laplace_learning,
)


def case(seed=0, num_nodes=14):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_nodes, 2, generator=generator, dtype=torch.float64)
    return points, knn_graph(points, 4), torch.randn(num_nodes, generator=generator).argsort() < 4


def mean_over_ends(graph, factor):
    i, j = graph.edges
    return graph.weights * (factor[i] + factor[j]) / 2


def test_wnll_is_its_closed_form():
    _, graph, known = case()
    factor = torch.where(known, 14 / 4, 1.0).double()
    assert_close(WNLL()(graph, known).weights, mean_over_ends(graph, factor))


def test_properly_weighted_is_its_closed_form():
    points, graph, known = case()
    distance = torch.cdist(points, points[known]).amin(1)
    factor = 1 + (0.3 / distance.clamp_min(1e-300)) ** 1.5
    factor = factor.clamp_max(1000)
    found = ProperlyWeighted(radius=0.3, power=1.5, ceiling=1000)(graph, known, points=points)
    assert_close(found.weights, mean_over_ends(graph, factor))


def test_poisson_reweighted_is_its_closed_form():
    _, graph, known = case()
    assert len(graph.components().unique()) == 1
    psi = torch.linalg.pinv(graph.laplacian(), hermitian=True) @ (known.double() - 4 / 14)
    psi = psi - psi.min() + 0.01
    i, j = graph.edges
    found = PoissonReweighted(floor=0.01)(graph, known)
    assert_close(found.weights, graph.weights * psi[i] * psi[j])


def test_properly_weighted_is_smooth_in_points_and_radius():
    points, graph, known = case()
    radius = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def weights(points, radius):
        return ProperlyWeighted(radius)(graph, known, points=points).weights[:20]

    near_label = known[graph.edges].any(0)[:20]

    def away(points, radius):  # at the labels the factor is at its ceiling, ten million
        return weights(points, radius)[~near_label]

    assert gradcheck(away, (points.requires_grad_(), radius))
    assert gradgradcheck(away, (points, radius), fast_mode=True)
    weights(points, radius).sum().backward()
    assert points.grad.isfinite().all()


def test_without_labels_properly_weighted_and_wnll_leave_the_graph_alone():
    points, graph, known = case()
    for reweighting in (WNLL(), ProperlyWeighted()):
        found = reweighting(graph, torch.zeros_like(known), points=points)
        assert_close(found.weights, graph.weights)


@pytest.mark.parametrize("reweighting", [WNLL(), ProperlyWeighted(), PoissonReweighted()])
def test_a_constant_factor_changes_no_score_without_decay(reweighting):
    points, graph, known = case()
    labels = one_hot(torch.arange(14) % 3, 3).double()
    found = reweighting(graph, known, points=points)
    by_hand = laplace_learning(
        found.with_weights(7 * found.weights), labels, known, normalization=None
    )
    scores = Laplace(reweighting=reweighting)(graph, labels, known, points=points)
    assert_close(scores, by_hand, rtol=0, atol=1e-9)


@pytest.mark.parametrize("reweighting", [WNLL(), ProperlyWeighted(radius=2.0), PoissonReweighted()])
def test_two_labels_are_told_apart_where_laplace_learning_collapses(reweighting):
    generator = torch.Generator().manual_seed(3)
    classes = torch.arange(600) % 3
    points = 3 * torch.eye(3, 8)[classes] + torch.randn(600, 8, generator=generator)
    graph, labels, known = knn_graph(points, 10), one_hot(classes, 3).float(), torch.arange(600) < 3
    right = [
        (equation(graph, labels, known, points=points).argmax(1) == classes).float().mean()
        for equation in (Laplace(), Laplace(reweighting=reweighting))
    ]
    assert right[1] > right[0] + 0.1


def test_refuses_what_makes_no_weights():
    points, graph, known = case()
    with pytest.raises(ValueError, match="`points` must hold one row for each of the 14 nodes"):
        ProperlyWeighted()(graph, known)
    with pytest.raises(ValueError, match=r"got \(3, 2\): pass what the graph was made from"):
        ProperlyWeighted()(graph, known, points=points[:3])
    for wrong in ({"radius": 0.0}, {"power": -1.0}, {"ceiling": 1.0}):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be above"):
            ProperlyWeighted(**wrong)
    with pytest.raises(ValueError, match="`floor` must be positive, got 0"):
        PoissonReweighted(floor=0)


def test_components_are_reweighted_each_on_its_own():
    edges = torch.tensor([[0, 1, 3], [1, 2, 4]])
    graph = Graph(edges, torch.ones(3, dtype=torch.float64), 6)
    known = torch.tensor([True, False, False, False, False, True])
    found = PoissonReweighted(floor=0.5)(graph, known).weights
    # On the path 0-1-2 with a label at 0, psi falls by 2/3 and by 1/3; elsewhere it is flat.
    psi = torch.tensor([1.5, 5 / 6, 0.5], dtype=torch.float64)
    assert_close(found[:2], psi[:2] * psi[1:])
    assert_close(found[2], torch.tensor(0.25).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reweighting", [WNLL(), ProperlyWeighted(), PoissonReweighted()])
def test_an_iterative_solver_reaches_every_node_of_a_reweighted_graph(reweighting, dtype):
    generator = torch.Generator().manual_seed(0)
    points = 5 * torch.randn(600, 8, generator=generator, dtype=dtype)
    graph, known = knn_graph(points, 8), torch.arange(600) < 6
    labels = one_hot(torch.arange(600) % 3, 3).to(dtype)
    equation = Laplace(reweighting=reweighting)
    scores = equation(graph, labels, known, points=points, solver=ConjugateGradient(1e-6))
    exact = equation(graph, labels, known, points=points, solver=Cholesky())
    assert_close(scores, exact, rtol=0, atol=1e-3)

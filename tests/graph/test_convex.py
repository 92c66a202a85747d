"""Convex energies are at their minimum, differentiated exactly, and know their limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft._check import ConvergenceError
from weft.graph import (
    Cholesky,
    ConjugateGradient,
    ConvexEnergy,
    Laplace,
    PLaplace,
    SolveLog,
    knn_graph,
)


def case(seed, num_nodes=14, num_known=4, k=4):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_nodes, 2, generator=generator, dtype=torch.float64)
    labels = torch.rand(num_nodes, 2, generator=generator, dtype=torch.float64)
    known = torch.randn(num_nodes, generator=generator).argsort() < num_known
    return knn_graph(points, k), labels, known


def slope(graph, scores, derivative, tau=0.0, own=lambda u: u):
    """The derivative of the energy at each node, by definition."""
    i, j = graph.edges
    flow = graph.weights[:, None] * derivative(scores[i] - scores[j])
    return torch.zeros_like(scores).index_add(0, i, flow).index_add(0, j, -flow) + tau * own(scores)


def p_slope(p, floor=1e-3):
    return lambda t: t * (t.square() + floor**2) ** (p / 2 - 1)


@pytest.mark.parametrize("solver", [Cholesky(), ConjugateGradient()], ids=["dense", "cg"])
@pytest.mark.parametrize("p", [1.05, 1.1, 1.5, 2.0, 3.0, 7.5, 20.0, 100.0])
def test_p_laplace_is_where_the_energy_has_no_slope(p, solver):
    graph, labels, known = case(0)
    scores = PLaplace(p)(graph, labels, known, solver=solver)
    flow = graph.weights[:, None] * p_slope(p)(scores[graph.edges[0]] - scores[graph.edges[1]])
    left = slope(graph, scores, p_slope(p))[~known]
    assert_close(left / flow.abs().max(), torch.zeros_like(left), rtol=0, atol=1e-10)
    assert_close(scores[known], labels[known])


@pytest.mark.parametrize("p", [1.5, 3.0, 6.0])
def test_p_laplace_is_what_a_general_minimiser_finds(p):
    graph, labels, known = case(1)
    labels, tau = labels[:, :1], 0.05
    i, j = graph.edges

    def energy(free):
        u = labels.index_put((~known,), torch.from_numpy(free)[:, None]).requires_grad_()
        t = (u[i] - u[j]).squeeze(1)
        total = (graph.weights * (t.square() + 1e-6) ** (p / 2) / p).sum() + tau / 2 * (u * u).sum()
        return total.item(), torch.autograd.grad(total, u)[0][~known].squeeze(1).numpy()

    start = torch.full((int((~known).sum()),), 0.5).double().numpy()
    found = minimize(energy, start, jac=True, method="BFGS", options={"gtol": 1e-10})
    scores = PLaplace(p, tau=tau)(graph, labels, known)
    assert_close(scores[~known].squeeze(1), torch.from_numpy(found.x), rtol=0, atol=1e-7)


def test_p_of_two_is_laplace_learning():
    graph, labels, known = case(2)
    for tau in (0.0, 0.3):
        expected = Laplace(tau)(graph, labels, known)
        assert_close(PLaplace(2.0, tau)(graph, labels, known), expected, rtol=0, atol=1e-12)
        half_square = ConvexEnergy(lambda t: t.square() / 2, tau=tau)
        assert_close(half_square(graph, labels, known), expected, rtol=0, atol=1e-12)


def test_towards_one_p_laplace_is_a_minimal_cut():
    graph, labels, known = case(3, num_nodes=10, num_known=2, k=3)
    labels = one_hot(known.cumsum(0) % 2, 2).double()
    i, j = graph.edges.numpy()
    num_edges = len(i)
    # Total variation as a linear programme: t_e >= |u_i - u_j|.
    cost = torch.cat([torch.zeros(10), graph.weights]).numpy()
    rows = torch.zeros(2 * num_edges, 10 + num_edges)
    edge = torch.arange(num_edges)
    rows[edge, i], rows[edge, j], rows[edge, 10 + edge] = 1.0, -1.0, -1.0
    rows[num_edges + edge, i], rows[num_edges + edge, j] = -1.0, 1.0
    rows[num_edges + edge, 10 + edge] = -1.0
    bounds = [(y, y) if k else (0, 1) for y, k in zip(labels[:, 0].tolist(), known, strict=True)]
    bounds += [(0, None)] * num_edges
    least = linprog(cost, A_ub=rows.numpy(), b_ub=torch.zeros(2 * num_edges).numpy(), bounds=bounds)
    scores = PLaplace(1.02, floor=1e-5)(graph, labels, known)[:, 0]
    total = (graph.weights * (scores[i] - scores[j]).abs()).sum().item()
    assert total == pytest.approx(least.fun, rel=0.03)


def test_for_large_p_the_largest_difference_is_the_smallest_possible():
    graph, labels, known = case(4)
    labels = labels[:, :1]
    i, j = graph.edges
    hops = [2.0, 5.0, 30.0, 120.0]
    reach = [
        (scores[i] - scores[j]).abs().max().item()
        for scores in (PLaplace(p, floor=1e-4)(graph, labels, known) for p in hops)
    ]
    assert reach == sorted(reach, reverse=True)
    # Lipschitz extension: the largest slope between two labels, over the hops between them.
    from scipy.sparse.csgraph import shortest_path

    steps = torch.from_numpy(shortest_path(graph.to_scipy() > 0, unweighted=True)).double()
    between = (labels - labels.T).abs()[known][:, known]
    least = (between / steps[known][:, known].clamp_min(1)).max().item()
    assert least <= reach[-1] < 1.1 * least


@pytest.mark.parametrize("p", [1.3, 2.0, 4.0, 10.0])
def test_derivatives_in_everything_match_finite_differences_twice(p):
    graph, labels, known = case(5, num_nodes=6, num_known=3, k=2)

    def scores(weights, labels, tau, p):
        return PLaplace(p, tau, floor=0.1)(graph.with_weights(weights), labels, known)

    inputs = (graph.weights, labels, torch.tensor(0.1), torch.tensor(p))
    inputs = tuple(part.double().clone().requires_grad_() for part in inputs)
    assert gradcheck(scores, inputs, fast_mode=True)
    assert gradgradcheck(scores, inputs, fast_mode=True)


def test_parameters_inside_an_energy_of_the_user_are_differentiated():
    graph, labels, known = case(6, num_nodes=6, num_known=3, k=2)

    def scores(stiffness, centre):
        energy = ConvexEnergy(
            lambda t: (1 + stiffness * t**2).sqrt(), theta=lambda u: (u - centre).cosh(), tau=0.3
        )
        return energy(graph, labels, known)

    inputs = [torch.tensor(x).double().requires_grad_() for x in (2.0, 0.4)]
    assert gradcheck(scores, inputs, fast_mode=True)
    assert gradgradcheck(scores, inputs, fast_mode=True)


def test_an_energy_of_the_user_has_no_slope_at_its_minimum():
    graph, labels, known = case(7)
    scores = ConvexEnergy(torch.cosh, theta=lambda u: u**4 + u**2, tau=0.2)(graph, labels, known)
    left = slope(graph, scores, torch.sinh, 0.2, lambda u: 4 * u**3 + 2 * u)[~known]
    assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-12)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), p=st.floats(1.1, 12))
def test_scores_obey_the_maximum_principle_and_keep_constants(seed, p):
    graph, labels, known = case(seed)
    scores = PLaplace(p)(graph, labels, known)
    reached = torch.isin(graph.components(), graph.components()[known])
    inside = scores[reached]
    assert (inside >= labels[known].amin(0) - 1e-9).all()
    assert (inside <= labels[known].amax(0) + 1e-9).all()
    flat = PLaplace(p)(graph, torch.full_like(labels, 0.7), known)
    assert_close(flat[reached], torch.full_like(inside, 0.7), rtol=0, atol=1e-9)


def test_gradients_of_an_iterative_solver_are_those_of_the_dense_one():
    generator = torch.Generator().manual_seed(8)
    points = torch.randn(150, 3, generator=generator, dtype=torch.float64)
    labels, known = one_hot(torch.arange(150) % 3, 3).double(), torch.arange(150) < 6
    gradients = []
    for solver in (Cholesky(), ConjugateGradient()):
        graph = knn_graph(points, 6)
        weights = graph.weights.clone().requires_grad_()
        scores = PLaplace(10.0)(graph.with_weights(weights), labels, known, solver=solver)
        scores[~known].square().sum().backward()
        gradients.append(weights.grad)
    scale = gradients[0].abs().max().item()
    assert_close(*gradients, rtol=0, atol=1e-6 * scale)


def test_continuation_keeps_the_number_of_steps_small():
    graph, labels, known = case(9)
    for p, most in ((2.0, 5), (3.0, 14), (50.0, 80), (1.1, 80)):
        log = SolveLog()
        PLaplace(p)(graph, labels, known, log=log)
        assert log.factorizations <= most


@pytest.mark.parametrize("p", [1.0, 0.5, float("nan"), float("inf")])
def test_refuses_a_p_that_is_not_above_one(p):
    with pytest.raises(ValueError, match="`p` must lie strictly between 1 and inf, got"):
        PLaplace(p)


def test_refuses_a_floor_of_zero_and_negative_decay():
    with pytest.raises(ValueError, match="`floor` must be positive, got 0"):
        PLaplace(3.0, floor=0)
    for equation in (PLaplace, ConvexEnergy):
        with pytest.raises(ValueError, match="`tau` must be finite and not negative, got -1"):
            equation(torch.cosh, tau=-1.0) if equation is ConvexEnergy else equation(3.0, tau=-1.0)


def test_an_energy_that_is_not_minimised_in_time_says_how_far_it_came():
    graph, labels, known = case(10)
    with pytest.raises(ConvergenceError, match="Newton's method must move no score by more than"):
        PLaplace(1.1, max_steps=2)(graph, labels, known)

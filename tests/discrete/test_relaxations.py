"""Relaxations are smooth, keep their constraints, and become solutions at temperature zero."""

import builtins

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.discrete import (
    Assignment,
    Ranking,
    StraightThrough,
    TopK,
    neural_sort,
    sinkhorn,
    soft_argmin,
    soft_rank,
    soft_sort,
    solve_discrete,
)

seeds = st.integers(0, 2**31)
each_sort = pytest.mark.parametrize("sort", [soft_sort, neural_sort])
each_alpha = pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The cheapest entry


@each_alpha
def test_soft_argmin_is_a_distribution_that_tends_to_the_argmin(alpha):
    if alpha != 1:
        pytest.importorskip("entmax")
    costs = normal(0, 2, 3, 6)
    relaxed = soft_argmin(costs, temperature=0.7, alpha=alpha)
    assert (relaxed >= 0).all()
    assert_close(relaxed.sum(-1), torch.ones(2, 3).double())
    cold = soft_argmin(costs, temperature=1e-4, alpha=alpha)
    assert_close(cold, TopK()(costs), rtol=0, atol=1e-9)


def test_soft_argmin_is_the_softmax_of_negative_costs():
    costs = normal(0, 3, 6)
    assert_close(soft_argmin(costs, temperature=0.5), (-costs / 0.5).softmax(-1))


def test_sparsemax_has_its_known_value_and_jacobian():
    pytest.importorskip("entmax")
    costs = -torch.tensor([-2.0, 0.0, 0.5]).double()
    relaxed = soft_argmin(costs, alpha=2)
    assert_close(relaxed, torch.tensor([0.0, 0.25, 0.75]).double())
    jacobian = torch.autograd.functional.jacobian(lambda c: soft_argmin(c, alpha=2), costs)
    support = torch.tensor([0.0, 1, 1]).double()
    expected = support.diag() - support.outer(support) / support.sum()
    assert_close(jacobian, -expected)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_soft_argmin_differentiates(alpha):
    if alpha != 1:
        pytest.importorskip("entmax")
    costs = normal(0, 2, 5).requires_grad_()
    assert gradcheck(lambda costs: soft_argmin(costs, temperature=2.0, alpha=alpha), costs)
    if alpha == 1:
        assert gradgradcheck(lambda costs: soft_argmin(costs, temperature=2.0), costs)


def test_without_entmax_other_alphas_say_what_to_install(monkeypatch):
    original = builtins.__import__

    def missing(name, *rest):
        if name == "entmax":
            raise ModuleNotFoundError("No module named 'entmax'", name="entmax")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    soft_argmin(torch.rand(3))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'weft\[relax\]'"):
        soft_argmin(torch.rand(3), alpha=1.5)


# Assignments


@given(seeds)
def test_sinkhorn_is_doubly_stochastic(seed):
    plan = sinkhorn(normal(seed, 2, 5, 5), temperature=1.0, iterations=200)
    for axis in (1, 2):
        assert_close(plan.sum(axis), torch.ones(2, 5).double(), rtol=0, atol=1e-6)


def test_sinkhorn_scales_rows_and_columns_only():
    # Ratios (p_ij p_kl) / (p_il p_kj) are those of exp(-costs / temperature).
    costs = normal(0, 3, 3)
    log_plan = sinkhorn(costs, temperature=0.5, iterations=3).log()
    centred = Assignment().project(log_plan)
    assert_close(centred, Assignment().project(-costs / 0.5))


def test_sinkhorn_tends_to_the_assignment():
    costs = normal(0, 4, 5, 5)
    plan = sinkhorn(costs, temperature=0.02, iterations=2000)
    assert_close(plan, Assignment()(costs), rtol=0, atol=0.1)


def test_sinkhorn_differentiates_twice():
    costs = normal(0, 3, 3).requires_grad_()
    run = lambda costs: sinkhorn(costs, temperature=1.0, iterations=5)  # noqa: E731
    assert gradcheck(run, costs)
    assert gradgradcheck(run, costs)


# Permutations


@given(seeds)
@each_sort
def test_cold_sorts_sort_and_rank(sort, seed):
    costs = normal(seed, 3, 6).argsort(-1).double() + 0.1 * normal(seed, 3, 6).sigmoid()
    matrix = sort(costs, temperature=0.01)
    descending = costs.sort(-1, descending=True).values
    assert_close((matrix @ costs[..., None])[..., 0], descending, rtol=0, atol=1e-9)
    ranks = torch.arange(1.0, 7).double() @ matrix
    assert_close(ranks, Ranking()(costs), rtol=0, atol=1e-9)


@each_sort
def test_sorts_have_rows_that_sum_to_one_and_follow_permutations(sort):
    costs, order = normal(0, 2, 6), torch.tensor([3, 0, 5, 1, 4, 2])
    matrix = sort(costs, temperature=0.7)
    assert_close(matrix.sum(-1), torch.ones(2, 6).double())
    assert_close(sort(costs[:, order], temperature=0.7), matrix[:, :, order])


@each_sort
def test_sorts_differentiate_twice(sort):
    costs = normal(0, 2, 4).requires_grad_()
    run = lambda costs: sort(costs, temperature=1.0)  # noqa: E731
    assert gradcheck(run, costs)
    assert gradgradcheck(run, costs)


def test_neural_sort_is_its_formula():
    costs, n = normal(0, 5), 5
    gaps = (costs[:, None] - costs[None]).abs().sum(1)
    for row in range(1, n + 1):
        expected = (((n + 1 - 2 * row) * costs - gaps) / 0.3).softmax(0)
        assert_close(neural_sort(costs, temperature=0.3)[row - 1], expected)


def test_soft_ranks_have_their_known_values():
    costs = torch.tensor([5.0, 1.0, 2.0]).double()
    assert_close(soft_rank(costs, temperature=2.0), torch.tensor([1.0, 2.75, 2.25]).double())
    assert_close(soft_rank(costs, temperature=1.0), Ranking()(costs))
    assert_close(soft_rank(costs, temperature=1e9), torch.full((3,), 2.0).double())


@given(seeds, st.integers(1, 6), st.floats(0.1, 10))
def test_soft_ranks_are_the_nearest_point_of_the_permutahedron(seed, n, temperature):
    costs = normal(seed, 2, n)
    ranks, point = soft_rank(costs, temperature=temperature), -costs / temperature
    assert_close(ranks.sum(-1), torch.full((2,), n * (n + 1) / 2).double())
    # Nearest: no vertex, and so no point of the hull, lies beyond it in the direction of `point`.
    farthest = Ranking()(ranks - point)  # the vertex that is least along ranks - point
    beyond = ((point - ranks) * (farthest - ranks)).sum(-1)
    assert (beyond < 1e-9 * (1 + point.abs().sum(-1))).all()
    descending = ranks.gather(-1, costs.argsort(-1, descending=True))
    for most in range(1, n + 1):  # inside: any m ranks sum to at least 1 + ... + m
        assert (descending[:, :most].sum(-1) > most * (most + 1) / 2 - 1e-9).all()


def test_soft_ranks_differentiate_by_means_of_blocks():
    costs = torch.tensor([[5.0, 1.0, 2.0]]).double().requires_grad_()
    run = lambda costs: soft_rank(costs, temperature=2.0)  # noqa: E731
    assert gradcheck(run, costs)
    assert gradgradcheck(run, costs)
    rows = [torch.autograd.grad(run(costs)[0, entry], costs)[0][0] for entry in range(3)]
    expected = torch.tensor([[0, 0, 0], [0, -0.25, 0.25], [0, 0.25, -0.25]]).double()
    assert_close(torch.stack(rows), expected)
    rule = StraightThrough(run)
    solve_discrete(costs, Ranking(), rule)[0, 1].backward()
    assert_close(costs.grad, expected[[1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relaxations_keep_dtype_and_batch_shape(dtype):
    costs = torch.rand(2, 3, 4, 4, dtype=dtype)
    for relaxed in (
        soft_argmin(costs),
        sinkhorn(costs, temperature=1.0),
        soft_sort(costs[..., 0], temperature=1.0),
        neural_sort(costs[..., 0], temperature=1.0),
    ):
        assert relaxed.shape == costs.shape
        assert relaxed.dtype == dtype


def test_bad_input_is_refused():
    costs = torch.rand(2, 3)
    for call in (
        lambda: soft_argmin(costs, temperature=0.0),
        lambda: sinkhorn(costs, temperature=-1.0),
        lambda: soft_sort(costs, temperature=float("nan")),
        lambda: neural_sort(costs, temperature=float("inf")),
        lambda: soft_rank(costs, temperature=0.0),
    ):
        with pytest.raises(ValueError, match="`temperature` must be positive and finite, got"):
            call()
    with pytest.raises(ValueError, match=r"`costs` must be square, got shape \(2, 3\)"):
        sinkhorn(costs, temperature=1.0)
    with pytest.raises(ValueError, match="`iterations` must be a whole number"):
        sinkhorn(costs, temperature=1.0, iterations=0)
    with pytest.raises(ValueError, match=r"`alpha` must be 1 or more, got 0\.5"):
        soft_argmin(costs, alpha=0.5)
    with pytest.raises(TypeError, match="`costs` must be a floating-point tensor"):
        soft_argmin(torch.arange(3))

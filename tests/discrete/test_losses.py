"""Losses have the gradients that belong to their values, bound what they say, and rank rightly."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.discrete import (
    Gumbel,
    Ranking,
    SolverLog,
    TopK,
    average_precision_loss,
    fenchel_young_loss,
    hamming_l1,
    recall_loss,
    solve_discrete,
    spo_plus_loss,
)

seeds = st.integers(0, 2**31)
THREE = TopK(3)
SUBSETS = torch.tensor(
    [[1.0 * (i in chosen) for i in range(6)] for chosen in combinations(range(6), 3)]
).double()


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# SPO+


@given(seeds)
def test_spo_plus_bounds_the_regret_and_is_zero_for_true_costs(seed):
    costs, true = normal(seed, 4, 6), normal(seed + 1, 4, 6)
    loss = spo_plus_loss(costs, true, THREE)
    regret = (true * (THREE(costs) - THREE(true))).sum(1)
    assert (loss >= regret - 1e-12).all()
    assert (regret >= 0).all()
    assert_close(spo_plus_loss(true, true, THREE), torch.zeros(4).double())


@given(seeds)
def test_spo_plus_is_its_formula_by_enumeration(seed):
    costs, true = normal(seed, 6), normal(seed + 1, 6)
    best = SUBSETS[(SUBSETS @ true).argmin()]
    low = (SUBSETS @ (2 * costs - true)).min()
    assert_close(spo_plus_loss(costs, true, THREE), -low + 2 * costs @ best - true @ best)


@given(seeds)
def test_the_gradient_of_spo_plus_is_a_subgradient_and_its_formula(seed):
    costs, true = normal(seed, 4, 6).requires_grad_(), normal(seed + 1, 4, 6)
    loss = spo_plus_loss(costs, true, THREE)
    (grad,) = torch.autograd.grad(loss.sum(), costs)
    assert_close(grad, 2 * (THREE(true) - THREE(2 * costs.detach() - true)))
    other = normal(seed + 2, 4, 6)
    bound = loss + (grad * (other - costs)).sum(1)
    assert (spo_plus_loss(other, true, THREE) >= bound - 1e-9).all()


def test_spo_plus_solves_twice_and_nothing_in_backward():
    costs, log = normal(0, 2, 3, 6).requires_grad_(), SolverLog()
    loss = spo_plus_loss(costs, normal(1, 2, 3, 6), THREE, log=log)
    loss.sum().backward()
    assert loss.shape == (2, 3)
    assert log == SolverLog(calls=2, instances=12)


# Fenchel-Young


def fenchel_young(costs, target, scale=0.5, samples=20, **options):
    """On the same noise each time."""
    return fenchel_young_loss(
        costs, target, THREE, generator=seeded(), scale=scale, samples=samples, **options
    )


@pytest.mark.parametrize("noise", [None, Gumbel()])
def test_the_fenchel_young_loss_has_the_gradient_that_belongs_to_its_value(noise):
    costs, target = normal(0, 2, 6).requires_grad_(), THREE(normal(1, 2, 6))
    options = {} if noise is None else {"noise": noise}
    assert gradcheck(lambda costs: fenchel_young(costs, target, **options), costs)


def test_its_gradient_is_the_target_minus_the_mean_solution():
    costs, target = normal(0, 2, 6).requires_grad_(), THREE(normal(1, 2, 6))
    (grad,) = torch.autograd.grad(fenchel_young(costs, target).sum(), costs)
    noise = torch.randn(2, 20, 6, generator=seeded(), dtype=torch.float64)
    assert_close(grad, target - THREE(costs.detach()[:, None] - 0.5 * noise).mean(1))
    assert_close(grad.sum(1), torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_its_value_under_gumbel_noise_is_that_of_a_logsumexp():
    theta, scale = torch.tensor([-0.6, 1.9, -0.2]).double(), 0.5
    target = torch.tensor([0.0, 1.0, 0.0]).double()
    losses = fenchel_young_loss(
        (-theta).expand(5000, 3),
        target.expand(5000, 3),
        TopK(1),
        generator=seeded(),
        scale=scale,
        samples=4,
        noise=Gumbel(),
    )
    euler = 0.5772156649015329
    expected = scale * (theta / scale).logsumexp(0) + scale * euler - theta[1]
    assert abs(losses.mean() - expected) < 4.5 * losses.std() / 5000**0.5


def test_its_value_under_normal_noise_is_that_of_two_classes():
    # F = theta_0 Phi + theta_1 (1 - Phi) + s sqrt(2) phi at (theta_0 - theta_1) / (s sqrt 2).
    theta, spread = torch.tensor([0.5, 0.0]).double(), 0.5 * math.sqrt(2)
    x = 0.5 / spread
    cdf, phi = (1 + math.erf(x / math.sqrt(2))) / 2, math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    losses = fenchel_young_loss(
        (-theta).expand(5000, 2),
        torch.zeros(5000, 2).double(),
        TopK(1),
        generator=seeded(),
        scale=0.5,
        samples=4,
    )
    expected = 0.5 * cdf + spread * phi
    assert abs(losses.mean() - expected) < 4.5 * losses.std() / 5000**0.5


@given(seeds)
def test_it_is_convex_and_least_where_mean_solutions_are_the_target(seed):
    one, other, target = normal(seed, 6), normal(seed + 1, 6), SUBSETS[3]
    middle = fenchel_young((one + other) / 2, target)
    assert middle <= (fenchel_young(one, target) + fenchel_young(other, target)) / 2 + 1e-9
    at = -20 * target  # far in the cone of the target
    assert fenchel_young(at, target) <= fenchel_young(at + one, target) + 1e-9


def test_losses_of_masked_instances_are_those_of_smaller_ones():
    costs, other = normal(0, 2, 6), normal(1, 2, 6)
    mask = torch.tensor([True, True, False, True, True, True])
    small = [part[:, mask] for part in (costs, other)]
    costs[:, 2] = torch.nan
    costs.requires_grad_()
    loss = spo_plus_loss(costs, other, THREE, mask=mask)
    assert_close(loss, spo_plus_loss(*small, THREE))
    young = fenchel_young(costs, other, mask=mask, scale=1e-9)
    assert_close(young, fenchel_young(*small, scale=1e-9), rtol=0, atol=1e-7)
    (grad,) = torch.autograd.grad((loss + young).sum(), costs)
    assert grad.isfinite().all()
    assert not grad[:, 2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_keep_the_dtype_and_any_batch_shape(dtype):
    for batch in ((), (2, 3), (0,)):
        costs = torch.rand(*batch, 6, dtype=dtype)
        for loss in (
            spo_plus_loss(costs, costs.double() + 1, THREE),
            fenchel_young(costs, THREE(costs).double()),
        ):
            assert loss.shape == batch
            assert loss.dtype == dtype


def test_second_derivatives_are_refused():
    costs = normal(0, 2, 6).requires_grad_()
    for loss in (spo_plus_loss(costs, normal(1, 2, 6), THREE), fenchel_young(costs, SUBSETS[:2])):
        (grad,) = torch.autograd.grad(loss.sum(), costs, create_graph=True)
        with pytest.raises(RuntimeError, match="can be differentiated once"):
            grad.square().sum().backward()


# Hamming


@given(seeds)
def test_hamming_l1_is_the_share_of_wrong_entries_and_flat_where_they_are_right(seed):
    solution, target = THREE(normal(seed, 5, 6)), THREE(normal(seed + 1, 5, 6))
    solution.requires_grad_()
    loss = hamming_l1(solution, target)
    assert_close(loss, (solution != target).double().mean())
    (grad,) = torch.autograd.grad(loss, solution)
    assert not grad[solution == target].any()
    assert (grad[solution != target].abs() == 1 / 30).all()


# Ranking


def slow_recall_loss(scores, relevant):
    """By counting, one item at a time."""
    losses = []
    for row, good in zip(scores.tolist(), relevant.tolist(), strict=True):
        each = []
        for score in (s for s, g in zip(row, good, strict=True) if g):
            before = sum(s > score for s, g in zip(row, good, strict=True) if not g)
            each.append(math.log(1 + math.log(1 + before)))
        losses.append(sum(each) / max(len(each), 1))
    return torch.tensor(losses).double()


def slow_average_precision(scores, relevant):
    values = []
    for row, good in zip(scores.tolist(), relevant.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda i: -row[i])
        hits, total = 0, 0.0
        for place, item in enumerate(order, 1):
            if good[item]:
                hits += 1
                total += hits / place
        values.append(total / hits if hits else 1.0)
    return torch.tensor(values).double()


@given(seeds, st.sampled_from([(8, 32), (5, 5), (1, 7), (3, 1)]))
def test_ranking_losses_are_right_for_square_and_oblong_batches(seed, shape):
    scores, relevant = normal(seed, *shape), normal(seed + 1, *shape) > 0.3
    ranks = Ranking()(scores)
    assert_close(recall_loss(ranks, relevant), slow_recall_loss(scores, relevant))
    average = average_precision_loss(ranks, relevant)
    assert_close(average, 1 - slow_average_precision(scores, relevant))


def test_ranking_losses_are_zero_in_the_right_order_and_where_nothing_is_relevant():
    ranks = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    relevant = torch.tensor([[True, True, False, False], [False] * 4])
    assert not recall_loss(ranks, relevant).any()
    assert not average_precision_loss(ranks, relevant).any()


def test_ranking_losses_differentiate_twice_in_the_ranks_of_relevant_items():
    relevant = torch.tensor([[True, False, True, False, True], [False, False, True, True, False]])
    ranks = Ranking()(normal(0, 2, 5)).requires_grad_()
    for loss in (average_precision_loss, recall_loss):
        (grad,) = torch.autograd.grad(loss(ranks, relevant).sum(), ranks)
        assert not grad[~relevant].any()
        assert (grad[relevant] > 0).all()
    # Away from whole numbers no rank meets another within a finite difference.
    apart = (ranks + 0.3 * relevant).detach().requires_grad_()
    for loss in (average_precision_loss, recall_loss):
        assert gradcheck(lambda ranks: loss(ranks, relevant), apart)  # noqa: B023
        assert gradgradcheck(lambda ranks: loss(ranks, relevant), apart)  # noqa: B023


@pytest.mark.parametrize("loss", [recall_loss, average_precision_loss])
def test_flat_ranking_losses_have_the_same_value_and_no_gradient_where_the_order_is_right(loss):
    relevant = torch.tensor([[True, False, True, True, False]])
    ranks = torch.tensor([[1.0, 2, 3, 4, 5]]).double().requires_grad_()
    assert_close(loss(ranks, relevant, flat=True), loss(ranks, relevant))
    (flat,) = torch.autograd.grad(loss(ranks, relevant, flat=True), ranks)
    (full,) = torch.autograd.grad(loss(ranks, relevant), ranks)
    assert full[0, 0] > 0
    assert flat[0, 0] == 0
    assert_close(flat[0, 1:], full[0, 1:])


def test_through_the_layer_a_step_raises_the_scores_of_relevant_items():
    scores = normal(0, 4, 10).requires_grad_()
    relevant = normal(1, 4, 10) > 0.5
    ranks = solve_discrete(scores, Ranking())
    (grad,) = torch.autograd.grad(recall_loss(ranks, relevant).sum(), scores)
    assert grad[relevant].mean() < 0 < grad[~relevant].mean()


def test_shapes_that_differ_are_refused():
    costs = torch.rand(2, 6)
    for call in (
        lambda: spo_plus_loss(costs, costs[0], THREE),
        lambda: fenchel_young(costs, costs[0]),
        lambda: hamming_l1(costs, costs[0]),
        lambda: recall_loss(costs, costs[0] > 0),
        lambda: average_precision_loss(costs, costs[0] > 0),
    ):
        with pytest.raises(ValueError, match=r"must have shape \(2, 6\), got \(6,\)"):
            call()
    with pytest.raises(TypeError, match="`relevant` must be a boolean mask, got"):
        recall_loss(costs, costs)
    with pytest.raises(ValueError, match="`samples` must be a whole number"):
        fenchel_young(costs, costs, samples=0)
    with pytest.raises(ValueError, match="`scale` must be positive"):
        fenchel_young(costs, costs, scale=-1.0)

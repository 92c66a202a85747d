"""Marginals of k-subsets are those of enumeration, and so are their derivatives."""

from functools import partial
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, vmap
from torch.testing import assert_close

from weft.discrete import StraightThrough, TopK, soft_top_k, solve_discrete, subset_marginals
from weft.discrete._subsets import log_subset_sum


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def enumerated(costs, k):
    """Marginals and log e_k by all subsets."""
    n = costs.shape[-1]
    subsets = torch.tensor(
        [[1.0 * (i in chosen) for i in range(n)] for chosen in combinations(range(n), k)]
    ).double()
    logits = -costs @ subsets.T
    return logits.softmax(-1) @ subsets, logits.logsumexp(-1)


@given(st.integers(0, 2**31), st.integers(1, 7), st.data())
def test_marginals_are_those_of_all_subsets(seed, n, data):
    k = data.draw(st.integers(1, n))
    costs = normal(seed, 2, n)
    marginals, log_sum = enumerated(costs, k)
    assert_close(subset_marginals(costs, k=k), marginals, rtol=0, atol=1e-12)
    assert_close(log_subset_sum(-costs, k), log_sum)


@given(st.integers(0, 2**31), st.sampled_from([10, 33, 100]), st.integers(1, 10))
def test_marginals_sum_to_k(seed, n, k):
    marginals = subset_marginals(3 * normal(seed, 2, n), k=k)
    assert_close(marginals.sum(-1), torch.full((2,), float(k)).double())
    assert ((marginals > 0) & (marginals < 1 + 1e-12)).all()


def test_one_of_n_is_a_softmax_and_all_are_certain():
    costs = normal(0, 3, 6)
    assert_close(subset_marginals(costs, k=1, temperature=0.5), (-costs / 0.5).softmax(-1))
    assert_close(subset_marginals(costs, k=6), torch.ones(3, 6).double())


def test_cold_marginals_are_the_cheapest_subset():
    costs = normal(0, 4, 9)
    assert_close(subset_marginals(costs, k=4, temperature=1e-3), TopK(4)(costs), rtol=0, atol=1e-9)


def test_marginals_differentiate_twice_and_their_jacobian_is_the_covariance():
    costs = normal(0, 5).requires_grad_()
    run = partial(subset_marginals, k=2)
    assert gradcheck(run, costs)
    assert gradgradcheck(run, costs)
    subsets = [list(chosen) for chosen in combinations(range(5), 2)]
    members = torch.zeros(10, 5).double()
    for row, chosen in enumerate(subsets):
        members[row, chosen] = 1
    weights = (-members @ costs.detach()).softmax(0)
    mean = weights @ members
    covariance = (members.T * weights) @ members - mean.outer(mean)
    assert_close(torch.autograd.functional.jacobian(run, costs), -covariance)


@pytest.mark.parametrize("n", [4, 5])
def test_extreme_costs_in_single_precision_stay_exact(n):
    costs = torch.tensor([200.0, -200, 0, 90, -90][:n]).requires_grad_()
    marginals = subset_marginals(costs, k=2)
    assert_close(marginals, TopK(2)(costs))
    (gradient,) = torch.autograd.grad(marginals[0], costs)
    assert gradient.isfinite().all()


def test_a_mask_leaves_the_smaller_set():
    costs, mask = normal(0, 2, 7), torch.tensor([True, False, True, True, True, False, True])
    small = subset_marginals(costs[:, mask], k=3)
    costs[:, ~mask] = torch.nan
    costs.requires_grad_()
    marginals = subset_marginals(costs, mask, k=3)
    assert_close(marginals[:, mask], small)
    assert not marginals[:, ~mask].any()
    (gradient,) = torch.autograd.grad(marginals.square().sum(), costs)
    assert gradient.isfinite().all()
    rule = StraightThrough(partial(subset_marginals, k=3))
    solution = solve_discrete(costs, TopK(3), rule, mask=mask)
    (returned,) = torch.autograd.grad(solution, costs, 2 * marginals.detach())
    assert_close(returned, gradient)


def test_marginals_work_without_gradient_and_inside_transforms():
    costs = normal(0, 4, 6)
    with torch.no_grad():
        marginals = subset_marginals(costs, k=2)
    assert not marginals.requires_grad
    assert_close(vmap(partial(subset_marginals, k=2))(costs), marginals)
    loss = lambda costs: subset_marginals(costs, k=2).square().sum()  # noqa: E731
    leaf = costs.clone().requires_grad_()
    assert_close(grad(loss)(costs), torch.autograd.grad(loss(leaf), leaf)[0])


@given(st.integers(0, 2**31), st.integers(2, 30), st.data())
def test_soft_top_k_is_a_sigmoid_of_shifted_costs_that_sums_to_k(seed, n, data):
    k = data.draw(st.integers(1, n - 1))
    costs = 3 * normal(seed, 2, n)
    relaxed = soft_top_k(costs, k=k, temperature=0.5)
    assert_close(relaxed.sum(-1), torch.full((2,), float(k)).double())
    middle = (relaxed - 0.5).abs().argmin(-1, keepdim=True)  # where the logit is best known
    shift = (relaxed.logit() + costs / 0.5).gather(-1, middle)
    assert_close(relaxed, (shift - costs / 0.5).sigmoid(), rtol=1e-7, atol=1e-9)


def test_soft_top_k_has_its_known_jacobian_and_differentiates_twice():
    costs = normal(0, 6).requires_grad_()
    run = partial(soft_top_k, k=2)
    assert gradcheck(run, costs)
    assert gradgradcheck(run, costs)
    values = run(costs).detach()
    h = values * (1 - values)
    jacobian = torch.autograd.functional.jacobian(run, costs)
    assert_close(jacobian, -(h.diag() - h.outer(h) / h.sum()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cold_soft_top_k_is_the_cheapest_subset_with_a_gradient_of_zero(dtype):
    costs = normal(0, 4, 9).to(dtype).requires_grad_()
    relaxed = soft_top_k(costs, k=4, temperature=1e-3)
    assert_close(relaxed, TopK(4)(costs), rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(relaxed.square().sum(), costs)
    assert gradient.abs().max() < 1e-2


def test_soft_top_k_under_a_mask_is_that_of_the_smaller_set():
    costs, mask = normal(0, 2, 7), torch.tensor([True, False, True, True, True, False, True])
    small = soft_top_k(costs[:, mask], k=3)
    costs[:, ~mask] = torch.nan
    costs.requires_grad_()
    relaxed = soft_top_k(costs, mask, k=3)
    assert_close(relaxed[:, mask], small)
    assert not relaxed[:, ~mask].any()
    (gradient,) = torch.autograd.grad(relaxed.square().sum(), costs)
    assert gradient.isfinite().all()


def test_soft_top_k_needs_more_entries_than_it_chooses():
    with pytest.raises(ValueError, match=r"`k` must lie between 1 and 3 .* got 4"):
        soft_top_k(torch.rand(2, 4), k=4)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        soft_top_k(torch.rand(2, 4), k=2, temperature=-1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_batch_shape_are_kept(dtype):
    for batch in ((), (2, 3), (0,)):
        for relaxation in (subset_marginals, soft_top_k):
            marginals = relaxation(torch.rand(*batch, 6, dtype=dtype), k=2)
            assert (marginals.shape, marginals.dtype) == ((*batch, 6), dtype)


def test_more_than_there_are_cannot_be_chosen():
    costs = torch.rand(2, 4)
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"`k` must lie between 1 and 4 .* got {k}"):
            subset_marginals(costs, k=k)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    with pytest.raises(ValueError, match="at least 2 entries in each row for k = 2, got 1"):
        subset_marginals(costs, mask, k=2)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        subset_marginals(costs, k=2, temperature=0)

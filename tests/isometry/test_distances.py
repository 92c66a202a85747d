"""Distances are those of the definition, with two derivatives, whatever rows and precision come."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.isometry import Euclidean, chebyshev, cosine, manhattan, pair_distances

METRICS = {
    "euclidean": Euclidean(1e-9),
    "cityblock": manhattan,
    "chebyshev": chebyshev,
    "cosine": cosine,
}
seeds = st.integers(0, 2**31)


def points(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def every_pair(n, device="cpu"):
    return torch.combinations(torch.arange(n, device=device)).T


def with_duplicates(n, width=3):
    rows = points(0, n, width)
    rows[1] = rows[0]
    rows[-1] = rows[2]
    return rows


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=30)
@given(seed=seeds, width=st.integers(1, 5))
def test_distances_are_those_of_scipy(name, seed, width):
    rows, pairs = points(seed, 7, width), every_pair(7)
    theirs = torch.from_numpy(cdist(rows, rows, name))[*pairs]
    assert_close(pair_distances(rows, pairs, METRICS[name]), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [6, 40])
def test_euclidean_distances_have_two_derivatives_also_of_equal_rows(n):
    rows, pairs = with_duplicates(n).requires_grad_(), every_pair(n)[:, ::3]

    def run(rows):  # an epsilon that finite differences can see
        return pair_distances(rows, pairs, Euclidean(0.1))

    assert gradcheck(run, rows)
    assert gradgradcheck(run, rows)


@pytest.mark.parametrize("name", ["cityblock", "chebyshev", "cosine"])
def test_the_other_metrics_have_two_derivatives_where_rows_differ(name):
    rows, pairs = points(1, 6, 3).requires_grad_(), every_pair(6)

    def run(rows):
        return pair_distances(rows, pairs, METRICS[name])

    assert gradcheck(run, rows)
    assert gradgradcheck(run, rows)


@pytest.mark.parametrize("name", METRICS)
def test_equal_rows_have_a_finite_gradient_in_every_metric(name):
    rows = with_duplicates(6).requires_grad_()
    loss = pair_distances(rows, every_pair(6), METRICS[name]).sum()
    (grad,) = torch.autograd.grad(loss, rows, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), rows)
    assert grad.isfinite().all()
    assert second.isfinite().all()


def test_equal_rows_are_at_zero_with_gradient_zero_and_second_derivative_two_over_epsilon():
    x = torch.zeros(1, 2, dtype=torch.float64)

    def distance(x):
        return pair_distances(torch.cat([x, torch.zeros(1, 2)]), torch.tensor([[0], [1]]))[0]

    assert distance(x) == 0
    assert_close(torch.autograd.functional.jacobian(distance, x), torch.zeros_like(x))
    hessian = torch.autograd.functional.hessian(distance, x).view(2, 2)
    assert_close(hessian, 2e6 * torch.eye(2, dtype=torch.float64))


@given(apart=st.floats(1e-9, 1e3))
def test_euclidean_is_too_short_by_no_more_than_it_says(apart):
    rows = torch.tensor([[0.0, 1.0], [apart, 1.0]], dtype=torch.float64)
    found = pair_distances(rows, torch.tensor([[0], [1]])).item()
    assert apart - 1e-12 / (2 * apart) - 1e-12 * apart <= found <= apart * (1 + 1e-12)


def test_a_row_of_zeros_has_no_direction_and_no_gradient():
    rows = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 2.0]], requires_grad=True)
    found = pair_distances(rows, torch.tensor([[0, 0, 1], [1, 2, 3]]), cosine)
    assert_close(found, torch.tensor([0.5, 0.0, 1.0]))
    (grad,) = torch.autograd.grad(found.square().sum(), rows, create_graph=True)
    assert_close(grad[[0, 2]], torch.zeros(2, 2))
    (second,) = torch.autograd.grad(grad.square().sum(), rows)
    assert second.isfinite().all()


def test_close_rows_far_from_the_origin_keep_their_digits(device):
    rows = (50 + 0.1 * points(2, 60, 20)).float()  # where products of matrices lose them
    pairs = every_pair(60)
    theirs = torch.from_numpy(cdist(rows.double(), rows.double()))[*pairs]
    ours = pair_distances(rows.to(device), pairs.to(device))
    assert ours.device.type == device.type
    assert_close(ours.cpu().double(), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", METRICS)
def test_nearly_equal_directions_and_rows_are_not_at_zero_by_cancellation(name):
    rows = torch.tensor([[1.0, 0.0], [1.0, 1e-4]])
    theirs = cdist(rows.double(), rows.double(), name)[0, 1]
    ours = pair_distances(rows, torch.tensor([[0], [1]]), METRICS[name])
    assert ours.item() == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_the_result_has_the_dtype_of_the_rows_and_float32_at_least(device, dtype, result):
    rows = points(3, 5, 2).to(device, dtype)
    assert pair_distances(rows, every_pair(5, device)).dtype == result


def test_autocast_changes_nothing():
    rows, pairs = points(4, 30, 8).float(), every_pair(30)

    def skewed(x, y):  # a product of matrices, which autocast would take in half precision
        return ((x - y) @ torch.arange(64.0).reshape(8, 8)).norm(dim=1)

    for leaf in (rows, rows.clone().requires_grad_()):  # the two ways to compute
        outside = pair_distances(leaf, pairs, skewed)
        with torch.autocast("cpu", torch.bfloat16):
            inside = pair_distances(leaf, pairs, skewed)
        assert inside.dtype == torch.float32
        assert_close(inside, outside)


def test_blocks_of_pairs_change_nothing():
    rows = points(5, 40, 100, 100).float()  # 10,000 numbers a row: blocks of 26 pairs
    pairs = every_pair(40)
    assert_close(pair_distances(rows, pairs), pair_distances(rows.requires_grad_(), pairs).detach())


def test_no_pairs_have_no_distances_and_a_gradient_of_zero():
    rows = points(6, 4, 2).requires_grad_()
    none = pair_distances(rows, torch.empty(2, 0, dtype=torch.long))
    assert none.shape == (0,)
    none.sum().backward()
    assert_close(rows.grad, torch.zeros_like(rows))


@pytest.mark.parametrize(
    ("rows", "pairs", "error", "message"),
    [
        (torch.ones(3, 2).long(), [[0], [1]], TypeError, "`points` must be a floating-point"),
        (torch.ones(3), [[0], [1]], ValueError, r"`points` must have 2 axes \(n, d\)"),
        (torch.full((3, 2), torch.nan), [[0], [1]], ValueError, "`points` must be finite"),
        (torch.ones(3, 2), [[0], [3]], ValueError, "`pairs` must be rows from 0 to 2, got 0 to 3"),
        (torch.ones(3, 2), [[-1], [1]], ValueError, "`pairs` must be rows from 0 to 2, got -1"),
        (torch.ones(3, 2), [[0.0], [1.0]], TypeError, "`pairs` must be a tensor of row numbers"),
        (torch.ones(3, 2), [[0, 1, 2]], ValueError, r"`pairs` must have shape \(2, p\), got"),
    ],
)
def test_rows_and_pairs_that_do_not_fit_are_refused(rows, pairs, error, message):
    with pytest.raises(error, match=message):
        pair_distances(rows, torch.tensor(pairs))


def test_a_metric_that_does_not_reduce_is_refused():
    with pytest.raises(ValueError, match="`metric` must return one number per pair"):
        pair_distances(torch.ones(3, 2), every_pair(3), lambda x, y: x - y)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ValueError, match="`epsilon` must be positive, got"):
        Euclidean(epsilon)

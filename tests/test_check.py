"""Argument checks say what is needed, what came and what to do; searches see plain values."""

import pytest
import torch
from torch.func import grad, hessian, jvp, vmap

from weft._check import (
    ConvergenceError,
    WeftWarning,
    at_least_float32,
    check_finite,
    check_floating,
    check_mask,
    on_values,
    values_of,
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_tensors_of_the_shape_pass(dtype):
    check_floating("features", torch.empty(3, 2, dtype=dtype), "n d")
    check_floating("scale", torch.empty((), dtype=dtype), "")


@pytest.mark.parametrize(
    ("came", "error", "message"),
    [
        (
            torch.ones(3, 2).long(),
            TypeError,
            "`x` must be a floating-point tensor, got torch.int64",
        ),
        (
            torch.ones(3, 2).bool(),
            TypeError,
            "floating-point tensor, got torch.bool: call .float()",
        ),
        (torch.ones(3, 2).cfloat(), TypeError, "floating-point tensor, got torch.complex64"),
        ([[1.0]], TypeError, "`x` must be a floating-point tensor, got list: call .float()"),
        (None, TypeError, "`x` must be a floating-point tensor, got NoneType"),
        (torch.ones(3), ValueError, r"`x` must have 2 axes \(n, d\), got shape \(3,\): reshape it"),
        (torch.ones(1, 3, 2), ValueError, r"must have 2 axes \(n, d\), got shape \(1, 3, 2\)"),
    ],
)
def test_refuses_what_is_no_floating_tensor_of_the_shape(came, error, message):
    with pytest.raises(error, match=message):
        check_floating("x", came, "n d")


def test_finite_tensors_pass_even_without_entries():
    check_finite("x", torch.tensor([1e38, -1e38]))
    check_finite("x", torch.empty(0, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_refuses_entries_that_are_not_finite_and_names_the_row(bad):
    x = torch.zeros(5, 2)
    x[3, 1] = x[4, 0] = bad
    message = "`x` must be finite, got NaN or infinity first in row 3: look at the learning rate"
    with pytest.raises(ValueError, match=message):
        check_finite("x", x)
    with pytest.raises(ValueError, match="first in row 0"):
        check_finite("x", torch.tensor(bad))


def test_masks_of_the_shape_pass():
    check_mask("known", torch.tensor([[True, False]]), torch.Size([1, 2]))


@pytest.mark.parametrize(
    ("came", "error", "message"),
    [
        (
            torch.tensor([0, 1]),
            TypeError,
            "must be a boolean mask, got torch.int64: compare, do no",
        ),
        ([True, False], TypeError, "`known` must be a boolean mask, got list"),
        (
            torch.tensor([True]),
            ValueError,
            r"must have shape \(2,\), got \(1,\): one entry per node",
        ),
    ],
)
def test_refuses_what_is_no_mask_of_the_shape(came, error, message):
    with pytest.raises(error, match=message):
        check_mask("known", came, torch.Size([2]))


def test_half_precision_becomes_float32_and_the_rest_stays_the_same_tensor():
    for dtype in (torch.float16, torch.bfloat16):
        assert at_least_float32(torch.ones(2, dtype=dtype)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert at_least_float32(x) is x


def test_errors_and_warnings_can_be_caught_by_their_family():
    assert issubclass(ConvergenceError, RuntimeError)
    assert issubclass(WeftWarning, UserWarning)


@on_values
def ranks(x, offset=0):
    """A search through NumPy: the rank of each entry."""
    assert not x.requires_grad
    return torch.from_numpy(x.numpy().argsort().argsort()) + offset


def weighted(x):
    return (x * ranks(x, offset=1)).sum()


X = torch.tensor([3.0, 1.0, 2.0])


def test_a_search_on_values_is_a_constant_to_every_derivative():
    expected = torch.tensor([3.0, 1.0, 2.0])
    x = X.clone().requires_grad_()
    weighted(x).backward()
    assert torch.equal(x.grad, expected)
    assert torch.equal(grad(weighted)(X), expected)
    assert jvp(weighted, (X,), (torch.ones(3),))[1] == 6
    assert not hessian(weighted)(X).any()
    assert jvp(grad(lambda x: weighted(x) ** 2), (X,), (X,))[1].tolist() == [84.0, 28.0, 56.0]


def test_a_search_on_values_is_refused_where_there_is_not_one():
    with pytest.raises(
        NotImplementedError, match=r"under torch.func.vmap.* pass features of shape"
    ):
        vmap(weighted)(X[None])
    with pytest.raises(NotImplementedError, match=r"under torch.func.vmap"):
        vmap(grad(weighted))(X[None])


def test_values_of_a_plain_tensor_share_its_memory():
    assert values_of(X).data_ptr() == X.data_ptr()

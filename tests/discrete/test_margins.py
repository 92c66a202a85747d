"""Margins move costs by half their size, against the solution, as long as they are meant to."""

import pytest
import torch
from torch.testing import assert_close

from weft.discrete import TopK, informed_margin, margin_size, noise_margin, solve_discrete


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_two_values_evenly_and_repeats(dtype):
    costs = torch.rand(100, 100, generator=seeded(1), dtype=dtype)
    moved = noise_margin(costs, 0.2, generator=seeded())
    assert moved.dtype == dtype
    shift = moved - costs
    assert_close(shift.abs(), torch.full_like(costs, 0.1), rtol=0, atol=1e-6)
    up = (shift > 0).sum().item()
    assert abs(up - 5000) < 4.5 * 50
    assert torch.equal(moved, noise_margin(costs, 0.2, generator=seeded()))


def test_an_informed_margin_is_its_formula_and_can_change_a_narrow_win():
    costs, target = torch.tensor([1.0, 1.05, 3.0]), torch.tensor([1.0, 0.0, 0.0])
    moved = informed_margin(costs, target, 0.1)
    assert_close(moved, costs + 0.05 * target - 0.05 * (1 - target))
    assert TopK()(costs).tolist() == [1, 0, 0]
    assert TopK()(moved).tolist() == [0, 1, 0]


def test_margins_pass_gradients_as_they_are():
    costs = torch.rand(3, 4, generator=seeded()).requires_grad_()
    for moved in (
        noise_margin(costs, 0.5, generator=seeded()),
        informed_margin(costs, TopK()(costs), 0.5),
    ):
        (grad,) = torch.autograd.grad(moved.square().sum(), costs)
        assert_close(grad, 2 * moved.detach())
    solve_discrete(noise_margin(costs, 0.5, generator=seeded()), TopK()).sum().backward()


def test_a_margin_holds_then_fades_then_is_gone():
    sizes = [margin_size(0.4, step, hold=2, fade=4) for step in range(8)]
    assert sizes == pytest.approx([0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    assert [margin_size(0.4, step, hold=1) for step in range(3)] == [0.4, 0.0, 0.0]


@pytest.mark.parametrize("size", [-0.1, float("nan"), float("inf")])
def test_a_size_below_zero_is_refused(size):
    costs = torch.rand(3)
    for call in (
        lambda: noise_margin(costs, size, generator=seeded()),
        lambda: informed_margin(costs, costs, size),
        lambda: margin_size(size, 0, hold=1),
    ):
        with pytest.raises(ValueError, match="`size` must be finite and not negative, got"):
            call()


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"`target` must have the shape of `costs`, \(3,\)"):
        informed_margin(torch.rand(3), torch.rand(2, 3), 0.1)
    with pytest.raises(ValueError, match="`hold` and `fade` must not be negative, got -1 and 0"):
        margin_size(0.1, 0, hold=-1)

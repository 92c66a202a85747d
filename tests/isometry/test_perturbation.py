"""Pairs of an input and itself, moved: where it goes, and what the three targets ask for."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.isometry import (
    Contraction,
    Expansion,
    GaussianNoise,
    RandomSigns,
    SquaredError,
    WorstDirection,
    perturbation_loss,
)

SEEDS = st.integers(0, 2**31)
EACH = [RandomSigns(0.1), GaussianNoise(0.1), WorstDirection(0.1)]


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64), generator


def linear(matrix):
    return lambda x: x.flatten(1) @ matrix.to(x).T


def given_move(moved):
    """A perturbation that is known in advance."""
    return lambda encoder, inputs, generator: moved


@given(seed=SEEDS)
def test_a_linear_map_has_the_losses_of_the_formulas(seed):
    inputs, generator = draw(seed, 6, 4)
    matrix = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    moves = 0.1 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    before, after = moves.norm(dim=1), (moves @ matrix.T).norm(dim=1)
    for discrepancy, expected in (
        (SquaredError(), (after - before).square().mean()),
        (Expansion(), (after - before).clamp_min(0).square().mean()),
        (Contraction(), after.square().mean()),
    ):
        loss = perturbation_loss(
            linear(matrix),
            inputs,
            given_move(inputs + moves),
            discrepancy=discrepancy,
            generator=generator,
        )
        assert_close(loss, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("perturbation", EACH)
def test_isometries_lose_nothing_and_shrinking_is_no_expansion(perturbation):
    inputs, generator = draw(0, 8, 5)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    for encoder, discrepancy in (
        (linear(turn), SquaredError()),
        (linear(turn), Expansion()),
        (linear(0.3 * turn), Expansion()),
        (linear(0 * turn), Contraction()),
    ):
        loss = perturbation_loss(
            encoder, inputs, perturbation, discrepancy=discrepancy, generator=generator
        )
        assert loss < 1e-10
    loss = perturbation_loss(linear(0.3 * turn), inputs, perturbation, generator=generator)
    assert loss > 1e-3


@given(seed=SEEDS)
def test_moved_inputs_stay_in_ball_and_box(seed):
    inputs, generator = draw(seed, 5, 2, 3)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh()).double()
    for perturbation in (RandomSigns(0.3), WorstDirection(0.3, steps=2)):
        moved = perturbation(encoder, inputs, generator)
        assert moved.shape == inputs.shape
        assert (moved - inputs).abs().max() <= 0.3 + 1e-12
        assert moved.min() >= 0
        assert moved.max() <= 1
    everywhere = RandomSigns(0.3, box=None)(encoder, inputs, generator)
    assert_close((everywhere - inputs).abs(), torch.full_like(inputs, 0.3))
    noise = GaussianNoise(0.3)(encoder, inputs, generator)
    assert noise.min() >= 0
    assert noise.max() <= 1


def test_random_signs_are_even_and_noise_has_its_deviation():
    inputs, generator = torch.full((200, 200), 0.5), torch.Generator().manual_seed(0)
    up = RandomSigns(0.1)(torch.nn.Identity(), inputs, generator) > 0.5
    assert abs(up.double().mean() - 0.5) < 0.01
    noise = GaussianNoise(0.1, box=None)(torch.nn.Identity(), inputs, generator) - 0.5
    assert abs(noise.std() - 0.1) < 0.002
    assert abs(noise.mean()) < 0.002


@given(seed=SEEDS)
def test_the_worst_direction_of_a_linear_function_is_its_signs(seed):
    inputs, generator = draw(seed, 4, 6)
    row = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    moved = WorstDirection(0.2, box=None)(linear(row), inputs, generator) - inputs
    assert_close(moved.abs(), torch.full_like(moved, 0.2))
    assert_close((moved @ row.T).abs()[:, 0], (0.2 * row.abs().sum()).expand(4))


def test_the_worst_direction_goes_further_than_random_ones():
    inputs, generator = draw(1, 30, 10)
    encoder = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5)).double()

    def reach(perturbation):
        with torch.no_grad():
            moved = perturbation(encoder, inputs, generator)
            return (encoder(moved) - encoder(inputs)).norm(dim=1).mean()

    assert reach(WorstDirection(0.1, steps=5)) > 1.3 * reach(RandomSigns(0.1))


@given(seed=SEEDS, scale=st.floats(0.1, 10), unit=st.floats(0.1, 10))
def test_relative_distances_are_those_over_all_pairs_of_rows_and_have_no_scale(seed, scale, unit):
    inputs, generator = draw(seed, 6, 4)
    matrix = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    moved = inputs + 0.3 * torch.randn(6, 4, generator=generator, dtype=torch.float64)

    def loss(scale, unit):
        return perturbation_loss(
            lambda x: scale * linear(matrix)(x),
            unit * inputs,
            given_move(unit * moved),
            discrepancy=Expansion(),
            relative=True,
            generator=generator,
        )

    def relative(before, after):
        pairs = torch.pdist(before).square().mean().sqrt()
        return (after - before).norm(dim=1) / pairs

    grown = relative(inputs @ matrix.T, moved @ matrix.T) - relative(inputs, moved)
    assert_close(loss(1, 1), grown.clamp_min(0).square().mean(), rtol=1e-6, atol=1e-10)
    assert_close(loss(scale, unit), loss(1, 1), rtol=1e-4, atol=1e-6)


def test_relative_distances_of_equal_rows_are_finite_with_finite_gradients():
    inputs, generator = draw(5, 1, 4)
    inputs = inputs.expand(6, 4)
    encoder = nn.Linear(4, 3).double()
    loss = perturbation_loss(encoder, inputs, RandomSigns(0.1), relative=True, generator=generator)
    loss.backward()
    assert loss.isfinite()
    assert encoder.weight.grad.isfinite().all()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("discrepancy", [SquaredError(), Expansion(), Contraction()])
def test_derivatives_in_the_encoder_match_finite_differences_twice(discrepancy, relative):
    inputs, generator = draw(2, 6, 4)
    matrix = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    moved = inputs + 0.1 * torch.randn(6, 4, generator=generator, dtype=torch.float64)

    def loss(matrix):
        return perturbation_loss(
            lambda x: (x @ matrix.T).tanh(),
            inputs,
            given_move(moved),
            discrepancy=discrepancy,
            relative=relative,
            generator=generator,
        )

    assert gradcheck(loss, matrix)
    assert gradgradcheck(loss, matrix)


@pytest.mark.parametrize("perturbation", EACH)
def test_only_the_loss_leaves_gradients_and_a_seed_gives_the_same_loss(perturbation):
    inputs, _ = draw(3, 6, 4)
    encoder = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()

    def loss(features=None):
        generator = torch.Generator().manual_seed(7)
        return perturbation_loss(
            encoder, inputs, perturbation, features=features, generator=generator
        )

    first = loss()
    assert encoder[0].weight.grad is None
    first.backward()
    assert encoder[0].weight.grad.norm() > 0
    assert torch.equal(loss(), first)
    assert torch.equal(loss(encoder(inputs)), first)
    inside = torch.no_grad()(loss)()
    assert torch.equal(inside, first)
    assert not inside.requires_grad


@pytest.mark.parametrize("perturbation", EACH)
def test_dtype_and_device_follow_the_inputs_also_without_rows(perturbation, device):
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        inputs = torch.rand(5, 1, 2, 2, generator=generator).to(device, dtype)
        encoder = nn.Flatten()
        for rows, relative in product((inputs, inputs[:0]), (False, True)):
            loss = perturbation_loss(
                encoder, rows, perturbation, relative=relative, generator=generator
            )
            assert (loss.dtype, loss.device.type, loss.shape) == (dtype, device.type, ())
            assert loss.isfinite()


@pytest.mark.parametrize("make", [RandomSigns, GaussianNoise, WorstDirection])
@pytest.mark.parametrize("size", [0.0, -1.0, math.nan])
def test_refuses_sizes_that_move_nothing(make, size):
    with pytest.raises(ValueError, match=r"must be positive, got .*: inputs have to move"):
        make(size)


def test_refuses_what_it_cannot_use():
    inputs, generator = draw(4, 6, 4)
    with pytest.raises(ValueError, match=r"`box` must be \(least, greatest\), got \(1, 0\)"):
        RandomSigns(0.1, box=(1, 0))
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0: for none, take"):
        WorstDirection(0.1, steps=0)
    for wrong, message in (
        (2 * inputs, r"lie in the perturbation's box \(0.0, 1.0\), got .* box=None"),
        (torch.full_like(inputs, torch.nan), "`inputs` must be finite, got NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            perturbation_loss(nn.Identity(), wrong, RandomSigns(0.1), generator=generator)
    with pytest.raises(ValueError, match="must be of one batch, got 6 and 3 rows: pass"):
        perturbation_loss(
            nn.Identity(), inputs, RandomSigns(0.1), features=inputs[:3], generator=generator
        )
    with pytest.raises(ValueError, match=r"`relative` distances need at least two rows.*got 1"):
        perturbation_loss(
            nn.Identity(), inputs[:1], RandomSigns(0.1), relative=True, generator=generator
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_random_signs_move_every_entry_in_half_precision_too(dtype):
    inputs = torch.full((2000, 50), 0.5, dtype=dtype)
    moved = RandomSigns(0.25)(nn.Identity(), inputs, torch.Generator().manual_seed(0))
    assert set((moved - inputs).unique().tolist()) == {-0.25, 0.25}

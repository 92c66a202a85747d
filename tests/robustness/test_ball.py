"""Points stay in ball and box, and steps are the steepest of length one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.robustness import L2, LInf

seeds = st.integers(0, 2**31)
balls = st.builds(lambda kind, epsilon: kind(epsilon), st.sampled_from([LInf, L2]), st.floats(0, 3))
dtypes = st.sampled_from([torch.float32, torch.float64])


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def box_points(seed, *shape, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_inside(ball, points, centre):
    assert points.dtype == centre.dtype
    assert points.min() >= 0
    assert points.max() <= 1
    assert (ball.distance(points.double(), centre.double()) <= ball.epsilon + 1e-7).all()


@given(seeds, balls, dtypes)
def test_projected_and_drawn_points_lie_in_ball_and_box(seed, ball, dtype):
    centre = box_points(seed, 5, 2, 6, 6, dtype=dtype)
    far = centre + 10 * normal(seed + 1, 5, 2, 6, 6, dtype=dtype)
    assert_inside(ball, ball.project(far, centre), centre)
    assert_inside(ball, ball.sample(centre, torch.Generator().manual_seed(seed)), centre)


@given(seeds, balls, dtypes)
def test_what_lies_inside_stays_as_it_is(seed, ball, dtype):
    centre = box_points(seed, 4, 9, dtype=dtype)
    inside = ball.project(centre + normal(seed, 4, 9, dtype=dtype), centre)
    assert_close(ball.project(inside, centre), inside, rtol=0, atol=1e-7)
    assert torch.equal(ball.project(centre, centre), centre)


@given(seeds)
def test_no_step_of_length_one_climbs_more(seed):
    gradient, other = normal(seed, 3, 8), normal(seed + 1, 3, 8)
    for ball, dual in ((LInf(0.1), 1), (L2(0.1), 2)):
        step = ball.ascent(gradient)
        assert_close(ball.distance(step, torch.zeros_like(step)), torch.ones(3).double())
        assert_close((gradient * step).sum(1), gradient.norm(p=dual, dim=1))
        rival = other / ball.distance(other, torch.zeros_like(other))[:, None]
        assert ((gradient * rival).sum(1) <= (gradient * step).sum(1) + 1e-12).all()


@pytest.mark.parametrize("ball", [LInf(0.1), L2(0.1)])
def test_there_is_no_step_where_it_is_flat(ball):
    assert torch.equal(ball.ascent(torch.zeros(2, 5)), torch.zeros(2, 5))


def test_gradients_too_small_to_square_still_have_a_direction():
    gradient = torch.full((1, 4), 1e-30)
    assert_close(L2(1.0).ascent(gradient), torch.full((1, 4), 0.5))


def test_projection_to_the_l_infinity_ball_is_the_nearest_point():
    centre, far = box_points(0, 1, 3), box_points(0, 1, 3) + 0.4 * normal(1, 1, 3)
    nearest = LInf(0.2).project(far, centre)
    grid = torch.linspace(0, 1, 51).double()
    grid = torch.cartesian_prod(grid, grid, grid)
    allowed = grid[(grid - centre).abs().amax(1) <= 0.2]
    assert (nearest - far).norm() <= (allowed - far).norm(dim=1).min()


def test_a_drawn_radius_fills_the_volume_evenly():
    centre = torch.full((4000, 3), 0.5).double()
    drawn = L2(0.4).sample(centre, torch.Generator().manual_seed(0))
    shares = (L2(0.4).distance(drawn, centre) / 0.4).pow(3).sort().values
    assert_close(shares, torch.linspace(0, 1, 4000).double(), rtol=0, atol=0.03)  # uniform


def test_an_infinite_ball_leaves_the_box_alone():
    far = normal(2, 3, 4)
    assert torch.equal(L2(math.inf).project(far, torch.zeros(3, 4).double()), far.clamp(0, 1))


@pytest.mark.parametrize("kind", [LInf, L2])
@pytest.mark.parametrize("epsilon", [-0.1, math.nan])
def test_refuses_a_radius_below_zero(kind, epsilon):
    with pytest.raises(ValueError, match=r"`epsilon` must not be negative, got .*: give a radius"):
        kind(epsilon)


def test_a_radius_in_normalised_units_is_that_many_deviations():
    assert LInf.normalised(1.0, std=0.3081) == LInf(0.3081)
    clean = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).double()
    moved = LInf.normalised(0.5, std=0.2).sample(clean, torch.Generator().manual_seed(0))
    papers = LInf(0.5).distance((moved - 0.4) / 0.2, (clean - 0.4) / 0.2)
    assert (papers <= 0.5 + 1e-9).all()
    with pytest.raises(ValueError, match="`std` must be positive, got 0"):
        LInf.normalised(0.1, std=0.0)

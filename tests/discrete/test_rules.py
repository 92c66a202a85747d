"""Identity, blackbox and straight-through return what their formulas say, and improve the loss."""

from functools import partial
from itertools import combinations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.discrete import (
    Assignment,
    Blackbox,
    Identity,
    Projection,
    Ranking,
    SolverLog,
    StraightThrough,
    TopK,
    project_costs,
    sinkhorn,
    solve_discrete,
)

seeds = st.integers(0, 2**31)
SUBSETS = torch.tensor(
    [[1.0 * (i in chosen) for i in range(6)] for chosen in combinations(range(6), 3)]
).double()
THREE = TopK(3)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pulled(costs, grad, rule, solver=THREE, **options):
    """What the rule returns for the costs when `grad` comes in."""
    costs = costs.detach().requires_grad_()
    solution = solve_discrete(costs, solver, rule, **options)
    return torch.autograd.grad(solution, costs, grad)[0]


# Identity


@given(seeds)
def test_identity_without_projection_is_minus_the_gradient(seed):
    grad = normal(seed + 1, 2, 6)
    assert_close(pulled(normal(seed, 2, 6), grad, Identity(Projection.NONE)), -grad)


@given(seeds)
def test_identity_with_standardised_costs_has_its_closed_form(seed):
    costs, grad = normal(seed, 2, 6), normal(seed + 1, 2, 6)
    centred, centred_grad = (part - part.mean(1, keepdim=True) for part in (costs, grad))
    norm = centred.norm(dim=1, keepdim=True)
    unit = centred / norm
    expected = -(centred_grad - (unit * centred_grad).sum(1, keepdim=True) * unit) / norm
    returned = pulled(costs, grad, Identity(Projection.STD))
    assert_close(returned, expected)
    assert_close(
        returned.sum(1), torch.zeros(2).double(), rtol=0, atol=1e-12 * grad.norm() / norm.min()
    )
    assert_close((returned * centred).sum(1), torch.zeros(2).double(), rtol=0, atol=1e-12)
    assert_close(pulled(3 * costs, grad, Identity(Projection.STD)), returned / 3)


@given(seeds)
@pytest.mark.parametrize("projection", Projection)
@pytest.mark.parametrize(
    ("solver", "shape"), [(THREE, (6,)), (Ranking(), (6,)), (Assignment(), (3, 3))]
)
def test_identity_is_the_gradient_of_the_projected_costs(solver, shape, projection, seed):
    # The relaxation -P(costs): its gradient by autograd is what identity returns in closed form.
    costs, grad = normal(seed, 2, *shape).requires_grad_(), normal(seed + 1, 2, *shape)
    relaxed = -project_costs(costs, solver, projection)
    (expected,) = torch.autograd.grad(relaxed, costs, grad)
    assert_close(pulled(costs, grad, Identity(projection), solver), expected, rtol=1e-9, atol=1e-12)


def test_identity_is_the_gradient_of_the_minimiser_on_sphere_and_plane():
    # All 3-subsets of 6 lie on the sphere of radius sqrt(6) / 2 around (1/2 ... 1/2), in the plane
    # where entries sum to 3; there the minimiser is the centre minus radius P(costs).
    costs, grad = normal(0, 6).requires_grad_(), normal(1, 6)
    radius = (SUBSETS - 0.5).norm(dim=1)
    assert_close(radius, torch.full((20,), 6**0.5 / 2).double())
    centred = costs - costs.mean()
    relaxed = 0.5 - radius[0] * centred / centred.norm()
    (expected,) = torch.autograd.grad(relaxed, costs, grad)
    assert_close(pulled(costs, grad, Identity()), expected / radius[0], rtol=0, atol=1e-14)


def test_by_default_identity_removes_what_the_equalities_fix_and_the_length():
    costs, grad = normal(0, 3, 4, 4), normal(1, 3, 4, 4)
    solver = Assignment()
    returned = pulled(costs, grad, Identity(), solver)
    assert_close(returned.sum(1), torch.zeros(3, 4).double())
    assert_close(returned.sum(2), torch.zeros(3, 4).double())
    assert_close((returned * solver.project(costs)).sum((1, 2)), torch.zeros(3).double())


def test_costs_too_short_to_normalise_get_a_finite_gradient_and_are_counted():
    costs = torch.tensor([[0.0, 0, 0], [5, 5, 5], [1, 2, 3], [1e-9, 0, 0]]).double()
    log = SolverLog()
    returned = pulled(costs, normal(0, 4, 3), Identity(), TopK(1), log=log)
    assert log.floored == 3
    assert returned.isfinite().all()
    short = costs[[0]].requires_grad_()
    (expected,) = torch.autograd.grad(-project_costs(short, TopK(1)), short, normal(0, 4, 3)[[0]])
    assert_close(returned[[0]], expected)


@given(seeds)
def test_following_identity_the_first_change_of_solution_improves_the_loss(seed):
    # Theorem 1: along costs + t grad, either no change improves, or the first one does.
    costs, grad = normal(seed, 6), normal(seed + 1, 6)
    losses, values = SUBSETS @ grad, SUBSETS @ costs
    start = values.argmin()
    better = losses < losses[start] - 1e-9
    assume(better.any())
    step = -pulled(costs, grad, Identity(Projection.NONE))  # the optimiser subtracts the gradient
    times = (values - values[start])[better] / (losses[start] - losses[better])
    first = times.min()
    assert_close(THREE(costs + 0.999 * first * step), SUBSETS[start])
    assert (THREE(costs + 1.001 * first * step) * grad).sum() < losses[start]


def test_identity_keeps_a_gradient_at_the_solution_if_the_loss_does_and_blackbox_does_not():
    costs = normal(0, 5, 6)
    grad = 1 - 2 * THREE(costs)  # of the linear Hamming distance, where the solution is right
    assert not pulled(costs, grad, Blackbox(10.0)).any()
    assert pulled(costs, grad, Identity()).norm() > 0.1


# Blackbox


@given(seeds)
def test_blackbox_is_the_gradient_of_the_interpolation(seed):
    # f(w) = <g, y_l> - (<w, y> - <w, y_l>) / l with y_l = y(w + l g) and g held fixed.
    costs, grad, strength = normal(seed, 6), normal(seed + 1, 6), 0.7
    step = 1e-6

    def interpolation(w):
        moved, here = THREE(w + strength * grad), THREE(w)
        return grad @ moved - (w @ here - w @ moved) / strength

    axes = step * torch.eye(6).double()
    same = [
        torch.equal(THREE(w + a), THREE(w))
        for w in (costs, costs + strength * grad)
        for a in (*axes, *-axes)
    ]
    assume(all(same))  # no breakpoint between
    slopes = torch.stack(
        [(interpolation(costs + a) - interpolation(costs - a)) / (2 * step) for a in axes]
    )
    assert_close(pulled(costs, grad, Blackbox(strength)), slopes, rtol=0, atol=1e-8)


@given(seeds)
def test_two_sided_blackbox_is_the_mean_of_both_sides(seed):
    costs, grad = normal(seed, 3, 6), normal(seed + 1, 3, 6)
    ahead = pulled(costs, grad, Blackbox(0.7))
    behind = -pulled(costs, -grad, Blackbox(0.7))
    assert_close(pulled(costs, grad, Blackbox(0.7, two_sided=True)), (ahead + behind) / 2)


def test_blackbox_with_small_strength_is_zero_and_with_large_looks_at_the_loss_alone():
    costs, grad = normal(0, 3, 6), normal(1, 3, 6)
    assert not pulled(costs, grad, Blackbox(1e-9)).any()
    far = pulled(costs, grad, Blackbox(1e9))
    assert_close(far * 1e9, THREE(grad) - THREE(costs))


def test_blackbox_is_identity_scaled_where_the_gradient_points_at_a_solution():
    # l2 loss: -g / 2 = target - y, and looking far enough blackbox returns (target - y) / strength.
    costs, target = normal(0, 6), SUBSETS[7]
    here = THREE(costs)
    grad = 2 * (here - target)
    breakpoints = [
        ((other - here) @ costs / ((here - other) @ grad)).item()
        for other in SUBSETS
        if (here - other) @ grad > 0
    ]
    strength = max(breakpoints) * 1.001  # beyond all changes the target is cheapest
    returned = pulled(costs, grad, Blackbox(strength))
    assert_close(returned, pulled(costs, grad, Identity(Projection.NONE)) / (2 * strength))


def test_blackbox_on_projected_costs_is_blackbox_after_projection():
    costs, grad = normal(0, 3, 6).requires_grad_(), normal(1, 3, 6)
    solution = solve_discrete(project_costs(costs, THREE), THREE, Blackbox(0.3))
    (returned,) = torch.autograd.grad(solution, costs, grad)
    projected = project_costs(costs, THREE)
    inner = pulled(projected, grad, Blackbox(0.3))
    assert_close(returned, torch.autograd.grad(projected, costs, inner)[0])


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan"), float("inf")])
def test_a_strength_that_is_not_positive_is_refused(strength):
    with pytest.raises(ValueError, match="`strength` must be positive and finite, got"):
        Blackbox(strength)


def test_a_projection_by_name_is_refused():
    with pytest.raises(TypeError, match="must be a member of `Projection`, got 'norm'"):
        Identity("norm")  # pyright: ignore
    with pytest.raises(TypeError, match="must be a member of `Projection`, got 'norm'"):
        project_costs(torch.rand(4), THREE, "norm")  # pyright: ignore


# Straight-through


def test_straight_through_is_the_solution_forward_and_the_relaxation_backward():
    costs, grad = normal(0, 2, 4, 4).requires_grad_(), normal(1, 2, 4, 4)
    relax = partial(sinkhorn, temperature=0.5, iterations=20)
    solution = solve_discrete(costs, Assignment(), StraightThrough(relax))
    assert_close(solution, Assignment()(costs))
    (returned,) = torch.autograd.grad(solution, costs, grad)
    assert_close(returned, torch.autograd.grad(relax(costs), costs, grad)[0])


def test_straight_through_the_negative_costs_is_identity():
    costs, grad = normal(0, 2, 6), normal(1, 2, 6)
    assert_close(
        pulled(costs, grad, StraightThrough(torch.neg)),
        pulled(costs, grad, Identity(Projection.NONE)),
    )


def test_a_relaxation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="a relaxation must return the shape it was given"):
        pulled(normal(0, 2, 6), normal(1, 2, 6), StraightThrough(lambda costs: costs[:, :2]))


def test_a_rule_of_your_own_needs_two_methods():
    class Half:
        def forward(self, problem, costs):
            return problem.solve(costs), costs.sum(1)

        def backward(self, problem, grad, costs, outputs):
            solution, kept = outputs
            assert_close(kept, costs.sum(1))
            return -grad / 2 * solution

    costs, grad = normal(0, 2, 6), normal(1, 2, 6)
    assert_close(pulled(costs, grad, Half()), -grad / 2 * THREE(costs))

"""Projections are projections: idempotent, orthogonal, scale-free, and right under masks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.discrete import Assignment, Projection, TopK, project_costs

seeds = st.integers(0, 2**31)
each_projection = pytest.mark.parametrize("projection", Projection)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds)
@each_projection
def test_projecting_twice_is_projecting_once(projection, seed):
    costs = normal(seed, 2, 4, 4)
    once = project_costs(costs, Assignment(), projection)
    assert_close(project_costs(once, Assignment(), projection), once)


@given(seeds)
def test_each_projection_removes_what_it_says(seed):
    costs, solver = normal(seed, 2, 4, 4), Assignment()
    means, ones = costs.mean((1, 2)), torch.ones(2).double()
    assert project_costs(costs, solver, Projection.NONE) is costs
    for projection in (Projection.MEAN, Projection.STD):
        assert_close(project_costs(costs, solver, projection).mean((1, 2)), 0 * means)
    for projection in (Projection.AFFINE, Projection.AFFINE_NORM):
        assert_close(project_costs(costs, solver, projection).mean(2), torch.zeros(2, 4).double())
    for projection in (Projection.NORM, Projection.STD, Projection.AFFINE_NORM):
        assert_close(project_costs(costs, solver, projection).square().sum((1, 2)), ones)


@given(seeds, st.floats(0.01, 100))
def test_normalised_costs_have_no_scale(seed, scale):
    costs = normal(seed, 3, 5)
    for projection in (Projection.NORM, Projection.STD, Projection.AFFINE_NORM):
        scaled = project_costs(scale * costs, TopK(2), projection)
        assert_close(scaled, project_costs(costs, TopK(2), projection))


@each_projection
def test_under_a_mask_costs_are_projected_as_the_smaller_instance(projection):
    costs, mask = normal(0, 6), torch.tensor([True, False, True, True, True, False])
    small = project_costs(costs[mask], TopK(2), projection)
    costs[~mask] = torch.nan
    projected = project_costs(costs, TopK(2), projection, mask=mask)
    assert_close(projected[mask], small)
    assert not projected[~mask].any()


@each_projection
def test_projected_costs_can_be_differentiated_twice(projection):
    costs = normal(0, 2, 5).requires_grad_()
    mask = torch.tensor([True, True, True, False, True])
    for options in ({}, {"mask": mask}):
        run = lambda costs: project_costs(costs, TopK(2), projection, **options)  # noqa: B023, E731
        assert gradcheck(run, costs)
        assert gradgradcheck(run, costs)


@each_projection
def test_costs_of_zero_have_finite_derivatives(projection):
    costs = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    projected = project_costs(costs, TopK(2), projection)
    (grad,) = torch.autograd.grad(projected.sum(), costs, create_graph=True)
    assert grad.isfinite().all()
    assert not projected.any()


def test_costs_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="`costs` must be a floating-point tensor"):
        project_costs(torch.arange(4), TopK(2))
    with pytest.raises(ValueError, match="2 non-empty dimensions"):
        project_costs(torch.rand(4), Assignment())

"""Guards speak where something is wrong, and are silent where nothing is."""

import pytest
import torch
from torch.testing import assert_close

from weft._check import WeftWarning
from weft.discrete import (
    Assignment,
    Blackbox,
    FunctionSolver,
    GridPath,
    Identity,
    Projection,
    Ranking,
    TopK,
    check_collapse,
    check_loss,
    check_projection,
    compare_gradients,
    hamming_l1,
    recall_loss,
    solve_discrete,
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def hypercube(costs):
    """Each entry is on where its cost is negative."""
    return 1.0 * (costs < 0)


# Projections


@pytest.mark.parametrize("projection", [Projection.MEAN, Projection.STD])
def test_the_mean_is_refused_on_the_hypercube_with_two_solutions_that_show_it(projection):
    with pytest.raises(ValueError, match="must remove the same from all solutions") as caught:
        check_projection(hypercube, projection, (4,), generator=seeded())
    assert "[1.0, 1.0, 1.0, 0.0] and [0.0, 0.0, 0.0, 0.0]" in str(caught.value)
    assert "Projection.NORM" in str(caught.value)


def test_the_mean_is_refused_for_paths_which_never_see_negative_costs():
    with pytest.raises(ValueError, match="must remove the same from all solutions of GridPath"):
        check_projection(GridPath(), Projection.MEAN, (6, 6), generator=seeded(), samples=200)


def test_equalities_that_do_not_hold_are_refused():
    wrong = FunctionSolver(TopK(2), equalities=torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="must remove the same from all solutions"):
        check_projection(wrong, Projection.AFFINE, (4,), generator=seeded())


@pytest.mark.parametrize("projection", Projection)
@pytest.mark.parametrize(
    ("solver", "shape"), [(TopK(2), (5,)), (Ranking(), (5,)), (Assignment(), (4, 4))]
)
def test_all_projections_fit_sets_of_one_sum(solver, shape, projection):
    check_projection(solver, projection, shape, generator=seeded())


@pytest.mark.parametrize(
    "projection",
    [Projection.NONE, Projection.NORM, Projection.AFFINE, Projection.AFFINE_NORM],
)
def test_projections_that_know_nothing_fit_everything(projection):
    check_projection(hypercube, projection, (4,), generator=seeded())
    check_projection(GridPath(), projection, (4, 4), generator=seeded())


# Collapse


def test_collapsed_costs_are_reported_and_healthy_ones_are_not():
    healthy = normal(0, 50, 10)
    report = check_collapse(healthy, TopK(3), generator=seeded(9))
    assert report.norm == pytest.approx(healthy.norm(dim=1).mean().item())
    spread = (healthy - healthy.mean(1, keepdim=True)).norm(dim=1).mean().item()
    assert report.spread == pytest.approx(spread)
    assert report.noise == pytest.approx(0.01 * 10**0.5, rel=0.1)
    assert report.flip_rate < 0.2
    with pytest.warns(WeftWarning, match=r"costs have collapsed: .* changes \d+% of the solutions"):
        collapsed = check_collapse(1e-3 * healthy, TopK(3), generator=seeded(9))
    assert collapsed.flip_rate > 0.5


def test_costs_that_collapsed_to_one_value_are_reported_though_they_are_long():
    with pytest.warns(WeftWarning, match="costs have collapsed"):
        report = check_collapse(1 + 1e-3 * normal(0, 20, 10), Ranking(), generator=seeded())
    assert report.norm > 3
    assert report.spread < 0.01


def test_collapse_looks_at_what_is_inside_the_mask_and_takes_paths_and_batches():
    costs, mask = normal(0, 2, 3, 10), torch.arange(10) < 6
    expected = check_collapse(costs[..., :6], TopK(2), generator=seeded())
    costs[..., 6:] = torch.nan
    report = check_collapse(costs, TopK(2), generator=seeded(), mask=mask)
    assert report.norm == pytest.approx(expected.norm)
    assert report.spread == pytest.approx(expected.spread)
    check_collapse(normal(0, 2, 5, 5).abs(), GridPath(), generator=seeded())


def test_training_without_projection_collapses_and_is_reported():
    # Targets that disagree with the costs pull their scale down. Normalised, no gradient does.
    def train(rule):
        scale = torch.ones(1, requires_grad=True)
        pattern = normal(0, 64, 8)
        target = TopK(2)(pattern + 2 * normal(1, 64, 8))
        for _ in range(100):
            loss = (solve_discrete(scale * pattern, TopK(2), rule) - target).abs().sum(1).mean()
            (grad,) = torch.autograd.grad(loss, scale)
            scale = (scale - 0.05 * grad).detach().requires_grad_()
        return scale.detach() * pattern

    with pytest.warns(WeftWarning, match="costs have collapsed"):
        check_collapse(train(Identity(Projection.NONE)), TopK(2), generator=seeded(), noise=0.1)
    check_collapse(train(Identity()), TopK(2), generator=seeded(), noise=0.1)


def test_collapse_refuses_what_it_cannot_measure():
    with pytest.raises(ValueError, match=r"`costs` must have an instance, got shape \(0, 4\)"):
        check_collapse(torch.rand(0, 4), TopK(), generator=seeded())
    with pytest.raises(ValueError, match="`noise` must be positive"):
        check_collapse(torch.rand(2, 4), TopK(), generator=seeded(), noise=0.0)


# Losses


def test_a_loss_that_pushes_where_all_is_right_is_reported():
    target = TopK(2)(normal(0, 5, 6))
    with pytest.warns(WeftWarning, match="gradient of norm 5.48 where the solution is right"):
        grad = check_loss(lambda y: (y * (1 - target) + (1 - y) * target).sum(), target)
    assert_close(grad, 1 - 2 * target)
    with pytest.warns(WeftWarning, match="where the solution is right"):
        check_loss(lambda ranks: recall_loss(ranks, ranks <= 2), Ranking()(normal(0, 5, 6)))


def test_losses_that_are_flat_where_all_is_right_are_silent():
    target = TopK(2)(normal(0, 5, 6))
    for loss in (hamming_l1, torch.nn.functional.mse_loss):
        assert not check_loss(lambda y: loss(y, target), target).any()  # noqa: B023
    ranks = Ranking()(normal(0, 5, 6))
    assert not check_loss(lambda r: recall_loss(r, ranks <= 2, flat=True), ranks).any()
    with torch.no_grad():
        check_loss(lambda y: hamming_l1(y, target), target)


# Gradients


def report_of(rule):
    costs, grad = normal(0, 4, 6).requires_grad_(), normal(1, 4, 6)
    solution = solve_discrete(costs, TopK(3), rule)
    (returned,) = torch.autograd.grad(solution, costs, grad)
    return costs.detach(), grad, compare_gradients(grad, returned)


def test_identity_without_projection_keeps_norm_and_direction():
    _, grad, report = report_of(Identity(Projection.NONE))
    assert_close(report.incoming, grad.norm(dim=1))
    assert_close(report.returned, report.incoming)
    assert_close(report.cosine, torch.ones(4).double())


def test_projections_change_norm_and_direction_by_their_formula():
    costs, grad, report = report_of(Identity(Projection.STD))
    centred, unit = grad - grad.mean(1, keepdim=True), costs - costs.mean(1, keepdim=True)
    length = unit.norm(dim=1)
    unit = unit / length[:, None]
    kept = (centred - (unit * centred).sum(1, keepdim=True) * unit).norm(dim=1)
    assert_close(report.returned, kept / length)
    assert_close(report.cosine, kept / grad.norm(dim=1))


def test_a_gradient_that_is_lost_has_cosine_zero():
    report = report_of(Blackbox(1e-9))[2]
    assert not report.returned.any()
    assert not report.cosine.any()


def test_gradients_of_matrices_are_compared_by_instance_and_shapes_must_agree():
    report = compare_gradients(torch.ones(2, 3, 4, 4), -torch.ones(2, 3, 4, 4), item_dims=2)
    assert_close(report.cosine, torch.ones(2, 3))
    assert_close(report.incoming, torch.full((2, 3), 4.0))
    with pytest.raises(ValueError, match="`incoming` and `returned` must have one shape"):
        compare_gradients(torch.ones(3), torch.ones(4))

"""Implicit MLE is blackbox on a sample, and its adaptive form has no scale to tune."""

import pytest
import torch
from torch.testing import assert_close

from weft.discrete import (
    IMLE,
    AdaptiveIMLE,
    Blackbox,
    Gumbel,
    Ranking,
    SumOfGamma,
    TopK,
    solve_discrete,
)

THREE = TopK(3)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(costs, grad, rule, solver=THREE):
    """The solution, and what the rule returns when `grad` comes in."""
    costs = costs.detach().requires_grad_()
    solution = solve_discrete(costs, solver, rule)
    return solution.detach(), torch.autograd.grad(solution, costs, grad)[0]


@pytest.mark.parametrize("two_sided", [False, True])
def test_without_noise_it_is_blackbox(two_sided):
    costs, grad = normal(0, 50, 6), normal(1, 50, 6)
    rule = IMLE(0.7, generator=seeded(), temperature=0.0, two_sided=two_sided)
    assert_close(run(costs, grad, rule), run(costs, grad, Blackbox(0.7, two_sided=two_sided)))


def test_with_noise_it_is_blackbox_on_the_costs_that_had_it():
    costs, grad = normal(0, 50, 6), normal(1, 50, 6)
    noise = SumOfGamma(3)
    noisy = costs - 2.0 * noise.sample(costs, seeded(5))
    rule = IMLE(0.7, generator=seeded(5), temperature=2.0, noise=noise)
    assert_close(run(costs, grad, rule), run(noisy, grad, Blackbox(0.7)))


def test_gumbel_noise_draws_from_the_softmax():
    theta = torch.tensor([0.5, -1.0, 1.0]).double()
    rule = IMLE(1.0, generator=seeded(), noise=Gumbel())
    counts = solve_discrete((-theta).expand(40_000, 3), TopK(1), rule).mean(0)
    p = theta.softmax(0)
    assert ((counts - p).abs() < 4.5 * (p * (1 - p) / 40_000).sqrt()).all()


def test_each_instance_has_its_own_noise_and_the_generator_repeats_it():
    costs = torch.zeros(100, 6, dtype=torch.float64)
    first = solve_discrete(costs, THREE, IMLE(1.0, generator=seeded()))
    assert len(first.unique(dim=0)) > 10
    assert torch.equal(first, solve_discrete(costs, THREE, IMLE(1.0, generator=seeded())))


def test_adaptive_strength_is_beta_times_the_ratio_of_norms():
    costs, grad = normal(0, 6), normal(1, 6)
    rule = AdaptiveIMLE(generator=seeded(), temperature=0.0, beta=0.5)
    strength = 0.5 * costs.norm() / grad.norm()
    assert_close(run(costs, grad, rule), run(costs, grad, Blackbox(strength.item())))


def test_a_gradient_ten_times_as_large_comes_out_ten_times_as_large():
    costs, grad = normal(0, 20, 6), normal(1, 20, 6)
    _, once = run(costs, grad, AdaptiveIMLE(generator=seeded()))
    _, ten = run(costs, 10 * grad, AdaptiveIMLE(generator=seeded()))
    assert once.any()
    assert_close(ten, 10 * once)


def test_beta_rises_while_too_little_is_learned_and_falls_after():
    costs, grad = normal(0, 20, 6), normal(1, 20, 6)
    rule = AdaptiveIMLE(generator=seeded(), temperature=0.0, beta=1e-3, step=1e-2, target=2.0)
    betas = []
    for _ in range(200):
        _, returned = run(costs, grad, rule)
        betas.append(rule.beta)
    assert betas[20] > betas[0] > 1e-3
    learned = returned.count_nonzero().item() / 20
    assert 1.0 < learned < 3.0
    assert abs(betas[-1] - betas[-2]) == pytest.approx(1e-2)


def test_instances_without_gradient_or_without_costs_return_zero():
    costs, grad = normal(0, 3, 6), normal(1, 3, 6)
    costs[0], grad[1] = 0.0, 0.0
    _, returned = run(costs, grad, AdaptiveIMLE(generator=seeded(), two_sided=True), Ranking())
    assert not returned[:2].any()
    assert returned[2].any()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`strength` must be positive"):
        IMLE(0.0, generator=seeded())
    with pytest.raises(ValueError, match="`temperature` must be finite and not negative, got -1"):
        IMLE(1.0, generator=seeded(), temperature=-1)
    with pytest.raises(ValueError, match="`temperature` must be finite and not negative, got nan"):
        AdaptiveIMLE(generator=seeded(), temperature=float("nan"))
    for name in ("target", "step", "beta"):
        with pytest.raises(ValueError, match=f"`{name}` must be positive"):
            AdaptiveIMLE(generator=seeded(), **{name: 0.0})
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\), got 1"):
        AdaptiveIMLE(generator=seeded(), decay=1.0)

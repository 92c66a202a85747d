"""Perturbed rules estimate expectations with known closed forms, without bias."""

import math

import pytest
import torch
from torch.testing import assert_close

from weft.discrete import Gumbel, Normal, Perturbed, PerturbedMultiplicative, TopK, solve_discrete
from weft.discrete._perturbed import _weigh

MANY = 20_000


def assert_mean(samples, expected, sigmas=4.5):
    """Means of independent rows differ from `expected` by chance only: a z-test per entry."""
    error = samples.std(0) / len(samples) ** 0.5
    z = (samples.mean(0) - expected) / error
    assert z.abs().max() < sigmas, z


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def estimates(costs, grad, rule, solver=TopK(1)):  # noqa: B008
    """Independent estimates of the expectation and of its gradient."""
    repeated = costs.expand(MANY, -1).clone().requires_grad_()
    solution = solve_discrete(repeated, solver, rule)
    (returned,) = torch.autograd.grad(solution, repeated, grad.expand(MANY, -1))
    return solution.detach(), returned


def phi(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def cdf(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


def test_two_classes_under_normal_noise_are_a_probit():
    # y_0 = 1 where theta_0 + s Z_0 wins: Phi(d / (s sqrt 2)) with d = theta_0 - theta_1.
    scale, d = 0.5, 0.5
    costs, grad = torch.tensor([-d, 0.0]).double(), torch.tensor([1.0, 0.0]).double()
    solution, returned = estimates(costs, grad, Perturbed(scale, 5, generator=seeded()))
    spread = scale * math.sqrt(2)
    assert abs(cdf(d / spread) - 0.76025) < 1e-5
    assert_mean(solution[:, 0], cdf(d / spread))
    slope = phi(d / spread) / spread
    assert_mean(returned, torch.tensor([-slope, slope]).double())


def test_classes_under_gumbel_noise_are_a_softmax():
    # The reference values of perturbed argmax: theta = (-.6, 1.9, -.2, 1.1, -1), sigma = .5.
    theta, scale = torch.tensor([-0.6, 1.9, -0.2, 1.1, -1.0]).double(), 0.5
    grad = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0]).double()
    rule = Perturbed(scale, 5, generator=seeded(), noise=Gumbel())
    solution, returned = estimates(-theta, grad, rule)
    p = (theta / scale).softmax(0)
    assert_mean(solution, p)
    assert_mean(returned, -(p * grad - p * (p @ grad)) / scale)


def test_under_multiplicative_noise_two_classes_are_a_probit_of_logarithms():
    # Cost 0 wins where log c_0 + s Z_0 < log c_1 + s Z_1.
    scale, costs = 0.5, torch.tensor([1.0, 1.4]).double()
    grad = torch.tensor([1.0, 0.0]).double()
    rule = PerturbedMultiplicative(scale, 5, generator=seeded())
    solution, returned = estimates(costs, grad, rule)
    spread = scale * math.sqrt(2)
    d = math.log(1.4)
    assert_mean(solution[:, 0], cdf(d / spread))
    slope = phi(d / spread) / spread
    assert_mean(returned, torch.tensor([-slope / 1.0, slope / 1.4]).double())


def test_multiplicative_noise_has_mean_one_keeps_signs_and_leaves_zeros():
    seen = []

    def spy(costs):
        seen.append(costs)
        return TopK(1)(costs)

    costs = torch.tensor([[2.0, -3.0, 0.0]]).double().requires_grad_()
    rule = PerturbedMultiplicative(0.5, MANY, generator=seeded())
    (solve_discrete(costs, spy, rule) * costs.detach()).sum().backward()
    moved = seen[0][1:]
    assert_mean(moved[:, :2], costs[0, :2].detach())
    assert torch.equal(moved.sign(), costs.detach().sign().expand_as(moved))
    assert costs.grad.isfinite().all()
    assert costs.grad[0, 2] == 0


def test_taking_off_the_unmoved_solution_halves_the_variance_and_leaves_the_mean():
    costs, scale = torch.tensor([-0.5, 0.0]).double(), 0.5
    grad = torch.tensor([1.0, 0.0]).double()
    _, with_baseline = estimates(costs, grad, Perturbed(scale, 1, generator=seeded()))
    noise = Normal().sample(torch.empty(MANY, 1, 2).double(), seeded())
    solutions = TopK(1)(costs - scale * noise)

    class Problem:
        item_axes = (-1,)

    without = -_weigh(Problem, grad.expand(MANY, -1), noise, solutions) / scale
    assert_mean(without - with_baseline, torch.zeros(2).double())
    ratio = without.var(0) / with_baseline.var(0)
    assert (ratio > 1.7).all()
    assert_close(without.var(0)[0].item(), 2.4, rtol=0.1, atol=0)
    assert_close(with_baseline.var(0)[0].item(), 1.2, rtol=0.1, atol=0)


def test_small_noise_gives_the_solution_and_samples_their_mean():
    costs = torch.randn(4, 6, generator=seeded(), dtype=torch.float64)
    rule = Perturbed(1e-9, 3, generator=seeded())
    assert_close(solve_discrete(costs, TopK(2), rule), TopK(2)(costs))
    mean = solve_discrete(costs, TopK(2), Perturbed(5.0, 4, generator=seeded()))
    assert_close(mean.sum(1), torch.full((4,), 2.0).double())
    assert_close(4 * mean, (4 * mean).round())


@pytest.mark.parametrize("rule", [Perturbed, PerturbedMultiplicative])
def test_settings_that_are_not_positive_are_refused(rule):
    with pytest.raises(ValueError, match="`scale` must be positive and finite, got 0"):
        rule(0.0, 5, generator=seeded())
    for samples in (0, 2.5):
        with pytest.raises(ValueError, match=f"`samples` must be a whole number, .*got {samples}"):
            rule(1.0, samples, generator=seeded())

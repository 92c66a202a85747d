"""Noise has the moments and scores of its distribution, and repeats with its generator."""

import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from weft.discrete import Gumbel, Normal, SumOfGamma

ALL = [Normal(), Gumbel(), SumOfGamma(5)]


def draw(noise, *shape, seed=0, dtype=torch.float64):
    return noise.sample(torch.empty(*shape, dtype=dtype), torch.Generator().manual_seed(seed))


def assert_mean(samples, expected, sigmas=4.5):
    """The mean of independent samples differs from `expected` by chance only."""
    error = samples.std() / len(samples) ** 0.5
    assert abs(samples.mean() - expected) < sigmas * error


@pytest.mark.parametrize("noise", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_the_shape_and_dtype_asked_for_and_repeats(noise, dtype):
    first, second = (draw(noise, 3, 4, dtype=dtype) for _ in range(2))
    assert first.shape == (3, 4)
    assert first.dtype == dtype
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(noise, 3, 4, seed=1, dtype=dtype))


def test_samples_follow_their_distribution():
    for noise, law in ((Normal(), stats.norm), (Gumbel(), stats.gumbel_r)):
        assert stats.kstest(draw(noise, 20_000).numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("noise", [Normal(), Gumbel()])
def test_scores_are_derivatives_of_the_log_density(noise):
    law = {Normal(): stats.norm, Gumbel(): stats.gumbel_r}[noise]
    points, step = torch.linspace(-1.5, 4, 9).double(), 1e-6
    slopes = -(law.logpdf(points + step) - law.logpdf(points - step)) / (2 * step)
    assert_close(noise.score(points), torch.as_tensor(slopes), rtol=1e-7, atol=1e-8)
    assert_mean(noise.score(draw(noise, 100_000)), 0.0)


@pytest.mark.parametrize(("k", "terms"), [(1, 10), (5, 10), (5, 100), (10, 10)])
def test_k_draws_of_sum_of_gamma_have_the_moments_of_the_truncated_series(k, terms):
    total = draw(SumOfGamma(k, terms), 40_000, k).sum(1)
    mean = sum(1 / i for i in range(1, terms + 1)) - math.log(terms)
    variance = sum(1 / i**2 for i in range(1, terms + 1))
    assert_mean(total, mean)
    assert_mean((total - mean).square(), variance)


def test_k_draws_of_sum_of_gamma_sum_to_a_gumbel_variable():
    # With 300 terms the mean is off by 1 / 600 and the variance by 1 / 300.
    total = draw(SumOfGamma(4, 300), 10_000, 4).sum(1)
    assert stats.kstest(total.numpy(), stats.gumbel_r.cdf).pvalue > 1e-3


def test_sum_of_gamma_refuses_counts_below_one():
    for settings in ({"k": 0}, {"k": 2, "terms": 0}):
        with pytest.raises(ValueError, match="`k` and `terms` must be at least 1, got"):
            SumOfGamma(**settings)

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from weft.logits import LDAM, ClassStats, GaussianCloud, loss_variation

SEEDS = st.integers(0, 2**31)


def noisy(stats, seed=0, **options):
    return GaussianCloud(stats, generator=torch.Generator().manual_seed(seed), **options)


def cosines(example):
    return example.logits.tanh()


@given(seed=SEEDS)
def test_the_margin_of_ldam_is_that_of_its_equation(case, seed):
    example = case(seed)
    ldam = LDAM(ClassStats(example.counts), margin=0.4, scale=20.0)
    quarter = example.counts.double() ** -0.25
    margins = 0.4 * quarter / quarter.max()
    expected = cosines(example) - F.one_hot(example.targets, len(margins)) * margins
    assert_close(ldam(20 * cosines(example), example.targets), 20 * expected)


@given(seed=SEEDS)
def test_without_margin_and_noise_nothing_changes(case, seed):
    example = case(seed)
    logits = 30 * cosines(example)
    stats = ClassStats(example.counts)
    for perturbation in (LDAM(stats, margin=0.0), noisy(stats, margin=0.0, deviation=0.0)):
        assert_close(perturbation(logits, example.targets), logits, rtol=0, atol=0)


@given(seed=SEEDS)
def test_without_noise_the_cloud_is_one_margin_for_all_classes(case, seed):
    example = case(seed)
    stats = ClassStats(example.counts)
    found = noisy(stats, deviation=0.0, margin=0.5)(30 * cosines(example), example.targets)
    equal = LDAM(ClassStats(torch.ones(len(example.counts))), margin=0.5)
    assert_close(found, equal(30 * cosines(example), example.targets))


def test_noise_lowers_rare_classes_most_and_the_largest_not_at_all():
    stats = ClassStats([100, 10, 1])
    logits = torch.zeros(4000, 3)
    targets = torch.zeros(4000).long()
    found = noisy(stats, margin=0.0, scale=1.0)(logits, targets)
    assert (found <= 0).all()
    assert (found >= -1).all()
    mean = (2 / torch.pi) ** 0.5 / 3  # of |z|; cutting at three deviations moves it by 0.0003
    assert_close(found.mean(0), torch.tensor([0.0, -mean / 2, -mean]), atol=0.01, rtol=0)


def test_the_noise_is_that_of_the_generator(case):
    example = case(0, 4, 6)
    stats, logits = ClassStats(example.counts), 30 * cosines(example)
    first, second = noisy(stats, 1), noisy(stats, 1)
    once = first(logits, example.targets)
    assert torch.equal(once, second(logits, example.targets))
    assert not torch.equal(once, first(logits, example.targets))  # anew in each call


def test_classes_of_equal_size_have_no_cloud():
    found = noisy(ClassStats([5, 5]), margin=0.0)(torch.zeros(3, 2), torch.tensor([0, 1, 0]))
    assert (found == 0).all()


@given(seed=SEEDS)
def test_margins_raise_the_loss_of_every_class(case, seed):
    example = case(seed)
    logits = 30 * cosines(example)
    variation = loss_variation(LDAM(ClassStats(example.counts)), logits, example.targets)
    assert (variation > 0)[variation.isfinite()].all()


@given(seed=SEEDS)
def test_one_hot_rows_are_class_ids(case, seed):
    example = case(seed)
    logits, rows = 30 * cosines(example), F.one_hot(example.targets, len(example.counts)).double()
    stats = ClassStats(example.counts)
    for make in (LDAM, noisy):
        assert_close(make(stats)(logits, rows), make(stats)(logits, example.targets))


@given(seed=SEEDS)
def test_renaming_the_classes_renames_the_result(case, seed):
    example = case(seed)
    logits = 30 * cosines(example)
    order = torch.randperm(len(example.counts), generator=torch.Generator().manual_seed(seed))
    stats, renamed = ClassStats(example.counts), ClassStats(example.counts[order])
    for make in (LDAM, lambda stats: noisy(stats, deviation=0.0)):
        other = make(renamed)(logits[:, order], order.argsort()[example.targets])
        assert_close(other, make(stats)(logits, example.targets)[:, order])


def test_gradients_are_those_of_shifted_logits(case):
    example = case(2, 4, 5)
    ldam = LDAM(ClassStats(example.counts))

    def loss(features):
        return F.cross_entropy(ldam(30 * features.tanh(), example.targets), example.targets)

    assert gradcheck(loss, (example.logits.requires_grad_(),))


@pytest.mark.parametrize("make", [LDAM, noisy])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32(make, dtype):
    perturbation = make(ClassStats([50, 3]))
    logits = torch.tensor([[30.0, -30.0], [-30.0, 30.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1, 1])
    perturbed = perturbation(logits, targets)
    F.cross_entropy(perturbed, targets).backward()
    assert perturbed.dtype == torch.float32
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("make", [LDAM, noisy])
@pytest.mark.parametrize(
    ("counts", "options", "logits", "message"),
    [
        ([3, 2], {}, 40.0, "must be cosines times `scale`, got 40 with scale 30: normalise"),
        ([3, 2], {"scale": 1.0}, torch.nan, "must be cosines times `scale`, got nan"),
        ([3, 2], {"margin": -0.1}, 0.0, "`margin` must be finite and not negative, got -0.1"),
        ([3, 2], {"scale": 0.0}, 0.0, "`scale` must be positive, got 0.0: it multiplies"),
        ([3, 0], {}, 0.0, "positive for its margin, got 0 for class 1"),
    ],
)
def test_refuses_what_it_cannot_use(make, counts, options, logits, message):
    with pytest.raises(ValueError, match=message):
        make(ClassStats(counts), **options)(torch.full((1, 2), logits), torch.tensor([0]))


def test_refuses_a_negative_deviation():
    with pytest.raises(ValueError, match="`deviation` must be finite and not negative, got -1"):
        noisy(ClassStats([1, 2]), deviation=-1)

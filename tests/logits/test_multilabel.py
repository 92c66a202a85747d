import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft._check import WeftWarning
from weft.logits import (
    ByConfidence,
    BySize,
    ClassStats,
    MultiLabelLPL,
    NegativeTolerance,
    Polarity,
    PriorShift,
    loss_variation,
)

SEEDS = st.integers(0, 2**31)
EXACT = {"rtol": 1e-12, "atol": 1e-12}
bce = F.binary_cross_entropy_with_logits


@pytest.fixture(scope="module")
def batch(case):
    """Logits, rows of labels, and statistics of a task they could come from."""

    def make(seed, num_classes=0, num_samples=0):
        example = case(seed, num_classes, num_samples)
        generator = torch.Generator().manual_seed(seed)
        labels = torch.rand(example.logits.shape, generator=generator) < 0.4
        num_samples = int(example.counts.max()) + 5
        return example.logits, labels.double(), ClassStats(example.counts, num_samples=num_samples)

    return make


@given(seed=SEEDS, strength=st.floats(0, 2))
def test_the_prior_shift_is_the_log_odds_and_is_undone_afterwards(batch, seed, strength):
    logits, labels, stats = batch(seed)
    shift = PriorShift(stats, strength)
    prior = stats.counts / stats.num_samples
    expected = logits + strength * (prior / (1 - prior)).log()
    assert_close(shift(logits, labels), expected, **EXACT)
    assert_close(shift.post_hoc(shift(logits, labels)), logits, **EXACT)
    kept = shift.post_hoc(logits).argsort(0)  # of samples under one label
    assert torch.equal(kept, logits.argsort(0))


@given(seed=SEEDS, slope=st.floats(0.5, 5), kappa=st.floats(0, 1))
def test_negative_tolerance_is_the_published_formula(batch, seed, slope, kappa):
    logits, labels, stats = batch(seed)
    tolerance = NegativeTolerance(stats, slope, kappa)
    bias = -kappa * (1 / stats.priors - 1).log()
    z = logits + bias / slope
    expected = -labels * F.logsigmoid(z) - (1 - labels) * F.logsigmoid(-slope * z) / slope
    weights = tolerance.weights(labels)
    found = bce(tolerance(logits, labels), labels, weight=weights, reduction="none")
    assert_close(found, expected, **EXACT)


@given(seed=SEEDS)
def test_negative_tolerance_with_slope_and_kappa_one_is_the_prior_shift(batch, seed):
    logits, labels, stats = batch(seed)
    tolerance = NegativeTolerance(stats, 1.0, 1.0)
    assert_close(tolerance(logits, labels), PriorShift(stats)(logits, labels), **EXACT)
    assert (tolerance.weights(labels) == 1).all()


RAISES = {  # which way the losses of positives and of negatives go where a label is pushed up
    Polarity.SHARED: (1, -1),
    Polarity.POSITIVES: (1, 0),
    Polarity.NEGATIVES: (0, -1),
    Polarity.MARGIN: (1, 1),
}


def searched(logits, labels, signed, raises, steps, normalize):
    """Steps along the gradient of the mean loss of each label's positives, and negatives."""
    shifts = torch.zeros_like(logits)
    for c in range(logits.shape[1]):
        for value, direction in zip((1.0, 0.0), raises, strict=True):
            rows = labels[:, c] == value
            delta = torch.zeros((), dtype=torch.float64, requires_grad=True)
            for _ in range(steps if rows.any() else 0):
                loss = bce(logits[rows, c] + delta, labels[rows, c])
                (gradient,) = torch.autograd.grad(loss, delta)
                length = gradient.abs() if normalize else 1.0
                step = direction * signed[c] / steps * gradient / length
                delta = (delta + step).detach().requires_grad_()
            shifts[rows, c] = delta.detach()
    return shifts


@pytest.mark.parametrize("polarity", Polarity)
@pytest.mark.parametrize("normalize", [True, False])
@given(seed=SEEDS, steps=st.integers(1, 4))
def test_shifts_are_those_of_a_gradient_search_and_within_the_bound(
    batch, polarity, normalize, seed, steps
):
    logits, labels, stats = batch(seed)
    bounds = BySize(0.5, 3.0)
    lpl = MultiLabelLPL(stats, bounds, polarity=polarity, steps=steps, normalize=normalize)
    signed = bounds(stats.counts, stats.confidence)
    shifts = lpl(logits, labels) - logits
    assert_close(shifts, searched(logits, labels, signed, RAISES[polarity], steps, normalize))
    assert (shifts.abs() <= signed.abs() + 1e-12).all()


@pytest.mark.parametrize("normalize", [True, False])
@given(seed=SEEDS)
def test_bound_zero_is_the_binary_cross_entropy(batch, normalize, seed):
    logits, labels, stats = batch(seed)
    lpl = MultiLabelLPL(stats, BySize(0.0, 0.0), normalize=normalize)
    assert torch.equal(lpl(logits, labels), logits)


@pytest.mark.parametrize("make", [PriorShift, NegativeTolerance])
@given(seed=SEEDS)
def test_renaming_the_labels_renames_fixed_shifts(batch, make, seed):
    logits, labels, stats = batch(seed)
    order = torch.randperm(stats.num_classes, generator=torch.Generator().manual_seed(seed))
    renamed = ClassStats(stats.counts[order], num_samples=stats.num_samples.item())
    other = make(renamed)(logits[:, order], labels[:, order])
    assert_close(other, make(stats)(logits, labels)[:, order])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("bounds", [BySize(1.0, 3.0), ByConfidence(1.0, 1.0)])
@given(seed=SEEDS)
def test_renaming_the_labels_renames_the_result(batch, bounds, normalize, seed):
    logits, labels, stats = batch(seed)
    order = torch.randperm(stats.num_classes, generator=torch.Generator().manual_seed(seed))
    renamed = ClassStats(stats.counts[order], num_samples=stats.num_samples.item())
    found = MultiLabelLPL(stats, bounds, normalize=normalize)(logits, labels)
    other = MultiLabelLPL(renamed, bounds, normalize=normalize)(logits[:, order], labels[:, order])
    assert_close(other, found[:, order])


def test_labels_without_positives_in_the_batch_have_no_confidence_and_no_shift():
    logits = torch.tensor([[2.0, 0.0, -2.0], [2.0, 0.0, -2.0]])
    labels = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    lpl = MultiLabelLPL(ClassStats([9, 9, 9], num_samples=20), ByConfidence(1.0))
    assert_close(lpl(logits, labels) - logits, torch.tensor([[1.0, 0.0, -1.0]]).repeat(2, 1))


def test_a_margin_raises_both_losses_of_a_rare_label():
    logits, labels = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    stats = ClassStats([1], num_samples=2)
    lpl = MultiLabelLPL(stats, BySize(1.0, 0.0), polarity=Polarity.MARGIN)
    assert_close(lpl(logits, labels), torch.tensor([[-1.0], [1.0]]))
    assert loss_variation(lpl, logits, labels, loss=bce) > 0


@pytest.mark.parametrize(
    "make", [PriorShift, NegativeTolerance, MultiLabelLPL], ids=lambda make: make.__name__
)
def test_derivatives_in_the_logits_are_exact(batch, make):
    logits, labels, stats = batch(5, 4, 5)
    perturbation = make(stats)

    def loss(logits):
        return bce(perturbation(logits, labels), labels)

    assert gradcheck(loss, (logits.requires_grad_(),))
    assert gradgradcheck(loss, (logits.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("normalize", [True, False])
def test_extreme_logits_stay_finite(dtype, normalize, device):
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], dtype=dtype, device=device)
    labels = torch.tensor([[1.0, 1.0], [1.0, 0.0]], device=device)
    stats = ClassStats([900, 2], num_samples=1000)
    for make in (PriorShift, NegativeTolerance, MultiLabelLPL):
        options = {"normalize": normalize} if make is MultiLabelLPL else {}
        perturbation = make(stats, **options).to(device)
        perturbed = perturbation(logits.requires_grad_(), labels)
        assert perturbed.dtype == torch.float32
        bce(perturbed, labels).backward()
        assert perturbed.isfinite().all()
        assert logits.grad.isfinite().all()


def test_large_labels_pushed_down_too_far_are_warned_of():
    with pytest.warns(WeftWarning, match="must stay above -4"):
        MultiLabelLPL(ClassStats([90, 2], num_samples=100), BySize(9.0, 0.0))


GOOD = ClassStats([3, 2], num_samples=5)


@pytest.mark.parametrize(
    ("make", "targets", "error", "message"),
    [
        (
            lambda: PriorShift(ClassStats([3, 0], num_samples=5)),
            None,
            ValueError,
            "positive for the log-odds of its label, got 0 for class 1",
        ),
        (
            lambda: NegativeTolerance(ClassStats([3, 5], num_samples=5)),
            None,
            ValueError,
            "must exceed each count for its log-odds, got label 1 on all 5 samples: give",
        ),
        (lambda: PriorShift(GOOD, torch.nan), None, ValueError, "`strength` must be a finite"),
        (lambda: NegativeTolerance(GOOD, 0.0), None, ValueError, "`slope` must be positive, got 0"),
        (lambda: NegativeTolerance(GOOD, 1.0, torch.inf), None, ValueError, "`kappa` must be a"),
        (lambda: MultiLabelLPL(GOOD, steps=0), None, ValueError, "`steps` must be at least 1"),
        (lambda: PriorShift(GOOD), torch.tensor([0, 1]), TypeError, "rows of zeros and ones"),
        (lambda: MultiLabelLPL(GOOD), torch.tensor([0, 1]), TypeError, "got torch.int64: call"),
        (lambda: MultiLabelLPL(GOOD), torch.zeros(2, 3), ValueError, r"\(2, 2\), got \(2, 3\)"),
        (lambda: NegativeTolerance(GOOD), -torch.ones(2, 2), ValueError, r"lie in \[0, 1\], got"),
    ],
)
def test_refuses_what_it_cannot_use(make, targets, error, message):
    with pytest.raises(error, match=message):
        make()(torch.zeros(2, 2), targets)

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import hessian
from torch.testing import assert_close

from weft.logits import ClassStats, Compose, LabelSmoothing, LogitAdjustment, loss_variation

SEEDS = st.integers(0, 2**31)
SHARES = st.floats(0.001, 1.0)


@given(seed=SEEDS, share=SHARES)
def test_cross_entropy_and_its_gradient_become_those_of_smoothed_labels(case, seed, share):
    example = case(seed)
    logits = example.logits.requires_grad_()
    perturbed = LabelSmoothing(share)(logits, example.targets)
    found = F.cross_entropy(perturbed, example.targets, reduction="none")
    expected = F.cross_entropy(logits, example.targets, reduction="none", label_smoothing=share)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    assert_close(slope, wanted, rtol=1e-8, atol=1e-8)


def test_second_derivatives_too(case):
    example = case(1, 4, 5)
    smoothing = LabelSmoothing(0.2)

    def loss(logits):
        return F.cross_entropy(smoothing(logits, example.targets), example.targets)

    def expected(logits):
        return F.cross_entropy(logits, example.targets, label_smoothing=0.2)

    assert_close(hessian(loss, example.logits), hessian(expected, example.logits))
    assert gradcheck(loss, (example.logits.requires_grad_(),))
    assert gradgradcheck(loss, (example.logits,))


@given(seed=SEEDS, share=SHARES)
def test_only_the_logit_of_the_own_class_moves(case, seed, share):
    example = case(seed)
    moved = LabelSmoothing(share)(example.logits, example.targets) != example.logits
    others = ~F.one_hot(example.targets, len(example.counts)).bool()
    assert not moved[others].any()


@given(seed=SEEDS)
def test_renaming_the_classes_renames_the_result(case, seed):
    example = case(seed)
    order = torch.randperm(len(example.counts), generator=torch.Generator().manual_seed(seed))
    smoothing = LabelSmoothing(0.1)
    perturbed = smoothing(example.logits, example.targets)
    other = smoothing(example.logits[:, order], order.argsort()[example.targets])
    assert_close(other, perturbed[:, order])


@given(seed=SEEDS)
def test_no_smoothing_changes_no_bit(case, seed):
    example = case(seed)
    assert torch.equal(LabelSmoothing(0.0)(example.logits, example.targets), example.logits)


@given(seed=SEEDS)
def test_after_logit_adjustment_it_smooths_the_adjusted_loss(case, seed):
    example = case(seed)
    adjustment = LogitAdjustment(ClassStats(example.counts))
    both = Compose(adjustment, LabelSmoothing(0.1))(example.logits, example.targets)
    adjusted = adjustment(example.logits, example.targets)
    assert_close(
        F.cross_entropy(both, example.targets),
        F.cross_entropy(adjusted, example.targets, label_smoothing=0.1),
    )


def test_it_pushes_up_what_is_learned_and_down_what_is_not():
    logits = torch.tensor([[8.0, 0.0], [8.0, 0.0]])
    variation = loss_variation(LabelSmoothing(0.1), logits, torch.tensor([0, 1]))
    assert variation[0] > 0 > variation[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("share", [1e-4, 0.1, 1.0])
def test_extreme_logits_stay_finite(dtype, share, device):
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], device=device, dtype=dtype)
    targets = torch.tensor([0, 0], device=device)
    perturbed = LabelSmoothing(share)(logits.requires_grad_(), targets)
    assert perturbed.dtype == torch.float32
    loss = F.cross_entropy(perturbed, targets)
    loss.backward()
    assert perturbed.isfinite().all()
    assert logits.grad.isfinite().all()
    expected = F.cross_entropy(logits.float(), targets, label_smoothing=share)
    assert_close(loss, expected)


def test_a_single_class_has_nothing_to_be_confused_with():
    logits = torch.randn(3, 1)
    assert torch.equal(LabelSmoothing()(logits, torch.zeros(3).long()), logits)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LabelSmoothing(-0.1), ValueError, r"share in \[0, 1\], got -0.1: 0 changes"),
        (lambda: LabelSmoothing(1.5), ValueError, r"share in \[0, 1\], got 1.5"),
        (lambda: LabelSmoothing(torch.nan), ValueError, r"share in \[0, 1\], got nan"),
        (
            lambda: LabelSmoothing()(torch.zeros(2, 3), torch.tensor([0, 3])),
            ValueError,
            "between 0 and 2, got 0 to 3",
        ),
        (
            lambda: LabelSmoothing()(torch.zeros(2, 3), torch.zeros(2, 3)),
            TypeError,
            r"class ids of shape \(n,\)",
        ),
    ],
)
def test_refuses_what_it_cannot_use(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_printout_shows_the_setting():
    assert repr(LabelSmoothing(0.2)) == "LabelSmoothing(smoothing=0.2)"

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.logits import (
    ClassStats,
    asymmetric_loss,
    class_balanced_weights,
    focal_loss,
    rebalanced_weights,
)

SEEDS = st.integers(0, 2**31)
GAMMAS = st.floats(0, 4)
EXACT = {"rtol": 1e-10, "atol": 1e-12}
PLAIN = {"gamma_pos": 0.0, "gamma_neg": 0.0, "clip": 0.0}


def labels_like(logits, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(logits.shape, generator=generator) < 0.4).to(logits.dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@given(seed=SEEDS)
def test_without_fading_they_are_the_cross_entropies(case, reduction, seed):
    example = case(seed)
    expected = F.cross_entropy(example.logits, example.targets, reduction=reduction)
    found = focal_loss(example.logits, example.targets, gamma=0.0, reduction=reduction)
    assert_close(found, expected, **EXACT)
    labels = labels_like(example.logits, seed)
    expected = F.binary_cross_entropy_with_logits(example.logits, labels, reduction=reduction)
    found = asymmetric_loss(example.logits, labels, reduction=reduction, **PLAIN)
    assert_close(found, expected, **EXACT)


@given(seed=SEEDS, gamma=GAMMAS)
def test_the_focal_loss_is_its_formula(case, seed, gamma):
    example = case(seed)
    p = example.logits.softmax(1).gather(1, example.targets[:, None]).squeeze(1)
    expected = -((1 - p) ** gamma * p.log()).mean()
    assert_close(
        focal_loss(example.logits, example.targets, gamma=gamma), expected, atol=1e-9, rtol=1e-7
    )  # 1 - p of the oracle cancels
    rows = F.one_hot(example.targets, len(example.counts)).double()
    found = focal_loss(example.logits, rows, gamma=gamma)
    assert_close(found, focal_loss(example.logits, example.targets, gamma=gamma), **EXACT)


@given(seed=SEEDS, gamma_pos=GAMMAS, gamma_neg=GAMMAS, clip=st.floats(0, 0.5))
def test_the_asymmetric_loss_is_its_formula(case, seed, gamma_pos, gamma_neg, clip):
    logits = case(seed).logits
    labels = labels_like(logits, seed)
    p = logits.sigmoid()
    q = (p - clip).clamp_min(0)
    positive, negative = (1 - p) ** gamma_pos * p.log(), q**gamma_neg * (1 - q).log()
    found = asymmetric_loss(
        logits, labels, gamma_pos=gamma_pos, gamma_neg=gamma_neg, clip=clip, reduction="sum"
    )
    assert_close(found, -(labels * positive + (1 - labels) * negative).sum(), atol=1e-8, rtol=1e-7)


def test_gradients_of_both_orders_are_exact(case):
    example = case(3, 4, 5)
    logits = example.logits.requires_grad_()
    labels = labels_like(logits, 3)
    for run in (
        lambda u: focal_loss(u, example.targets, gamma=1.5),
        lambda u: asymmetric_loss(u, labels),
        lambda u: asymmetric_loss(u, labels, gamma_neg=2.0, clip=0.0),
    ):
        assert gradcheck(run, (logits,))
        assert gradgradcheck(run, (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("size", [20.0, 100.0])
def test_badly_misjudged_samples_keep_a_finite_gradient(dtype, gamma, clip, size, device):
    # Published code adds 1e-8 inside the logarithm: zero in float16, where a positive at -20 has
    # loss infinity, and a gradient of 4e-8 in float32.
    logits = torch.tensor([[-size, size]], dtype=dtype, device=device, requires_grad=True)
    labels = torch.tensor([[1.0, 1.0]], device=device)
    loss = asymmetric_loss(
        logits, labels, gamma_pos=gamma, gamma_neg=gamma, clip=clip, reduction="sum"
    )
    loss.backward()
    assert_close(loss.item(), size, rtol=1e-3, atol=1e-3)
    assert_close(logits.grad[0, 0].item(), -1.0, rtol=1e-2, atol=1e-2)
    assert logits.grad.isfinite().all()

    logits = logits.detach().requires_grad_()
    asymmetric_loss(logits, 1 - labels, gamma_neg=gamma, clip=clip).backward()
    assert logits.grad.isfinite().all()

    logits = logits.detach().requires_grad_()
    loss = focal_loss(logits, torch.tensor([0], device=device), gamma=gamma)
    (right,) = torch.autograd.grad(loss, logits)
    assert_close(right.float().tolist(), [[-1.0, 1.0]], rtol=1e-2, atol=1e-2)
    loss = focal_loss(logits, torch.tensor([1], device=device), gamma=gamma)
    (right,) = torch.autograd.grad(loss, logits)
    assert right.isfinite().all()


@given(seed=SEEDS, beta=st.floats(0, 0.9999))
def test_class_balanced_weights_are_the_formula_with_mean_one(case, seed, beta):
    counts = case(seed).counts
    weights = class_balanced_weights(ClassStats(counts), beta)
    expected = (1 - beta) / (1 - beta ** counts.double())
    assert_close(weights, expected / expected.mean())
    assert weights.argmax() == counts.argmin() or beta < 1e-6
    padded = class_balanced_weights(ClassStats(F.pad(counts, (0, 3))), beta)
    assert_close(padded, F.pad(weights, (0, 3)))


@given(seed=SEEDS)
def test_renaming_the_classes_changes_no_loss_and_renames_weights(case, seed):
    example = case(seed)
    labels = labels_like(example.logits, seed)
    order = torch.randperm(len(example.counts), generator=torch.Generator().manual_seed(seed))
    logits, targets = example.logits[:, order], order.argsort()[example.targets]
    assert_close(focal_loss(logits, targets), focal_loss(example.logits, example.targets))
    found = asymmetric_loss(logits, labels[:, order])
    assert_close(found, asymmetric_loss(example.logits, labels))
    stats, renamed = ClassStats(example.counts), ClassStats(example.counts[order])
    assert_close(class_balanced_weights(renamed), class_balanced_weights(stats)[order])
    found = rebalanced_weights(renamed, labels[:, order])
    assert_close(found, rebalanced_weights(stats, labels)[:, order])


def test_rebalanced_weights_are_the_formula():
    stats = ClassStats([100, 10, 1], num_samples=200)
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).double()
    found = rebalanced_weights(stats, targets)
    r = torch.tensor([0.01, 0.1, 1.0]).double()
    expected = torch.stack([r / 0.11, r / 1.0, torch.full_like(r, torch.inf)])
    assert_close(found, 0.1 + torch.sigmoid(10 * (expected - 0.3)))


def test_label_smoothing_is_a_constant_shift_only_where_no_wrong_class_is_below_its_share(case):
    # Its gradient p - (1 - s) e_y - s / c is that of cross-entropy at shifted logits whose
    # softmax is p + s (e_y - 1 / c): a distribution only where each wrong p exceeds s / c.
    example, s = case(4, 4, 6), 0.1
    logits = (0.1 * example.logits).requires_grad_()
    smooth = F.cross_entropy(logits, example.targets, label_smoothing=s)
    (wanted,) = torch.autograd.grad(smooth, logits)
    p = logits.detach().softmax(1)
    target = p + s * (F.one_hot(example.targets, 4) - 1 / 4)
    assert (target > 0).all()
    shift = target.log() - p.log()
    (found,) = torch.autograd.grad(F.cross_entropy(logits + shift, example.targets), logits)
    assert_close(found, wanted)
    sure = 20.0 * F.one_hot(example.targets, 4)
    assert (sure.softmax(1) + s * (F.one_hot(example.targets, 4) - 1 / 4)).min() < 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u, y: focal_loss(u, y, gamma=-1), "`gamma` must be finite and not negative"),
        (lambda u, y: focal_loss(u, y, reduction="max"), "`reduction` must be mean, sum or none"),
        (lambda u, y: focal_loss(u, y + 2), "`targets` must lie between 0 and 1, got 2 to 3"),
        (lambda u, y: asymmetric_loss(u, u, gamma_pos=-1), "`gamma_pos` must be finite and not"),
        (lambda u, y: asymmetric_loss(u, u, gamma_neg=torch.nan), "`gamma_neg` must be finite"),
        (lambda u, y: asymmetric_loss(u, u, clip=1.0), r"probability in \[0, 1\), got 1.0"),
        (lambda u, y: asymmetric_loss(u, u[:, :1]), r"shape of `logits`, \(2, 2\), got \(2, 1\)"),
        (lambda u, y: class_balanced_weights(ClassStats([1]), 1.0), r"lie in \[0, 1\), got 1.0"),
        (lambda u, y: rebalanced_weights(ClassStats([1, 0]), u), "positive for its weight, got 0"),
        (lambda u, y: rebalanced_weights(ClassStats([1]), u), r"rows of 1 labels, got shape \(2"),
    ],
)
def test_refuses_what_it_cannot_use(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 2), torch.tensor([0, 1]))

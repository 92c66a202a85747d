import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import hessian
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from weft._check import WeftWarning
from weft.logits import LPL, ByConfidence, BySize, ClassMargin, ClassStats, Compose, LogitAdjustment

SEEDS = st.integers(0, 2**31)
BOUNDS = [BySize(delta_epsilon=4), ByConfidence(0.5, 1.0), BySize(epsilon=2, delta_epsilon=0)]
LEARNED = [
    {"steps": 1},
    {"steps": 3},
    {"steps": 1, "normalize": False},
    {"steps": 5, "normalize": False},
]


def many_or_few(case, seed, many):
    """A batch of a few classes, or of a few among so many that each sample has a row of its own."""
    if not many:
        return case(seed)
    example = case(seed, 300)
    return dataclasses.replace(example, targets=example.targets % 4)


def slow_lpl(logits, targets, signed, steps, normalize):
    """The method as its equations say, a class at a time; a dense gradient, no grouping."""
    perturbed = logits.clone()
    for c in targets.unique():
        rows = targets == c
        delta = torch.zeros_like(logits[0])
        for _ in range(steps):
            gradient = (logits[rows] + delta).softmax(1).mean(0)
            gradient[c] = 0
            gradient[c] = -gradient.sum()
            length = gradient.norm() if normalize else 1.0
            delta = delta + signed[c] / steps * gradient / length
        if not normalize and delta.norm() > signed[c].abs():
            delta *= signed[c].abs() / delta.norm()
        perturbed[rows] += delta
    return perturbed


def class_losses(logits, targets, num_classes):
    losses = F.cross_entropy(logits, targets, reduction="none")
    sums = losses.new_zeros(num_classes).index_add(0, targets, losses)
    return sums / targets.bincount(minlength=num_classes)


def signed_bounds(bounds, example):
    """The bounds of a batch, and NaN where it has no sample of the class."""
    stats = ClassStats(example.counts)
    confidence = stats.observe(example.logits.softmax(1), example.targets)
    return bounds(stats.counts, confidence).where(confidence.isfinite(), torch.nan)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("options", LEARNED)
@given(seed=SEEDS, many=st.booleans())
def test_it_equals_the_equations_written_as_a_loop(case, bounds, options, seed, many):
    example = many_or_few(case, seed, many)
    lpl = LPL(ClassStats(example.counts), bounds, **options)
    expected = slow_lpl(
        example.logits, example.targets, signed_bounds(bounds, example), lpl.steps, lpl.normalize
    )
    assert_close(lpl(example.logits, example.targets), expected)


@pytest.mark.parametrize("options", LEARNED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=SEEDS, many=st.booleans())
def test_no_class_moves_further_than_its_bound(case, options, dtype, seed, many):
    example = many_or_few(case, seed, many)
    lpl = LPL(ClassStats(example.counts), BySize(delta_epsilon=4), **options)
    logits = example.logits.to(dtype)
    length = (lpl(logits, example.targets) - logits).norm(dim=1)
    bound = lpl.fixed[example.targets].abs().to(dtype)
    rounding = 100 * torch.finfo(dtype).eps * logits.abs().max()
    assert (length <= bound + rounding).all()
    if lpl.normalize and lpl.steps == 1:
        assert_close(length, bound, atol=rounding.item(), rtol=1e-5)


def test_a_thousand_batches_of_a_skewed_task_move_each_class_by_exactly_its_bound(case):
    # A bound on rows holds class by class; norms over columns gave the head a 0.06th of it.
    for seed in range(1000):
        example = case(seed, 10, 64)
        example.logits[:, example.counts.argmax()] += 3  # all classes are confused with the head
        lpl = LPL(ClassStats(example.counts), BySize(delta_epsilon=4))
        length = (lpl(example.logits, example.targets) - example.logits).norm(dim=1)
        assert_close(length, lpl.fixed[example.targets].abs())


@pytest.mark.parametrize("make", [LPL, ClassMargin])
@pytest.mark.parametrize("bounds", BOUNDS)
@given(seed=SEEDS)
def test_classes_pushed_up_lose_more_and_classes_pushed_down_less(case, make, bounds, seed):
    example = case(seed)
    perturbed = make(ClassStats(example.counts), bounds)(example.logits, example.targets)
    before = class_losses(example.logits, example.targets, len(example.counts))
    after = class_losses(perturbed, example.targets, len(example.counts))
    signed = signed_bounds(bounds, example)
    assert (after > before)[(signed > 1e-9) & (before > 1e-9)].all()
    # One long step down may overshoot; steps that follow the gradient do not.
    small = LPL(ClassStats(example.counts), BySize(delta_epsilon=1e-3))
    fell = class_losses(small(example.logits, example.targets), example.targets, len(signed))
    down = (small.fixed < 0) & (before > 1e-6)
    assert (fell < before)[down].all()


@given(seed=SEEDS)
def test_more_bound_raises_the_loss_of_classes_pushed_up_more(case, seed):
    example = case(seed)
    losses = []
    for size in (0.0, 0.5, 2.0, 6.0):
        lpl = LPL(ClassStats(example.counts), BySize(size, 0.0, head_scale=0.0), steps=3)
        perturbed = lpl(example.logits, example.targets)
        losses.append(class_losses(perturbed, example.targets, len(example.counts)))
    rises = torch.stack(losses).diff(dim=0)[:, signed_bounds(lpl.bounds, example) > 0]
    assert (rises > -1e-12).all()  # the class's mean loss is convex along the path


@pytest.mark.parametrize("make", [LPL, ClassMargin])
@pytest.mark.parametrize("bounds", BOUNDS)
@given(seed=SEEDS, many=st.booleans())
def test_renaming_the_classes_renames_the_result(case, make, bounds, seed, many):
    example = many_or_few(case, seed, many)
    order = torch.randperm(len(example.counts), generator=torch.Generator().manual_seed(seed))
    renamed = order.argsort()[example.targets]
    perturbed = make(ClassStats(example.counts), bounds)(example.logits, example.targets)
    other = make(ClassStats(example.counts[order]), bounds)(example.logits[:, order], renamed)
    assert_close(other, perturbed[:, order])


@pytest.mark.parametrize("make", [LPL, ClassMargin])
@pytest.mark.parametrize("bounds", BOUNDS)
@given(seed=SEEDS, extra=st.sampled_from([1, 40, 300]))
def test_classes_that_never_occur_change_nothing(case, make, bounds, seed, extra):
    example = case(seed)
    perturbed = make(ClassStats(example.counts), bounds)(example.logits, example.targets)
    counts = F.pad(example.counts, (0, extra))
    logits = F.pad(example.logits, (0, extra), value=-1e4)  # never predicted
    padded = make(ClassStats(counts), bounds)(logits, example.targets)
    assert_close(padded[:, :-extra], perturbed)


@pytest.mark.parametrize("make", [LPL, ClassMargin])
@pytest.mark.parametrize("bounds", BOUNDS)
@given(seed=SEEDS)
def test_one_hot_rows_are_class_ids(case, make, bounds, seed):
    example = case(seed)
    perturbation = make(ClassStats(example.counts), bounds)
    rows = F.one_hot(example.targets, len(example.counts)).double()
    assert_close(perturbation(example.logits, rows), perturbation(example.logits, example.targets))


def test_a_mixed_sample_gets_its_shares_of_the_shifts_of_its_classes(case):
    example = case(0, 4, 3)
    lpl = LPL(ClassStats(example.counts))
    pure = torch.eye(4).double()[:3]
    rows = torch.cat([pure, pure, torch.tensor([[0.3, 0.7, 0.0, 0.0]]).double()])
    logits = torch.cat([example.logits, example.logits, example.logits[:1]])
    shifts = lpl(logits, rows) - logits
    assert_close(shifts[6], 0.3 * shifts[0] + 0.7 * shifts[1])


@pytest.mark.parametrize("normalize", [True, False])
@given(seed=SEEDS)
def test_samples_count_in_a_class_by_their_shares(case, normalize, seed):
    example = case(seed)
    rows = example.logits.flip(0).softmax(1)  # every sample has a share of every class
    lpl = LPL(ClassStats(example.counts), normalize=normalize)
    means = rows.T @ example.logits.softmax(1) / rows.sum(0)[:, None]
    gradient = means - torch.eye(len(means))
    length = gradient.norm(dim=1, keepdim=True) if normalize else 1.0
    shifts = lpl.fixed[:, None] * gradient / length
    shifts *= (lpl.fixed.abs() / shifts.norm(dim=1)).clamp_max(1)[:, None]
    assert_close(lpl(example.logits, rows), example.logits + rows @ shifts)


def test_shifts_are_constants_for_targets_too(case):
    example = case(2, 4, 6)
    rows = F.one_hot(example.targets, 4).double().requires_grad_()
    assert not LPL(ClassStats(example.counts), ByConfidence())(example.logits, rows).requires_grad


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            self.numel = max(self.numel, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return result


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("soft", [False, True])
def test_nothing_is_larger_than_the_logits_where_classes_are_many(case, steps, soft):
    example = case(0, 500, 20)
    targets = F.one_hot(example.targets, 500).double() if soft else example.targets
    lpl = LPL(ClassStats(example.counts), steps=steps)
    with _Largest() as largest:
        lpl(example.logits, targets)
    assert largest.numel == example.logits.numel()  # not 500 x 500, nor 10 copies


@pytest.mark.parametrize("make", [LPL, ClassMargin])
@given(seed=SEEDS)
def test_bound_zero_changes_no_bit(case, make, seed):
    example = case(seed)
    perturbation = make(ClassStats(example.counts), BySize(0.0, 0.0))
    assert torch.equal(perturbation(example.logits, example.targets), example.logits)
    adjusted = LogitAdjustment(ClassStats(example.counts))
    both = Compose(adjusted, perturbation)
    expected = adjusted(example.logits, example.targets)
    assert torch.equal(both(example.logits, example.targets), expected)


@given(seed=SEEDS)
def test_where_wrong_classes_are_equally_likely_it_is_a_class_margin(case, seed):
    example = case(seed)
    num_classes = len(example.counts)
    logits = F.one_hot(example.targets, num_classes) * example.logits
    factor = (num_classes / (num_classes - 1)) ** 0.5
    lpl = LPL(ClassStats(example.counts), BySize(delta_epsilon=2))
    margin = ClassMargin(ClassStats(example.counts), BySize(delta_epsilon=2 * factor))
    assert_close(
        lpl(logits, example.targets).log_softmax(1),
        margin(logits, example.targets).log_softmax(1),
    )


@pytest.mark.parametrize("make", [LPL, ClassMargin])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_the_loss_has_the_gradient_of_cross_entropy_at_the_shifted_logits(case, make, bounds):
    example = case(3, 5, 9)
    logits = example.logits.requires_grad_()
    perturbation = make(ClassStats(example.counts), bounds)
    perturbed = perturbation(logits, example.targets)
    F.cross_entropy(perturbed, example.targets, reduction="sum").backward()
    expected = perturbed.softmax(1) - F.one_hot(example.targets, 5)
    assert_close(logits.grad, expected)
    assert not perturbed.is_leaf
    shift = (perturbed - logits).detach()  # a constant of the step
    assert gradcheck(lambda u: F.cross_entropy(u + shift, example.targets), (logits,))


@pytest.mark.parametrize("options", LEARNED)
def test_second_derivatives_are_those_of_cross_entropy_at_the_shifted_logits(case, options):
    example = case(3, 4, 6)
    lpl = LPL(ClassStats(example.counts), **options)
    shift = lpl(example.logits, example.targets) - example.logits

    def learned(logits):
        return F.cross_entropy(lpl(logits, example.targets), example.targets)

    def fixed(logits):
        return F.cross_entropy(logits + shift, example.targets)

    assert_close(hessian(learned, example.logits), hessian(fixed, example.logits))
    assert gradgradcheck(fixed, (example.logits.requires_grad_(),))


def test_a_margin_has_derivatives_of_any_order(case):
    example = case(4, 4, 6)
    margin = ClassMargin(ClassStats(example.counts))

    def loss(logits):
        return F.cross_entropy(margin(logits, example.targets), example.targets)

    assert gradcheck(loss, (example.logits.requires_grad_(),))
    assert gradgradcheck(loss, (example.logits.requires_grad_(),))


@pytest.mark.parametrize("make", [LPL, ClassMargin])
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(make, bounds, dtype, device):
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (40, 5), generator=generator) * 2 - 1
    logits = (100.0 * signs).to(device, dtype).requires_grad_()
    targets = (torch.arange(40) % 5).to(device)
    perturbation = make(ClassStats([50, 3, 20, 8, 1]), bounds).to(device)
    perturbed = perturbation(logits, targets)
    assert perturbed.dtype == torch.float32  # in half precision, a small shift would vanish
    assert perturbed.device.type == device.type
    F.cross_entropy(perturbed, targets).backward()
    assert perturbed.isfinite().all()
    assert logits.grad.isfinite().all()
    assert logits.grad.dtype == dtype


def test_it_works_under_autocast(case):
    example = case(5, 4, 8)
    lpl = LPL(ClassStats(example.counts))
    logits = example.logits.float()
    plain = lpl(logits, example.targets)
    rows = F.one_hot(example.targets, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lpl(logits, example.targets), plain)
        assert_close(lpl(logits, rows), plain)  # a matrix product, still in float32


def test_a_fitted_class_moves_by_its_own_logit_and_one_nearly_fitted_along_its_confusion():
    lpl = LPL(ClassStats([2, 2, 2]), BySize(1.0, 0.0, head_scale=1.0))
    for gap, total in ((100.0, -1.0), (30.0, 0.0)):
        logits = torch.tensor([[gap, 0.0, -1.0]])  # at 30, one minus its probability rounds to 0
        shift = lpl(logits, torch.tensor([0])) - logits
        assert_close(shift.norm().item(), 1.0, atol=1e-5, rtol=0)
        assert_close(shift.sum().item(), total, atol=1e-5, rtol=0)  # its confusion is lost at 100


@pytest.mark.parametrize("num_classes", [4, 300])  # a row for a class, or for a sample
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_holds_for_classes_fitted_confused_and_lost(num_classes, dtype):
    targets = torch.arange(5) % 3
    logits = torch.tensor([[90.0, 0, 0, 0], [0, 40, 39, 0], [200, 0, 0, 0]], dtype=dtype)[targets]
    logits = F.pad(logits, (0, num_classes - 4), value=-1e3)
    lpl = LPL(ClassStats(F.pad(torch.tensor([40, 20, 10, 5]), (0, num_classes - 4))))
    for rows in (targets, F.one_hot(targets, num_classes).to(dtype)):
        length = (lpl(logits, rows) - logits).norm(dim=1)
        assert_close(length, lpl.fixed[targets].abs().to(dtype), atol=1e-4, rtol=0)


def test_an_empty_batch_stays_empty():
    for make in (LPL, ClassMargin):
        for bounds in BOUNDS:
            perturbation = make(ClassStats([3, 4]), bounds)
            assert perturbation(torch.zeros(0, 2), torch.zeros(0).long()).shape == (0, 2)


def test_statistics_and_bounds_are_in_the_state(case):
    example = case(6, 5, 30)
    first = LPL(ClassStats(example.counts, momentum=0.9), ByConfidence())
    first(example.logits, example.targets)
    second = LPL(ClassStats(torch.ones(5), momentum=0.9), ByConfidence())
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.stats.confidence, first.stats.confidence)
    assert torch.equal(
        first.eval()(example.logits, example.targets),
        second.eval()(example.logits, example.targets),
    )
    fixed = LPL(ClassStats(torch.ones(5)))
    fixed.load_state_dict(LPL(ClassStats(example.counts)).state_dict())
    assert torch.equal(fixed.fixed, BySize()(example.counts.double(), example.counts.double()))


@pytest.mark.parametrize("make", [LPL, ClassMargin])
def test_pushing_large_classes_down_too_far_is_warned_of(make):
    with pytest.warns(WeftWarning, match="must stay above -4 .* got -4.8: accuracy on them"):
        make(ClassStats([100, 1]), BySize(delta_epsilon=8))
    make(ClassStats([100, 1]), BySize(delta_epsilon=6))  # -3.6: silent


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(3, 5)}, ValueError, "for each of the 4 classes .* got 5: count"),
        ({"logits": torch.zeros(3, 4).long()}, TypeError, "`logits` must be a floating-point"),
        ({"logits": torch.zeros(4)}, ValueError, r"`logits` must have 2 axes \(n, c\), got"),
        ({"targets": torch.tensor([0, 1, 4])}, ValueError, "between 0 and 3, got 0 to 4: number"),
        ({"targets": torch.tensor([0, -100, 1])}, ValueError, "between 0 and 3, got -100 to 1"),
        ({"targets": torch.tensor([0, 1])}, ValueError, "for each of the 3 rows .* got 2: pass"),
        ({"targets": torch.zeros(3)}, TypeError, r"class ids of shape \(n,\), .* got torch.float"),
        ({"targets": torch.zeros(3, 4).long()}, TypeError, r"got torch.int64 of shape \(3, 4\)"),
        ({"targets": torch.zeros(3).bool()}, TypeError, r"got torch.bool of shape \(3,\): call"),
        ({"targets": torch.zeros(3, 5)}, ValueError, r"shape of `logits`, \(3, 4\), got \(3, 5\)"),
        ({"targets": torch.full((3, 4), 2.0)}, ValueError, r"lie in \[0, 1\], got 2 to 2: they"),
        ({"targets": torch.full((3, 4), torch.nan)}, ValueError, r"lie in \[0, 1\], got nan"),
    ],
)
@pytest.mark.parametrize("make", [LPL, ClassMargin])
def test_refuses_a_batch_it_cannot_use(make, change, error, message):
    batch = {"logits": torch.zeros(3, 4), "targets": torch.tensor([0, 1, 3]), **change}
    with pytest.raises(error, match=message):
        make(ClassStats([4, 3, 2, 1]))(batch["logits"], batch["targets"])


@pytest.mark.parametrize("steps", [0, -1])
def test_refuses_less_than_one_step(steps):
    with pytest.raises(ValueError, match=f"`steps` must be at least 1, got {steps}: epsilon 0"):
        LPL(ClassStats([1, 2]), steps=steps)


def test_the_printout_shows_the_settings():
    assert "bounds=BySize(epsilon=0.0" in repr(LPL(ClassStats([1, 2])))
    assert "steps=1, normalize=True" in repr(LPL(ClassStats([1, 2])))

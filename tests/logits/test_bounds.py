import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft._check import WeftWarning
from weft.logits import ByConfidence, BySize

NONE = torch.full((10,), torch.nan)
LONG_TAIL = torch.tensor([90.0, 58, 38, 24, 16, 10, 7, 4, 3, 2])
COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)


def by_size(counts, **options):
    return BySize(**options)(torch.as_tensor(counts).double(), NONE)


def test_the_long_tail_bounds_are_those_of_the_equations():
    found = by_size(LONG_TAIL, epsilon=0.5, delta_epsilon=8, head_scale=0.6)
    head = -0.6 * (0.5 + 8 * LONG_TAIL[:4] / 90)
    tail = 0.5 + 8 * 2 / LONG_TAIL[4:]
    assert_close(found, torch.cat([head, tail]).double())


@given(counts=COUNTS, seed=st.integers(0, 1000))
def test_size_decides_and_not_the_place(counts, seed):
    counts = torch.tensor(counts)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(by_size(counts[order]), by_size(counts)[order])


@given(counts=COUNTS)
def test_smaller_classes_are_pushed_up_at_least_as_much(counts):
    bounds = by_size(counts, epsilon=0.1)
    some = [(n, bounds[c].item()) for c, n in enumerate(counts) if n]
    head = [(n, bound) for n, bound in some if bound < 0]
    tail = [(n, bound) for n, bound in some if bound > 0]
    assert len(head) + len(tail) == len(some)
    assert max((n for n, _ in tail), default=0) < min((n for n, _ in head), default=31)
    for part in (head, tail):  # away from the split in both: never largest next to it
        for n, bound in part:
            assert all(bound <= other for m, other in part if m < n and part is tail)
            assert all(bound <= other for m, other in part if m < n and part is head)
    assert all(len({bound for m, bound in some if m == n}) == 1 for n, _ in some)


@given(counts=COUNTS, at=st.integers(0, 12))
def test_classes_without_samples_have_no_rank(counts, at):
    padded = [*counts[:at], 0, 0, *counts[at:]]
    bounds = by_size(padded)
    assert bounds[padded.index(0)] == 0
    kept = torch.tensor([i for i in range(len(padded)) if i not in (at, at + 1)])
    if at <= len(counts):
        assert torch.equal(bounds[kept], by_size(counts))


def test_classes_of_equal_size_are_pushed_alike():
    assert by_size([5, 5, 5, 5, 5]).unique().tolist() == [1.0]  # no head where there is no tail
    assert (by_size([9, 5, 5, 1, 1], delta_epsilon=1) < 0).tolist() == [True] + 4 * [False]
    assert (by_size([9, 9, 9, 1, 1], head_share=0.4) < 0).tolist() == 3 * [True] + 2 * [False]


def test_confidence_below_the_mean_of_present_classes_pushes_up():
    confidence = torch.tensor([0.9, torch.nan, 0.5, 0.1, torch.nan]).double()
    found = ByConfidence(1.0, 2.0)(torch.ones(5), confidence)
    assert_close(found, torch.tensor([-1.8, 0.0, 0.0, 1.8, 0.0]).double())


def test_absent_classes_do_not_lower_the_threshold():
    # Of 100 classes 72 are in the batch, at 0.9 +- 0.05. Counted as zero, the others would put
    # the threshold at 0.65 and push no class up.
    generator = torch.Generator().manual_seed(0)
    confidence = 0.9 + 0.1 * (torch.rand(100, generator=generator) - 0.5)
    confidence[72:] = torch.nan
    bounds = ByConfidence()(torch.ones(100), confidence)
    assert 0.45 < (bounds > 0).sum() / 72 < 0.55
    assert (bounds[72:] == 0).all()
    fixed = ByConfidence(threshold=confidence.nan_to_num(0).mean().item())
    assert not (fixed(torch.ones(100), confidence) > 0).any()


def test_without_any_confidence_there_is_nothing_to_push():
    assert (ByConfidence()(torch.ones(10), NONE) == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BySize(epsilon=-1), "`epsilon` must be finite and not negative, got -1: the sign"),
        (lambda: BySize(delta_epsilon=-1), "`delta_epsilon` must be finite and not negative"),
        (lambda: BySize(head_scale=torch.inf), "`head_scale` must be finite .* got inf"),
        (lambda: BySize(epsilon=torch.nan), "`epsilon` must be finite .* got nan"),
        (lambda: BySize(head_share=1.5), r"share of classes in \[0, 1\], got 1.5"),
        (lambda: ByConfidence(epsilon=-1), "`epsilon` must be finite and not negative, got -1"),
        (lambda: ByConfidence(1.0, -1.0), "`delta_epsilon` must be finite and not negative"),
        (lambda: ByConfidence(threshold=2.0), r"confidence in \[0, 1\], got 2.0: None takes"),
    ],
)
def test_refuses_settings_without_meaning(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_large_bound_on_confident_classes_is_warned_of():
    with pytest.warns(WeftWarning, match="must stay above -4 .* got -5: accuracy on them"):
        ByConfidence(epsilon=5)

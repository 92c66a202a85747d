import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.lab.measures import (
    SizeGroups,
    calibration_error,
    classification_measures,
    label_measures,
)

HALVES = SizeGroups(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))


def one_hot(predicted, num_classes=3):
    return torch.nn.functional.one_hot(torch.tensor(predicted), num_classes).double()


def test_each_class_counts_the_same_in_balanced_accuracy():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    found = classification_measures(one_hot([0, 0, 0, 0, 1, 0, 0]), labels, HALVES)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["balanced"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert (found["head"], found["mid"], found["tail"]) == (1, 0.5, 0)
    # F1 of a class: 2 · hits / (predicted + there), here 8/10, 2/3 and 0.
    assert found["macro_f1"] == pytest.approx((8 / 10 + 2 / 3 + 0) / 3)
    assert found["ece"] == pytest.approx(2 / 7)


def test_a_class_without_test_samples_counts_in_no_mean():
    found = classification_measures(one_hot([0, 1, 2]), torch.tensor([0, 1, 1]), HALVES)
    assert found["balanced"] == pytest.approx((1 + 0.5) / 2)
    assert math.isnan(found["tail"])


def test_average_precision_and_f1_are_those_computed_by_hand():
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    scores = torch.tensor([[4.0, -3, -1], [3, -2, -1], [2, -1, -1], [-1, -4, -1]])
    found = label_measures(scores, targets, HALVES)
    # Label 0: positives at ranks 1 and 3. Label 1: its one positive at rank 2. Label 2 has none.
    assert found["head"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["mid"] == pytest.approx(1 / 2)
    assert math.isnan(found["tail"])
    assert found["map"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    # Above 0: label 0 in three rows, two of them right; label 1 in none.
    assert found["macro_f1"] == pytest.approx((4 / 5 + 0) / 2)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))


@given(st.integers(0, 1000))
def test_average_precision_does_not_change_when_a_label_s_scores_are_shifted(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    targets = torch.rand(30, 4, generator=generator) < 0.3
    groups = SizeGroups.by_rank(targets.sum(0))
    shifted = scores + torch.randn(4, generator=generator)
    one, other = (label_measures(each, targets, groups) for each in (scores, shifted))
    assert one["map"] == pytest.approx(other["map"], abs=1e-12)


def test_confidence_as_large_as_accuracy_is_calibrated():
    probabilities = torch.tensor([[0.75, 0.25]]).repeat(4, 1)
    assert calibration_error(probabilities, torch.tensor([0, 0, 0, 1])) == pytest.approx(0)
    assert calibration_error(probabilities, torch.tensor([1, 1, 1, 1])) == pytest.approx(0.75)


def test_groups_by_count_end_at_a_hundred_and_at_twenty():
    groups = SizeGroups.by_count(torch.tensor([19, 100, 20, 99, 500, 3]))
    assert [group.tolist() for group in groups] == [[1, 4], [2, 3], [0, 5]]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_groups_by_rank_share_out_the_classes_from_the_largest_down(counts):
    counts = torch.tensor(counts)
    head, mid, tail = SizeGroups.by_rank(counts)
    order = torch.cat([head, mid, tail])
    assert order.sort().values.equal(torch.arange(len(counts)))
    assert counts[order].equal(counts.sort(descending=True).values)
    assert len(head) == len(tail) == round(0.3 * len(counts))

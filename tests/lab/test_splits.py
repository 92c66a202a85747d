import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.lab.data import split_labels

labels_of_classes = st.lists(st.integers(1, 12), min_size=1, max_size=6).map(
    lambda counts: torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
)


@given(labels=labels_of_classes, seed=st.integers(0, 2**63 - 1), draw=st.data())
def test_a_split_is_a_partition_balanced_over_the_classes(labels, seed, draw):
    num_classes = int(labels.max()) + 1
    budget = draw.draw(st.integers(num_classes, len(labels)), label="budget")
    num_valid = draw.draw(st.integers(0, budget - num_classes), label="num_valid")
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    split = split_labels(labels, budget, num_valid / budget, seed)

    assert torch.cat(split).sort().values.equal(torch.arange(len(labels)))
    assert len(split.labelled) == budget - num_valid
    assert len(split.valid) == num_valid

    trained = labels[split.labelled].bincount(minlength=num_classes)
    seen = trained + labels[split.valid].bincount(minlength=num_classes)
    assert trained.min() >= 1
    # Equal shares, except for classes that have given all they have.
    giving = seen < labels.bincount()
    assert seen.max() - (seen[giving].min() if giving.any() else seen.max()) <= 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_takes_an_equal_share_of_each_class_out_of_the_budget(seed):
    labels = torch.arange(10).repeat(50)
    split = split_labels(labels, 100, 0.2, seed)
    assert labels[split.labelled].bincount().tolist() == [8] * 10
    assert labels[split.valid].bincount().tolist() == [2] * 10


def test_validation_on_all_labels_keeps_the_proportions_of_the_classes():
    labels = torch.tensor([0] * 900 + [1] * 100)
    split = split_labels(labels, None, 0.1, seed=0)
    assert labels[split.valid].bincount().tolist() == [90, 10]
    assert len(split.unlabelled) == 0


def test_a_split_depends_on_its_seed_and_on_no_other_randomness():
    labels = torch.arange(10).repeat(50)
    state = torch.get_rng_state()
    one = split_labels(labels, 100, 0.2, seed=3)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(99)
    same, other = split_labels(labels, 100, 0.2, seed=3), split_labels(labels, 100, 0.2, seed=4)
    assert all(map(torch.equal, one, same))
    assert not one.labelled.equal(other.labelled)


def test_a_smaller_budget_is_part_of_a_larger_one():
    labels = torch.arange(10).repeat(50)
    small, large = (set(split_labels(labels, n, 0, seed=0).labelled.tolist()) for n in (50, 100))
    assert small < large


@pytest.mark.parametrize(
    ("budget", "valid_fraction", "message"),
    [
        (9, 0.0, "`num_labelled` must be from 10, one label per class, to 500"),
        (501, 0.0, "the size of the training part, got 501"),
        (100, 1.0, r"`valid_fraction` must lie in \[0, 1\), got 1.0"),
        (100, -0.1, r"`valid_fraction` must lie in \[0, 1\), got -0.1"),
        (100, float("nan"), r"`valid_fraction` must lie in \[0, 1\), got nan"),
        (12, 0.5, "must leave 10 training labels, one per class, got 12 of which 6 validate"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused(budget, valid_fraction, message):
    with pytest.raises(ValueError, match=message):
        split_labels(torch.arange(10).repeat(50), budget, valid_fraction, seed=0)

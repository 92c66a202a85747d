import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.lab.data import load_data
from weft.lab.long_tail import long_tail, long_tailed
from weft.lab.recipe import Recipe


@given(
    num_classes=st.integers(2, 12),
    size=st.integers(50, 120),
    imbalance=st.floats(1, 50),
    seed=st.integers(0, 2**63 - 1),
)
def test_class_sizes_fall_geometrically_from_the_largest(num_classes, size, imbalance, seed):
    labels = torch.arange(num_classes).repeat(size)
    rows = long_tail(labels, imbalance, seed)
    assert rows.equal(rows.unique())
    sizes = labels[rows].bincount(minlength=num_classes).sort(descending=True).values
    profile = [size * imbalance ** (-r / (num_classes - 1)) for r in range(num_classes)]
    torch.testing.assert_close(sizes.double(), torch.tensor(profile).double(), rtol=0, atol=0.501)


def test_ten_classes_of_ninety_at_fifty_are_the_sizes_computed_by_hand():
    labels = torch.arange(10).repeat(100)
    sizes = labels[long_tail(labels, 50, seed=0, largest=90)].bincount()
    assert sorted(sizes.tolist(), reverse=True) == [90, 58, 38, 24, 16, 10, 7, 4, 3, 2]


def test_without_imbalance_every_sample_stays():
    labels = torch.arange(5).repeat(4)
    assert long_tail(labels, 1, seed=0).equal(torch.arange(20))


def test_the_number_of_a_class_says_nothing_about_its_rank():
    labels = torch.arange(10).repeat(100)
    sizes = torch.stack([labels[long_tail(labels, 100, seed)].bincount() for seed in range(200)])
    ranks = sizes.argsort(1, descending=True).argsort(1).double()
    # A uniform rank in 0 … 9 has mean 4.5 and deviation 2.87: 0.2 over 200 seeds, so 4 of them.
    torch.testing.assert_close(ranks.mean(0), torch.full((10,), 4.5).double(), rtol=0, atol=0.82)


def test_the_samples_depend_on_the_seed_and_on_no_other_randomness():
    labels = torch.arange(10).repeat(100)
    state = torch.get_rng_state()
    one = long_tail(labels, 10, seed=3)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(99)
    assert one.equal(long_tail(labels, 10, seed=3))
    assert not one.equal(long_tail(labels, 10, seed=4))


def test_the_largest_class_is_as_large_as_the_others_can_follow():
    labels = torch.arange(2).repeat_interleave(torch.tensor([100, 30]))
    sizes = {tuple(labels[long_tail(labels, 2, seed)].bincount().tolist()) for seed in range(20)}
    assert sizes == {(60, 30), (15, 30)}


@pytest.mark.parametrize(
    ("labels", "imbalance", "largest", "message"),
    [
        ([0, 1], 0.5, None, "`imbalance` must be a finite ratio of 1 or more, got 0.5"),
        ([0, 1], float("nan"), None, "`imbalance` must be a finite ratio of 1 or more, got nan"),
        ([0, 0], 2, None, r"two or more and none of them empty, got class sizes \[2\]"),
        ([0, 2], 2, None, r"none of them empty, got class sizes \[1, 0, 1\]"),
        ([0, 0, 1, 1], 5, None, "must keep at least one sample"),
        ([0, 0, 1, 1], 1, 3, r"got \[3, 3\] wanted of \[2, 2\]: change `imbalance` or `largest`"),
    ],
)
def test_what_cannot_be_thinned_out_is_refused(labels, imbalance, largest, message):
    with pytest.raises(ValueError, match=message):
        long_tail(torch.tensor(labels), imbalance, seed=0, largest=largest)


def test_long_tailed_data_keep_their_test_part():
    whole = load_data("digits")
    thin = long_tailed(whole, 10, seed=0)
    assert thin.test_inputs is whole.test_inputs
    sizes = thin.train_labels.bincount()
    assert sizes.max() // 10 == sizes.min()
    places = {tuple(row): label.item() for row, label in pairs(whole)}
    assert all(places[tuple(row)] == label for row, label in pairs(thin))


def pairs(data):
    return zip(data.train_inputs.flatten(1).tolist(), data.train_labels, strict=True)


def test_a_recipe_asks_for_a_long_tail_by_one_field():
    data, split = Recipe(imbalance=20, valid_fraction=0.2, seed=5).load_data()
    expected = long_tailed(load_data("digits"), 20, seed=5)
    assert data.train_labels.equal(expected.train_labels)
    assert len(split.labelled) + len(split.valid) == len(expected.train_labels)
    assert Recipe().load_data()[0].train_labels.equal(load_data("digits").train_labels)

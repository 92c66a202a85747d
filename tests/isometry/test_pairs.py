"""Pairs are those of the definition, samples are fair and small, and a seed repeats them."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from weft.isometry import AllPairs, WithinClass, isometry_loss

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def choose(rule, labels, generator=None):
    labels = torch.as_tensor(labels)
    return rule(len(labels), labels, generator, labels.device)


def as_set(rows):
    return {frozenset(pair) for pair in rows.T.tolist()}


@given(labels=st.lists(st.integers(-1, 3), max_size=20))
def test_every_pair_within_a_class_comes_once_and_no_other(labels):
    rows, population = choose(WithinClass(), torch.tensor(labels, dtype=torch.long))
    wanted = {
        frozenset(pair)
        for pair in itertools.combinations(range(len(labels)), 2)
        if labels[pair[0]] == labels[pair[1]] >= 0
    }
    assert as_set(rows) == wanted
    assert rows.shape == (2, len(wanted))
    assert population == len(wanted)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [1, 0, 1, 0, -1, 1], [0, 1, 2]])
def test_a_sample_as_large_as_what_it_is_drawn_from_is_every_pair_once(labels):
    sample, every = choose(WithinClass(3), labels), choose(WithinClass(), labels)
    assert torch.equal(sample.rows, every.rows)
    assert sample.population == every.population


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_all_pairs_are_every_combination_and_need_no_labels(n):
    rows, population = AllPairs()(n, None, None, CPU)
    assert as_set(rows) == {frozenset(pair) for pair in itertools.combinations(range(n), 2)}
    assert population == rows.shape[1] == n * (n - 1) // 2


@given(seed=st.integers(0, 2**31), labels=st.lists(st.integers(-1, 2), min_size=30, max_size=60))
def test_a_sample_holds_pairs_of_one_class_k_per_labelled_row(seed, labels):
    every = choose(WithinClass(), labels)
    sample = choose(WithinClass(per_sample=2), labels, seeded(seed))
    assert as_set(sample.rows) <= as_set(every.rows)
    assert sample.population == every.population
    labelled = sum(label >= 0 for label in labels)
    assert sample.rows.shape[1] == min(2 * labelled, every.population)


def test_every_pair_is_drawn_equally_often_also_from_unequal_classes():
    labels = torch.tensor([0] * 7 + [1] * 4 + [2] * 3 + [3] + [-1] * 2)
    rule, generator = WithinClass(per_sample=1), seeded()  # 15 of the 30 pairs
    draws = torch.cat([choose(rule, labels, generator).rows for _ in range(2000)], 1)
    seen = draws.T.unique(dim=0, return_counts=True)[1].double()
    assert len(seen) == 30
    assert seen.sum() == 30_000
    # 30 counts with expectation 1000; the chi-squared has 29 degrees of freedom.
    assert ((seen - 1000).square() / 1000).sum() < 58  # its 99.9 % quantile


@pytest.mark.parametrize("rule", [WithinClass(per_sample=1), AllPairs(per_sample=1)], ids=repr)
def test_a_seed_repeats_the_sample_and_another_does_not(rule):
    labels = torch.zeros(20, dtype=torch.long)
    first, again = (choose(rule, labels, seeded(3)).rows for _ in range(2))
    other = choose(rule, labels, seeded(4)).rows
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pairs_live_where_the_labels_do(device):
    labels = torch.zeros(9, dtype=torch.long, device=device)
    for rule in (WithinClass(), WithinClass(per_sample=1), AllPairs(per_sample=1)):
        assert choose(rule, labels, seeded()).rows.device.type == device.type


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, list | tuple) else [out]:
            if isinstance(part, torch.Tensor):
                self.numel = max(self.numel, part.numel())
        return out


@pytest.mark.parametrize("rule", [WithinClass(per_sample=2), AllPairs(per_sample=2)], ids=repr)
@pytest.mark.parametrize("n", [1000, 4000])
def test_a_sampled_loss_and_its_gradient_make_nothing_larger_than_their_pairs(rule, n):
    inputs, width = torch.randn(n, 5, generator=seeded()), 3
    features = torch.randn(n, width, generator=seeded(1)).requires_grad_()
    labels = torch.randint(2, (n,), generator=seeded(2))
    with Largest() as largest:
        loss = isometry_loss(inputs, features, labels, pairs=rule, generator=seeded())
        loss.backward()
    assert largest.numel <= 2 * n * 5  # two pairs per row, five numbers each; n * n is far more


def test_the_record_of_the_largest_tensor_sees_every_pair():
    with Largest() as largest:
        isometry_loss(torch.randn(100, 2), torch.randn(100, 2), pairs=AllPairs())
    assert largest.numel >= 100 * 99 // 2


def test_a_sample_without_a_generator_is_refused():
    with pytest.raises(ValueError, match="`generator` is needed to draw 1 pairs per row, got None"):
        choose(WithinClass(per_sample=1), [0, 0, 0, 0])


def test_pairs_within_a_class_without_labels_are_refused():
    with pytest.raises(ValueError, match="`labels` are needed for pairs within a class, got None"):
        WithinClass()(4, None, None, CPU)


@pytest.mark.parametrize("rule", [WithinClass, AllPairs])
def test_less_than_one_pair_per_row_is_refused(rule):
    with pytest.raises(ValueError, match="`per_sample` must be at least 1, or None"):
        rule(per_sample=0)

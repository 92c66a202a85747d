import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.heads import choose_anchors

LABELS = torch.tensor([2, 0, 1, 0, -1, 2, 2, 0, 0, -1, 1])
label_lists = st.lists(st.integers(-1, 4), max_size=40).map(lambda it: torch.tensor(it).long())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(labels=label_lists, per_class=st.integers(1, 6), by_difficulty=st.booleans())
def test_each_class_gives_per_class_samples_or_all_it_has(labels, per_class, by_difficulty):
    difficulty = torch.rand(len(labels), generator=seeded()) if by_difficulty else None
    chosen = choose_anchors(labels, per_class, difficulty=difficulty, generator=seeded())
    assert len(chosen.unique()) == len(chosen)
    expected = [min(per_class, int((labels == label).sum())) for label in range(5)]
    assert torch.bincount(labels[chosen], minlength=5).tolist() == expected
    assert (labels[chosen].diff() >= 0).all()  # ordered by class, so none is negative


@given(labels=label_lists, per_class=st.integers(1, 6), seed=st.integers(0, 100))
def test_the_hardest_of_each_class_are_taken(labels, per_class, seed):
    difficulty = torch.randn(len(labels), generator=seeded(seed))
    chosen = choose_anchors(labels, per_class, difficulty=difficulty, generator=seeded(seed))
    for label in range(5):
        members = (labels == label).nonzero().squeeze(1)
        hardest = members[difficulty[members].argsort(descending=True)][:per_class]
        assert chosen[labels[chosen] == label].tolist() == hardest.tolist()


def test_the_same_generator_chooses_the_same():
    labels = torch.arange(200) % 10
    first, again, other = (choose_anchors(labels, 5, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_equal_difficulty_is_drawn_by_the_generator():
    labels, equal = torch.zeros(100, dtype=torch.long), torch.zeros(100)
    chosen = [choose_anchors(labels, 5, difficulty=equal, generator=seeded(s)) for s in (1, 2)]
    assert not torch.equal(*chosen)


def test_every_sample_of_a_class_is_about_equally_likely():
    generator, counts = seeded(), torch.zeros(len(LABELS))
    for _ in range(1000):
        counts[choose_anchors(LABELS, 1, generator=generator)] += 1
    # Four zeros at 250 and a standard deviation of 14, two ones at 500, three twos at 333.
    assert ((counts[LABELS == 0] - 250).abs() < 60).all()
    assert ((counts[LABELS == 2] - 333).abs() < 60).all()
    assert (counts[LABELS < 0] == 0).all()


def test_without_labels_nothing_is_chosen():
    assert choose_anchors(torch.tensor([-1, -1]), 2).tolist() == []
    assert choose_anchors(torch.tensor([], dtype=torch.long), 2).tolist() == []


def test_rejects_no_sample_per_class():
    with pytest.raises(ValueError, match="`per_class` must be at least 1, got 0"):
        choose_anchors(LABELS, 0)


def test_rejects_difficulty_of_another_shape():
    with pytest.raises(ValueError, match=r"`difficulty` must have one entry per label, shape \(11"):
        choose_anchors(LABELS, 1, difficulty=torch.zeros(10))


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.float()])
def test_rejects_labels_that_are_not_class_numbers(labels):
    with pytest.raises(ValueError, match=r"`labels` must be class numbers of shape \(n,\), got"):
        choose_anchors(labels, 1)

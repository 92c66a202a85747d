import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from weft.logits import ISDA, LPL, ByConfidence, BySize, ClassStats, MultiLabelLPL, Polarity

SEEDS = st.integers(0, 2**31)


@given(seed=SEEDS)
def test_counts_are_those_of_the_targets_in_any_order(case, seed):
    example = case(seed)
    num_classes = len(example.counts)
    stats = ClassStats.from_targets(example.targets, num_classes)
    expected = [(example.targets == c).sum().item() for c in range(num_classes)]
    assert stats.counts.tolist() == expected
    assert_close(stats.priors, torch.tensor(expected).double() / len(example.targets))
    assert torch.equal(stats.present, torch.tensor(expected) > 0)
    assert stats.num_classes == num_classes


def test_rows_are_counted_by_their_shares():
    mixed = ClassStats.from_targets(torch.tensor([[0.3, 0.7], [1.0, 0.0]]))
    assert_close(mixed.counts, torch.tensor([1.3, 0.7]).double())
    assert_close(mixed.priors.sum().item(), 1.0)
    labels = ClassStats.from_targets(torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    assert_close(labels.priors, torch.tensor([0.5, 1.0, 0.0]).double())


def test_priors_come_back_as_they_were_given():
    stats = ClassStats.from_priors([0.2, 0.3, 0.5], 1000)
    assert_close(stats.priors, torch.tensor([0.2, 0.3, 0.5]).double())
    assert_close(stats.counts, torch.tensor([200.0, 300.0, 500.0]).double())


@given(seed=SEEDS)
def test_confidence_is_the_mean_probability_of_a_class_over_its_samples(case, seed):
    example = case(seed)
    probabilities = example.logits.softmax(1)
    found = ClassStats(example.counts).observe(probabilities, example.targets)
    for c, confidence in enumerate(found):
        own = probabilities[example.targets == c, c]
        assert_close(confidence, own.mean(), equal_nan=True)  # NaN where there is no sample


def test_samples_count_in_a_mean_confidence_by_their_shares():
    probabilities = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    found = ClassStats([1, 1]).observe(probabilities, targets)
    assert_close(found, torch.tensor([(0.2 + 0.5 * 0.6) / 1.5, 0.4]))


def test_a_moving_average_starts_at_the_first_mean_and_remembers_absent_classes():
    stats = ClassStats([5, 5, 5], momentum=0.9)
    sure, unsure = torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([[0.5, 0.5, 0.0]])
    first = stats.observe(sure, torch.tensor([0]))
    assert_close(first, torch.tensor([0.9, torch.nan, torch.nan]), equal_nan=True)
    second = stats.observe(unsure, torch.tensor([1]))
    assert_close(second, torch.tensor([0.9, 0.5, torch.nan]), equal_nan=True)
    third = stats.observe(unsure, torch.tensor([0]))
    assert_close(third, torch.tensor([0.9 * 0.9 + 0.1 * 0.5, 0.5, torch.nan]), equal_nan=True)
    stats.eval()
    stats.observe(sure, torch.tensor([1]))
    assert_close(stats.confidence.float(), third, equal_nan=True)  # judged, not learned from
    other = ClassStats([1, 1, 1], momentum=0.9)
    other.load_state_dict(stats.state_dict())
    assert_close(other.confidence, stats.confidence, equal_nan=True)
    assert_close(other.counts, stats.counts)


def test_without_momentum_nothing_is_remembered():
    stats = ClassStats([5, 5])
    stats.observe(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    assert stats.confidence.isnan().all()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _by_class(kind, steps, example, rows):
    stats = ClassStats(example.counts, momentum=0.5)
    bounds = ByConfidence(1.0, 1.0) if "confidence" in kind else BySize(delta_epsilon=4)
    targets = example.targets[rows]
    if "soft" in kind:
        targets = F.one_hot(targets, len(example.counts)).double()
    return LPL(stats, bounds, steps=steps)(example.logits[rows], targets)


def _by_label(kind, steps, example, rows):
    stats = ClassStats(example.counts, num_samples=2 * example.counts.max().item())
    bounds = ByConfidence(1.0, 1.0) if "confidence" in kind else BySize(delta_epsilon=4)
    lpl = MultiLabelLPL(stats, bounds, polarity=Polarity.MARGIN, steps=steps, normalize=False)
    labels = (example.logits.flip(1) > 0).double()
    return lpl(example.logits[rows], labels[rows])


def _by_spread(kind, steps, example, rows):
    layer = nn.Linear(3, len(example.counts)).double()
    layer.weight.data.copy_(example.logits[: len(example.counts), :3])
    isda = ISDA(layer)
    for _ in range(steps):
        isda.observe(example.logits[rows, :3], example.targets[rows])
    return isda(example.logits[rows], example.targets[rows]).detach()


KINDS = [(_by_class, kind) for kind in ("size", "size, soft", "confidence", "confidence, soft")]
KINDS += [(_by_label, "size"), (_by_label, "confidence"), (_by_spread, "")]


def _half_of_the_batch(rank, port, example, expected):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mine = slice(0, 5) if rank == 0 else slice(5, None)  # parts of different sizes
    for (perturb, kind, steps), perturbed in expected.items():
        assert_close(perturb(kind, steps, example, mine), perturbed[mine])
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_with_half_of_the_batch_each_find_the_shifts_of_the_whole(case):
    example = case(1, 6, 14)
    expected = {
        (perturb, kind, steps): perturb(kind, steps, example, slice(None))
        for perturb, kind in KINDS
        for steps in (1, 3)
    }
    mp.spawn(_half_of_the_batch, (_free_port(), example, expected), nprocs=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassStats([3, -1]), r"one number per class, .* got \[3.0, -1.0\]: count"),
        (lambda: ClassStats([0, 0]), "not all zero, got"),
        (lambda: ClassStats([1, torch.inf]), "finite, not negative"),
        (lambda: ClassStats([1, torch.nan]), "finite, not negative"),
        (lambda: ClassStats([[1, 2]]), "`counts` must be one number per class"),
        (lambda: ClassStats([9, 2], num_samples=8), "largest count, 9, got 8: a sample has"),
        (lambda: ClassStats([1], momentum=1.0), r"`momentum` must lie in \[0, 1\), got 1.0"),
        (lambda: ClassStats([1], momentum=-0.1), r"`momentum` must lie in \[0, 1\), got -0.1"),
        (lambda: ClassStats.from_priors([0.5, 0.6], 10), "must sum to one, got 1.1: divide"),
        (
            lambda: ClassStats.from_targets(torch.tensor([0, 7]), 5),
            "between 0 and 4, got 0 to 7: number the classes from 0",
        ),
    ],
)
def test_refuses_counts_it_cannot_use(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_ids_without_a_number_of_classes():
    with pytest.raises(TypeError, match="`num_classes` must be given with class ids: the last"):
        ClassStats.from_targets(torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"must be class ids of shape \(n,\), .* torch.float32"):
        ClassStats.from_targets(torch.zeros(3), 2)


def test_the_printout_shows_the_sizes():
    assert repr(ClassStats([3, 4])) == "ClassStats(num_classes=2, num_samples=7)"

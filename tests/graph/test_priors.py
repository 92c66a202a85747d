"""Volumes come out as asked, PoissonMBO keeps them, and both say what they cannot do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot
from torch.testing import assert_close

from weft.graph import Laplace, Poisson, PoissonMBO, VolumeConstraint, knn_graph

KNOWN = torch.zeros(200, dtype=torch.bool)


def random_scores(seed, num_nodes=200, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_nodes, classes, generator=generator, dtype=torch.float64)


def groups(seed, per_class=(100, 60, 40), noise=0.45):
    """Groups of unlike size, and three labels in each."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.repeat_interleave(torch.arange(3), torch.tensor(per_class))
    points = torch.eye(3, 5)[classes] + noise * torch.randn(len(classes), 5, generator=generator)
    first = torch.cat([torch.arange(3), 100 + torch.arange(3), 160 + torch.arange(3)])
    return points, classes, torch.isin(torch.arange(len(classes)), first)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), share=st.floats(0.1, 0.8))
def test_classes_get_the_shares_that_are_asked_for(seed, share):
    priors = (share, (1 - share) / 3, 2 * (1 - share) / 3)
    scores = random_scores(seed)
    weighted = VolumeConstraint(priors, tolerance=0.011)(scores, scores, KNOWN, 1)
    shares = torch.bincount(weighted.argmax(1), minlength=3) / 200
    assert_close(shares, torch.tensor(priors, dtype=shares.dtype), rtol=0, atol=0.012)


def test_only_the_ratios_of_priors_count_and_scores_may_be_negative():
    scores = random_scores(1) - 5
    one, many = (
        VolumeConstraint(priors)(scores, scores, KNOWN, 1) for priors in ((1, 1, 2), (25, 25, 50))
    )
    assert torch.equal(one, many)
    assert one.min() >= 0


def test_scores_with_the_right_shares_keep_their_order():
    scores = one_hot(torch.arange(200) % 2, 2).double() + 0.1
    weighted = VolumeConstraint((1.0, 1.0))(scores, scores, KNOWN, 1)
    assert torch.equal(weighted.argmax(1), scores.argmax(1))


def test_each_of_several_graphs_is_constrained_on_its_own():
    scores = random_scores(2)
    together = VolumeConstraint((1.0, 2.0, 1.0))(scores, scores, KNOWN, 2)
    apart = [
        VolumeConstraint((1.0, 2.0, 1.0))(half, half, KNOWN[:100], 1) for half in scores.split(100)
    ]
    assert_close(together, torch.cat(apart))


def test_equal_scores_end_without_the_shares_and_stay_finite():
    scores = torch.ones(200, 3, dtype=torch.float64)
    assert not VolumeConstraint((1.0, 1.0, 1.0))(scores, scores, KNOWN, 1).any()


def test_gradients_pass_through_the_scores_with_the_weights_fixed():
    scores = random_scores(3).requires_grad_()
    weighted = VolumeConstraint((1.0, 1.0, 2.0))(scores, scores, KNOWN, 1)
    weighted.square().sum().backward()
    assert scores.grad.isfinite().all()
    assert scores.grad.any()


def test_known_volumes_help_where_classes_are_of_unlike_size():
    right = []
    for seed in range(3):
        points, classes, known = groups(seed, noise=0.4)
        labels, graph = one_hot(classes, 3).double(), knn_graph(points.double(), 10)
        volumes = VolumeConstraint((100.0, 60.0, 40.0))
        raw = Poisson()(graph, labels, known)
        weighed = volumes(raw, labels, known, 1)
        sharpened = PoissonMBO(volumes)(graph, labels, known)
        right.append([(s.argmax(1) == classes).double().mean() for s in (raw, weighed, sharpened)])
    plain, weighed, sharpened = torch.tensor(right).mean(0)
    assert weighed > plain
    assert sharpened > plain


def test_poisson_mbo_returns_labels_in_the_shares_and_keeps_those_that_are_known():
    points, classes, known = groups(4)
    labels = one_hot(classes, 3).double()
    scores = PoissonMBO(VolumeConstraint((1.0, 1.0, 1.0), tolerance=0.01))(
        knn_graph(points.double(), 10), labels, known
    )
    assert ((scores == 0) | (scores == 1)).all()
    assert torch.equal(scores[known], labels[known])
    assert_close(scores.mean(0), torch.full((3,), 1 / 3).double(), rtol=0, atol=0.05)


def test_laplace_learning_with_volumes_no_longer_collapses():
    generator = torch.Generator().manual_seed(5)
    classes = torch.arange(900) % 3
    points = 3 * torch.eye(3, 8)[classes] + torch.randn(900, 8, generator=generator)
    labels, known = one_hot(classes, 3).float(), torch.arange(900) < 3
    raw = Laplace()(knn_graph(points, 10), labels, known)
    weighed = VolumeConstraint((1.0, 1.0, 1.0))(raw, labels, known, 1)
    before, after = ((s.argmax(1) == classes).float().mean() for s in (raw, weighed))
    assert after > before + 0.1


def test_refuses_priors_and_settings_without_meaning():
    with pytest.raises(ValueError, match=r"`priors` must be positive, got \(1.0, 0.0\)"):
        VolumeConstraint((1.0, 0.0))
    with pytest.raises(ValueError, match="`rate`, `tolerance` and `max_steps` must be positive"):
        VolumeConstraint((1.0,), rate=0.0)
    with pytest.raises(ValueError, match="`priors` must have 3 entries, one per class, got 2"):
        VolumeConstraint((1.0, 1.0))(random_scores(0), random_scores(0), KNOWN, 1)
    with pytest.raises(ValueError, match="`rounds`, `steps` and `source` must be positive"):
        PoissonMBO(VolumeConstraint((1.0,)), rounds=0)

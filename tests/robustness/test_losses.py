"""Losses are their definitions, differentiable, and blind to what does not matter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.robustness import FeatureDistance, cross_entropy, dlr, margin

seeds = st.integers(0, 2**31)
LABELS = torch.tensor([0, 3, 2, 2])


def logits_of(seed, rows=4, classes=5):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)).double()


def references(seed=4):
    labels = torch.tensor([0, 0, 2, 2, 3, -1])
    return FeatureDistance(logits_of(seed, 6), labels, temperature=0.5)


@given(seeds)
def test_losses_are_their_definitions_row_by_row(seed):
    logits = logits_of(seed)
    for row, label in enumerate(LABELS.tolist()):
        z = logits[row].tolist()
        wrong = max(z[:label] + z[label + 1 :])
        first, _, third = sorted(z, reverse=True)[:3]
        entropy = torch.tensor(z).double().exp().sum().log() - z[label]
        assert_close(margin(logits, LABELS)[row].item(), wrong - z[label])
        assert_close(dlr(logits, LABELS)[row].item(), (wrong - z[label]) / (first - third))
        assert_close(cross_entropy(logits, LABELS)[row], entropy, rtol=1e-6, atol=1e-7)


@given(seeds)
def test_the_margin_is_positive_exactly_where_the_answer_is_wrong(seed):
    logits = logits_of(seed)
    assert torch.equal(margin(logits, LABELS) > 0, logits.argmax(1) != LABELS)


@given(seeds, st.floats(0.01, 100), st.floats(-50, 50))
def test_scale_and_shift_of_the_logits_leave_the_dlr_as_it_is(seed, scale, shift):
    logits = logits_of(seed)
    assert_close(dlr(scale * logits + shift, LABELS), dlr(logits, LABELS))


def test_the_feature_loss_is_its_definition():
    loss, z = references(), logits_of(9)
    known = loss.features[:5]
    spread = known.var(0, unbiased=False).sum()
    closeness = (-((z[:, None] - known) ** 2).sum(2) / (0.5 * spread)).exp()
    for row, label in enumerate(LABELS):
        own = loss.labels[:5] == label
        expected = (closeness[row, ~own].sum() / closeness[row, own].sum()).log()
        assert_close(loss(z, LABELS)[row], expected)


def test_the_feature_loss_grows_on_the_way_to_another_class():
    loss = FeatureDistance(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    way = torch.stack([torch.linspace(0, 1, 9), torch.zeros(9)], dim=1)
    assert (loss(way, torch.zeros(9).long()).diff() > 0).all()


@pytest.mark.parametrize("loss", [cross_entropy, margin, dlr, references()])
def test_derivatives_match_finite_differences_twice(loss):
    logits = logits_of(2).requires_grad_()
    assert gradcheck(lambda z: loss(z, LABELS), logits)
    assert gradgradcheck(lambda z: loss(z, LABELS), logits)


def test_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="`dlr` must have 3 classes or more, got 2: climb"):
        dlr(logits_of(0, 4, 2), LABELS)
    with pytest.raises(ValueError, match=r"one class per reference \(4\), got shape \(3,\)"):
        FeatureDistance(torch.rand(4, 2), torch.arange(3))
    with pytest.raises(ValueError, match="`temperature` must be positive, got 0"):
        FeatureDistance(torch.rand(4, 2), torch.arange(4), temperature=0.0)
    with pytest.raises(TypeError, match="`features` must be a floating-point tensor, got"):
        FeatureDistance(torch.ones(4, 2).long(), torch.arange(4))
    alone = FeatureDistance(torch.rand(4, 2), torch.zeros(4).long())
    with pytest.raises(ValueError, match=r"must name every class .* got \[0\]: add references"):
        alone(torch.rand(2, 2), torch.zeros(2).long())

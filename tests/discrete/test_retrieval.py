import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from weft.discrete import (
    Blackbox,
    SolverLog,
    average_precision_loss,
    recall_loss,
    retrieval_loss,
)

SEEDS = st.integers(0, 2**31)


def draw(seed, rows=12, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 4, generator=generator, dtype=dtype)
    return features, torch.randint(-1, classes, (rows,), generator=generator)


def by_hand(features, labels, loss):
    """Rank list by list, and average over rows that have something to find."""
    known = [row for row in range(len(labels)) if labels[row] >= 0]
    losses = []
    for query in known:
        items = [row for row in known if row != query]
        relevant = torch.tensor([bool(labels[row] == labels[query]) for row in items])
        if relevant.any():
            cosines = torch.cosine_similarity(features[query], features[items], dim=-1)
            ranks = (cosines[:, None] < cosines).sum(1) + 1
            losses.append(loss(ranks.to(features.dtype), relevant))
    return torch.stack(losses).mean() if losses else features.new_zeros(())


@pytest.mark.parametrize("loss", [recall_loss, average_precision_loss])
@given(seed=SEEDS)
def test_equals_lists_ranked_one_by_one(loss, seed):
    features, labels = draw(seed)
    assert_close(retrieval_loss(features, labels, loss=loss), by_hand(features, labels, loss))


@given(seed=SEEDS)
def test_neither_order_nor_length_nor_class_numbers_nor_unlabelled_rows_count(seed):
    features, labels = draw(seed)
    expected = retrieval_loss(features, labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    assert_close(retrieval_loss(features[order], labels[order]), expected)
    lengths = torch.arange(1.0, len(labels) + 1, dtype=torch.float64)[:, None]
    assert_close(retrieval_loss(features * lengths, labels), expected)
    assert_close(retrieval_loss(features, torch.where(labels < 0, -5, 7 - labels)), expected)
    assert_close(retrieval_loss(features[labels >= 0], labels[labels >= 0]), expected)


def test_is_zero_without_gradient_where_classes_come_first():
    features = torch.eye(3, dtype=torch.float64).repeat_interleave(4, 0).requires_grad_()
    loss = retrieval_loss(features, torch.arange(3).repeat_interleave(4))
    loss.backward()
    assert loss == 0
    assert not features.grad.any()


@pytest.mark.parametrize("rule", [None, Blackbox(strength=50.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_gradient_leads_to_classes_that_come_first(rule, dtype):
    features, labels = draw(0, rows=30, dtype=dtype)
    features.requires_grad_()
    choice = {} if rule is None else {"rule": rule}
    optimizer = torch.optim.Adam([features], 0.05)
    first = retrieval_loss(features, labels).item()
    for _ in range(100):
        optimizer.zero_grad()
        loss = retrieval_loss(features, labels, **choice)
        loss.backward()
        optimizer.step()
    assert loss.dtype == dtype
    assert retrieval_loss(features, labels) < 0.1 * first


def test_the_solver_is_called_once_and_unlabelled_rows_have_no_gradient():
    features, labels = draw(3)
    features.requires_grad_()
    log = SolverLog()
    retrieval_loss(features, labels, log=log).backward()
    assert log.calls == 1
    assert features.grad[labels >= 0].any()
    assert not features.grad[labels < 0].any()


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 1, 2]), torch.tensor([-1, -1, 0]), torch.full((3,), -1)]
)
def test_is_zero_where_nothing_can_be_found(labels):
    features = torch.randn(3, 2, requires_grad=True)
    loss = retrieval_loss(features, labels)
    loss.backward()
    assert loss == 0
    assert not features.grad.any()
    assert retrieval_loss(features[:0], labels[:0]) == 0


def test_half_precision_is_ranked_in_float32():
    features, labels = draw(1, dtype=torch.float32)
    half = features.half()
    assert_close(retrieval_loss(half, labels), retrieval_loss(half.float(), labels))


def test_a_second_derivative_is_refused():
    features, labels = draw(2)
    features.requires_grad_()
    (grad,) = torch.autograd.grad(retrieval_loss(features, labels), features, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("features", "labels", "error", "message"),
    [
        (torch.randn(3), torch.zeros(3).long(), ValueError, "`features` must have 2 axes"),
        (torch.ones(3, 2).long(), torch.zeros(3).long(), TypeError, "floating-point tensor"),
        (torch.full((3, 2), torch.nan), torch.zeros(3).long(), ValueError, "must be finite"),
        (torch.randn(3, 2), torch.zeros(3), TypeError, "`labels` must be integers"),
        (torch.randn(3, 2), torch.zeros(2).long(), ValueError, r"must have shape \(3,\)"),
    ],
)
def test_says_what_it_needs(features, labels, error, message):
    with pytest.raises(error, match=message):
        retrieval_loss(features, labels)

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.logits import ISDA

SEEDS = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def problem(case):
    """A layer of 3 features, a batch of features, and their classes."""

    def make(seed, num_classes=0, num_samples=0):
        example = case(seed, num_classes, num_samples)
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(len(example.targets), 3, generator=generator).double()
        layer = nn.Linear(3, len(example.counts)).double()
        weight = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.data.copy_(weight)
        return layer, features, example.targets

    return make


@given(seed=SEEDS, parts=st.integers(1, 3))
def test_batches_one_after_the_other_give_the_variances_of_all(problem, seed, parts):
    layer, features, targets = problem(seed)
    isda = ISDA(layer)
    for some, classes in zip(features.chunk(parts), targets.chunk(parts), strict=True):
        isda.observe(some, classes)
    for c in range(layer.out_features):
        own = features[targets == c]
        if len(own):
            assert_close(isda.variances[c], own.var(0, correction=0))
            assert_close(isda.means[c], own.mean(0))
        assert (isda.variances >= 0).all()
        assert isda.counts[c] == len(own)


@given(seed=SEEDS, strength=st.floats(0, 2))
def test_the_shift_is_its_formula_and_leaves_the_own_logit(problem, seed, strength):
    layer, features, targets = problem(seed)
    isda = ISDA(layer, strength)
    isda.observe(features, targets)
    logits = layer(features).detach()
    away = layer.weight - layer.weight[targets, None]
    expected = strength / 2 * (isda.variances[targets, None] * away.square()).sum(2)
    shift = isda(logits, targets) - logits
    assert_close(shift, expected)
    assert_close(shift.gather(1, targets[:, None]), torch.zeros(len(targets), 1).double())
    assert (shift > -1e-9).all()


@given(seed=SEEDS)
def test_renaming_the_classes_renames_the_result(problem, seed):
    layer, features, targets = problem(seed)
    order = torch.randperm(layer.out_features, generator=torch.Generator().manual_seed(seed))
    renamed = nn.Linear(3, layer.out_features).double()
    renamed.weight.data.copy_(layer.weight[order])
    logits = layer(features).detach()
    first, second = ISDA(layer), ISDA(renamed)
    first.observe(features, targets)
    second.observe(features, order.argsort()[targets])
    other = second(logits[:, order], order.argsort()[targets])
    assert_close(other, first(logits, targets)[:, order])


def test_without_strength_or_before_any_batch_nothing_changes(problem):
    layer, features, targets = problem(0)
    logits = layer(features)
    assert torch.equal(ISDA(layer)(logits, targets), logits)
    isda = ISDA(layer, strength=0.0)
    isda.observe(features, targets)
    assert torch.equal(isda(logits, targets), logits)


def test_derivatives_are_exact(problem):
    layer, features, targets = problem(1, 3, 6)
    isda = ISDA(layer)
    isda.observe(features, targets)

    def loss(features):
        return F.cross_entropy(isda(layer(features), targets), targets)

    assert gradcheck(loss, (features.requires_grad_(),))
    assert gradgradcheck(loss, (features,))
    (found,) = torch.autograd.grad(loss(features), layer.weight)
    away = layer.weight - layer.weight[targets, None]
    shift = (isda.variances[targets, None] * away.square()).sum(2) / 4
    dense = F.cross_entropy(layer(features) + shift, targets)
    assert_close(found, torch.autograd.grad(dense, layer.weight)[0])


def test_variances_are_in_the_state_and_the_layer_is_not(problem):
    layer, features, targets = problem(2)
    first, second = ISDA(layer), ISDA(layer)
    first.observe(features, targets)
    assert set(first.state_dict()) == {"counts", "means", "variances"}
    second.load_state_dict(first.state_dict())
    logits = layer(features)
    assert torch.equal(second(logits, targets), first(logits, targets))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    layer = nn.Linear(3, 2)
    isda = ISDA(layer)
    isda.observe(torch.randn(4, 3).to(dtype), torch.tensor([0, 1, 0, 1]))
    perturbed = isda(torch.tensor([[100.0, -100.0]], dtype=dtype), torch.tensor([1]))
    assert perturbed.dtype == torch.float32
    assert perturbed.isfinite().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: ISDA(nn.Linear(3, 2), -1), ValueError, "`strength` must be finite and not neg"),
        (lambda i: i.observe(torch.zeros(3), torch.tensor([0])), ValueError, "must have 2 axes"),
        (
            lambda i: i.observe(torch.zeros(1, 3), torch.tensor([2])),
            ValueError,
            "between 0 and 1, got 2 to 2",
        ),
        (
            lambda i: i(torch.zeros(1, 2), torch.ones(1, 2)),
            TypeError,
            r"class ids of shape \(n,\), .* got torch.float32 of shape \(1, 2\)",
        ),
        (
            lambda i: i(torch.zeros(1, 3), torch.tensor([0])),
            ValueError,
            "each of the 2 classes .* got 3",
        ),
    ],
)
def test_refuses_what_it_cannot_use(call, error, message):
    with pytest.raises(error, match=message):
        call(ISDA(nn.Linear(3, 2)))

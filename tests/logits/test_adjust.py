import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.logits import ClassStats, LogitAdjustment, VectorScaling

SEEDS = st.integers(0, 2**31)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@given(seed=SEEDS)
def test_logit_adjustment_at_temperature_one_is_the_balanced_softmax(case, seed):
    example = case(seed)
    adjusted = LogitAdjustment(ClassStats(example.counts))(example.logits, example.targets)
    weighted = example.counts * example.logits.exp()
    own = weighted.gather(1, example.targets[:, None]).squeeze(1)
    expected = (weighted.sum(1) / own).log().mean()
    assert_close(F.cross_entropy(adjusted, example.targets), expected, **EXACT)


@given(seed=SEEDS, temperature=st.floats(-2, 3))
def test_adjusting_afterwards_undoes_adjusting_in_training(case, seed, temperature):
    example = case(seed)
    adjustment = LogitAdjustment(ClassStats(example.counts), temperature)
    perturbed = adjustment(example.logits, example.targets)
    assert_close(adjustment.post_hoc(perturbed), example.logits, **EXACT)
    manual = example.logits - temperature * (example.counts / example.counts.sum()).log()
    assert torch.equal(adjustment.post_hoc(example.logits).argmax(1), manual.argmax(1))


@given(seed=SEEDS, strength=st.floats(0, 2))
def test_vector_scaling_holds_logit_adjustment_and_class_dependent_temperatures(
    case, seed, strength
):
    example = case(seed)
    stats = ClassStats(example.counts)
    batch = example.logits, example.targets
    adjusted = LogitAdjustment(stats, strength)(*batch)
    assert_close(VectorScaling(stats, 0.0, strength)(*batch), adjusted, **EXACT)
    temperatures = (example.counts.max() / example.counts.double()) ** strength
    assert_close(VectorScaling(stats, strength, 0.0)(*batch), batch[0] / temperatures, **EXACT)


@pytest.mark.parametrize("make", [LogitAdjustment, VectorScaling])
@given(seed=SEEDS)
def test_renaming_the_classes_renames_the_result(case, make, seed):
    # Ids sorted as strings put 10 before 2, and with that the wrong priors on most classes.
    example = case(seed)
    order = torch.randperm(len(example.counts), generator=torch.Generator().manual_seed(seed))
    perturbed = make(ClassStats(example.counts))(example.logits, example.targets)
    other = make(ClassStats(example.counts[order]))(
        example.logits[:, order], order.argsort()[example.targets]
    )
    assert_close(other, perturbed[:, order])


@pytest.mark.parametrize("make", [LogitAdjustment, VectorScaling])
def test_derivatives_of_any_order_are_exact(case, make):
    example = case(0, 4, 5)
    perturbation = make(ClassStats(example.counts))

    def loss(logits):
        return F.cross_entropy(perturbation(logits, example.targets), example.targets)

    assert gradcheck(loss, (example.logits.requires_grad_(),))
    assert gradgradcheck(loss, (example.logits.requires_grad_(),))


@pytest.mark.parametrize("make", [LogitAdjustment, VectorScaling])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_stay_finite_and_half_precision_becomes_float32(make, dtype, device):
    logits = torch.tensor([[100.0, -100.0], [-100.0, -100.0]], device=device, dtype=dtype)
    targets = torch.tensor([1, 0], device=device)
    perturbation = make(ClassStats([1000, 1])).to(device)
    perturbed = perturbation(logits.requires_grad_(), targets)
    assert perturbed.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    F.cross_entropy(perturbed, targets).backward()
    assert perturbed.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LogitAdjustment(ClassStats([3, 0, 2])),
            "positive for the logarithm of its prior, got 0 for class 1: leave the class out",
        ),
        (lambda: VectorScaling(ClassStats([3, 0])), "positive for its scale, got 0 for class 1"),
        (lambda: LogitAdjustment(ClassStats([1, 2]), torch.nan), "`temperature` must be a finite"),
        (lambda: VectorScaling(ClassStats([1, 2]), torch.inf), "`gamma` must be a finite number"),
        (
            lambda: LogitAdjustment(ClassStats([1, 2])).post_hoc(torch.zeros(3, 4)),
            "each of the 2 classes counted in `stats`, got 4: count the classes",
        ),
        (
            lambda: LogitAdjustment(ClassStats([1, 2]))(torch.zeros(3, 2), torch.tensor([0, 2, 1])),
            "between 0 and 1, got 0 to 2",
        ),
    ],
)
def test_refuses_what_it_cannot_use(make, message):
    with pytest.raises(ValueError, match=message):
        make()

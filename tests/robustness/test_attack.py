"""A claim is what a replay shows, the model is left as it was, and bad inputs are named."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from weft.robustness import (
    APGD,
    FGSM,
    L2,
    PGD,
    CarliniWagner,
    IndependentRows,
    JointBatch,
    LInf,
    ModelSpace,
    Square,
    attack,
    margin,
    worst_case,
)

from .toys import Linear, Tied, clusters

EVERY = [
    (FGSM(), LInf(0.15)),
    (PGD(10, restarts=4), LInf(0.15)),
    (APGD(15, restarts=2), L2(0.2)),
    (Square(40), LInf(0.15)),
    (CarliniWagner(20, 4, 0.05), L2(0.3)),
    (ModelSpace(PGD(5), 3), LInf(0.15)),
]
each_method = pytest.mark.parametrize(("method", "ball"), EVERY, ids=str)


def run(model, inputs, labels, method=None, ball=None, threat=None, **options):
    return attack(
        model,
        inputs,
        labels,
        method=method or PGD(5),
        ball=ball or LInf(0.1),
        threat=threat or JointBatch(),
        **options,
    )


@each_method
@pytest.mark.parametrize("size", [None, 7])
def test_on_a_tied_batch_the_claim_is_what_a_replay_shows(method, ball, size):
    inputs, labels = clusters(20)
    model, threat = Tied(), JointBatch(size)
    result = run(model, inputs, labels, method, ball, threat)
    assert result.claimed_accuracy == result.replayed_accuracy
    logits = torch.cat([model(part) for part in result.moved])
    assert (logits.argmax(1) == labels).double().mean().item() == result.replayed_accuracy
    assert_close(margin(logits, labels), result.margin)
    assert [len(part) for part in result.moved] == ([20] if size is None else [7, 7, 6])
    assert result.replayed_accuracy <= result.clean_accuracy


@each_method
def test_on_a_model_of_single_rows_each_row_keeps_its_best_and_the_replay_agrees(method, ball):
    inputs, labels = clusters(20)
    model = Linear(6, 3)
    alone = run(model, inputs, labels, method, ball, IndependentRows())
    assert alone.claimed_accuracy == alone.replayed_accuracy
    assert (alone.clean_wrong <= alone.success).all()  # no attack corrects a row


def test_rows_glued_from_different_batches_claim_too_much_on_a_tied_model():
    inputs, labels = clusters(40)
    method = CarliniWagner(30, 4, 0.05)
    glued = run(Tied(), inputs, labels, method, L2(float("inf")), IndependentRows())
    whole = run(Tied(), inputs, labels, method, L2(float("inf")), JointBatch())
    assert glued.claimed_accuracy < glued.replayed_accuracy - 0.1
    assert whole.claimed_accuracy == whole.replayed_accuracy


@given(
    st.integers(0, 2**31),
    st.floats(0, 0.5),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(EVERY),
    st.sampled_from([IndependentRows(), JointBatch(), JointBatch(3)]),
)
@settings(max_examples=30)
def test_what_is_found_lies_in_ball_and_box(seed, epsilon, dtype, chosen, threat):
    method, kind = chosen[0], type(chosen[1])
    inputs, labels = clusters(8, seed, dtype)
    result = run(Tied(12, dtype), inputs, labels, method, kind(epsilon), threat)
    assert result.inputs.dtype == dtype
    assert result.inputs.min() >= 0
    assert result.inputs.max() <= 1
    gone = kind(epsilon).distance(result.inputs.double(), inputs.double())
    assert (gone <= epsilon + 1e-7).all()
    assert_close(result.distance.double(), gone, rtol=1e-5, atol=1e-7)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU())
    return model.append(nn.Linear(8, 3)).double().eval()


@each_method
def test_an_attack_leaves_model_inputs_and_random_state_alone(method, ball):
    model, (inputs, labels) = network(), clusters(9)
    inputs.requires_grad_()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before, random_state = inputs.detach().clone(), torch.get_rng_state()
    run(model, inputs, labels, method, ball)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert [part.grad for part in model[4].parameters()] == [None, None]
    assert not any(part.training for part in model.modules())
    assert all(part.requires_grad for part in model.parameters())
    assert inputs.grad is None
    assert torch.equal(inputs, before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_attacks_work_where_gradients_are_switched_off():
    inputs, labels = clusters(9)
    with torch.no_grad():
        quiet = run(Tied(), inputs, labels)
    assert torch.equal(quiet.inputs, run(Tied(), inputs, labels).inputs)
    assert not quiet.inputs.requires_grad


@each_method
def test_the_same_seed_gives_the_same_attack(method, ball):
    inputs, labels = clusters(9)
    first, second, default = (
        run(Tied(), inputs, labels, method, ball, generator=generator)
        for generator in (torch.Generator().manual_seed(0), torch.Generator().manual_seed(0), None)
    )
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.inputs, default.inputs)


def test_another_seed_gives_another_start():
    inputs, labels = clusters(9)
    one, two = (
        run(Tied(), inputs, labels, generator=torch.Generator().manual_seed(seed)).inputs
        for seed in (1, 2)
    )
    assert not torch.equal(one, two)


def test_single_and_double_precision_reach_the_same():
    results = [
        run(Tied(30, dtype), *clusters(20, dtype=dtype), PGD(20, random_start=False))
        for dtype in (torch.float32, torch.float64)
    ]
    assert abs(results[0].replayed_accuracy - results[1].replayed_accuracy) <= 0.05  # one row


@pytest.mark.parametrize("kind", [LInf, L2])
def test_a_ball_of_radius_zero_leaves_everything_as_it_is(kind):
    inputs, labels = clusters(9)
    result = run(Tied(), inputs, labels, ball=kind(0.0))
    assert_close(result.inputs, inputs, rtol=0, atol=1e-12)
    assert result.replayed_accuracy == result.clean_accuracy


def test_progress_is_told_after_each_scene():
    told = []
    inputs, labels = clusters(9)
    run(Tied(), inputs, labels, threat=JointBatch(4), progress=lambda *now: told.append(now))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_every_call_of_the_model_is_counted():
    calls = []

    def model(inputs):
        calls.append(len(inputs))
        return Linear(6, 3)(inputs)

    inputs, labels = clusters(9)
    assert run(model, inputs, labels, Square(5)).calls == len(calls)


def test_the_worst_case_takes_the_best_attack_for_each_batch():
    inputs, labels = clusters(21)
    results = [run(Tied(), inputs, labels, method, threat=JointBatch(7)) for method in METHODS]
    worst = worst_case(results)
    batches = [result.success.reshape(3, 7).sum(1) for result in results]
    assert worst.accuracy == pytest.approx(1 - torch.stack(batches).amax(0).sum() / 21)
    survivors = torch.stack([result.success for result in results]).amax(0)
    assert worst.union == pytest.approx(1 - survivors.mean())
    assert worst.union <= worst.accuracy <= min(result.replayed_accuracy for result in results)
    alone = [run(Tied(), inputs, labels, method, threat=IndependentRows()) for method in METHODS]
    assert worst_case(alone).union == pytest.approx(worst_case(alone).accuracy)


METHODS = [FGSM(), PGD(5), APGD(5)]


def test_results_of_different_problems_are_not_combined():
    inputs, labels = clusters(9)
    results = [run(Tied(), inputs, labels, ball=LInf(epsilon)) for epsilon in (0.1, 0.2)]
    with pytest.raises(ValueError, match="must be of one threat model, ball and set of rows, got"):
        worst_case(results)
    with pytest.raises(ValueError, match="`results` must be one or more, got none"):
        worst_case([])


IMAGES, LABELS = clusters(9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": (255 * IMAGES).byte()}, TypeError, "got torch.uint8: convert with .float()"),
        ({"inputs": IMAGES.half()}, TypeError, "must be float32 or float64 pixels in [0, 1], got"),
        ({"inputs": 2 * IMAGES}, ValueError, "must be pixels in [0, 1], got values from"),
        ({"inputs": IMAGES - 1}, ValueError, "must be pixels in [0, 1], got values from -"),
        ({"inputs": IMAGES * torch.nan}, ValueError, "must be pixels in [0, 1], got values from n"),
        ({"inputs": IMAGES[0]}, ValueError, "got shape (6,): add an axis"),
        ({"inputs": IMAGES[:0]}, ValueError, "with n of 1 or more, got shape (0, 6)"),
        ({"labels": LABELS.double()}, TypeError, "class numbers of type int64, got torch.float64"),
        ({"labels": LABELS[:4]}, ValueError, "one class per input (9), got shape (4,)"),
        ({"labels": LABELS - 1}, ValueError, "must be classes 0, 1, ..., got -1: leave inputs"),
        ({"labels": LABELS + 5}, ValueError, "below the number of classes, 3 of 2 or more, got 7"),
        ({"model": network().train()}, ValueError, "got training mode in itself: call .eval()"),
        ({"model": lambda x: Tied()(x)[:2]}, ValueError, "per input, (9, classes), got shape (2,"),
        ({"model": lambda x: Tied()(x)[:, 0]}, ValueError, "per input, (9, classes), got shape (9"),
        ({"model": lambda x: Tied()(x) / 0}, ValueError, "`logits` must be finite, got NaN"),
    ],
)
def test_refuses_what_it_cannot_use(change, error, message):
    arguments = {"model": Tied(), "inputs": IMAGES, "labels": LABELS, **change}
    with pytest.raises(error, match=re.escape(message)):
        run(**arguments)

"""Attacks beyond the gradient in a ball: smallest changes, squares, model spaces, AutoAttack."""

import math
import sys

import pytest
import torch
from torch import nn

from weft.robustness import (
    APGD,
    L2,
    PGD,
    AutoAttack,
    CarliniWagner,
    IndependentRows,
    JointBatch,
    LInf,
    ModelSpace,
    NeighboursOnly,
    Square,
    attack,
)

from .toys import Linear, Tied, clusters, inner_points

INPUTS, LABELS = clusters(24)


def run(model, method, ball, threat=None, inputs=INPUTS, labels=LABELS):
    threat = threat or JointBatch()
    return attack(model, inputs, labels, ball=ball, method=method, threat=threat)


def four_classes():
    inputs, model = inner_points(24, 6), Linear(6, 4)
    return model, inputs, model(inputs).argmax(1)


def test_carlini_wagner_finds_the_distance_to_the_plane_of_a_linear_model():
    model, inputs, labels = four_classes()
    result = run(
        model, CarliniWagner(100, 6, 0.02), L2(math.inf), IndependentRows(), inputs, labels
    )
    logits = model(inputs)
    gaps = logits.gather(1, labels[:, None]) - logits
    normals = model.weights[:, labels].T[:, :, None] - model.weights
    nearest = (gaps / normals.norm(dim=1)).scatter(1, labels[:, None], math.inf).amin(1)
    turned = result.success == 1
    assert turned.all()
    assert (result.distance >= nearest - 1e-9).all()
    # Six rates of exchange and a hundred steps come this near.
    torch.testing.assert_close(result.distance, nearest, rtol=0.1, atol=0.01)


def test_square_on_a_linear_model_comes_near_the_best_corner():
    model, inputs, labels = four_classes()
    epsilon = 0.1
    square, best = (
        run(model, method, LInf(epsilon), IndependentRows(), inputs, labels)
        for method in (Square(300), APGD(30))
    )
    assert square.replayed_accuracy <= best.replayed_accuracy + 0.1
    assert square.margin.mean() > 0.7 * best.margin.mean() + 0.3 * model_margin(model, inputs)


def model_margin(model, inputs):
    top = model(inputs).topk(2, dim=1).values
    return (top[:, 1] - top[:, 0]).mean()


def test_square_asks_for_no_gradient():
    with_gradient = []

    def model(inputs):
        with_gradient.append(inputs.requires_grad)
        return Tied()(inputs)

    run(model, Square(10), LInf(0.2))
    assert not any(with_gradient)


def test_squares_lie_in_images_and_change_every_channel():
    model = Linear(3 * 6 * 5, 4)
    inputs = torch.rand(8, 3, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    labels = model(inputs).argmax(1)
    result = run(model, Square(50), LInf(0.1), IndependentRows(), inputs, labels)
    assert result.distance.max() <= 0.1 + 1e-12
    assert result.replayed_accuracy < 1


@pytest.mark.parametrize("least", [False, True])
def test_a_model_space_attack_is_as_good_as_its_inner_one_on_a_tied_head(least):
    inner = PGD(10)
    alone = run(Tied(), inner, LInf(0.15))
    space = run(Tied(), ModelSpace(inner, 4, least=least), LInf(0.15))
    assert space.claimed_accuracy == space.replayed_accuracy
    assert space.replayed_accuracy <= alone.replayed_accuracy + 1 / 24
    assert ("MIN" if least else "AVG") in space.method


def test_a_model_space_attack_sees_a_defence_that_is_trained_on_what_it_is_shown():
    seen = []

    def defend(model, context):
        seen.append(context)
        return lambda inputs: model(inputs) + context.mean()

    run(Tied(), ModelSpace(PGD(3), 3, defend=defend), LInf(0.1))
    assert torch.equal(seen[0], INPUTS)
    assert len({float(context.sum()) for context in seen}) == 3  # clean, then each round's


def test_autoattack_agrees_with_the_best_attack_on_a_linear_model():
    pytest.importorskip("pyautoattack")
    model, inputs, labels = four_classes()
    tracer, state = sys.gettrace(), torch.get_rng_state()
    ball, threat = LInf(0.05), IndependentRows()
    found = run(model, AutoAttack(), ball, threat, inputs, labels)
    best = run(model, APGD(50), ball, threat, inputs, labels)
    assert found.replayed_accuracy == best.replayed_accuracy
    assert found.claimed_accuracy == found.replayed_accuracy
    assert found.distance.max() <= 0.05 + 1e-7
    assert sys.gettrace() is tracer
    assert torch.equal(torch.get_rng_state(), state)


def test_autoattack_on_a_tied_batch_is_judged_as_a_whole_batch():
    pytest.importorskip("pyautoattack")
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).double().eval()

    def tied(inputs):
        logits = layer(inputs.flatten(1))
        return logits + 3 * logits.detach().mean(0).flip(0)

    labels = tied(INPUTS).argmax(1)
    result = run(tied, AutoAttack(batch_size=8), LInf(0.1), JointBatch(12), labels=labels)
    assert result.claimed_accuracy == result.replayed_accuracy
    logits = torch.cat([tied(part) for part in result.moved])
    assert (logits.argmax(1) == labels).double().mean().item() == result.replayed_accuracy


@pytest.mark.parametrize(
    ("method", "ball", "threat", "message"),
    [
        (Square(5), L2(0.1), JointBatch(), "`ball` must be an L-infinity ball for Square, got L2"),
        (CarliniWagner(), LInf(0.1), JointBatch(), "`ball` must be an L2 ball for CarliniWagner"),
        (AutoAttack(), LInf(0.1), JointBatch(), "4 classes or more .* got 3: use APGD"),
        (AutoAttack(), LInf(0.1), NeighboursOnly(4, 2), "must move the rows that count, got 3"),
    ],
)
def test_refuses_problems_it_is_not_made_for(method, ball, threat, message):
    if isinstance(method, AutoAttack):
        pytest.importorskip("pyautoattack")
    with pytest.raises(ValueError, match=message):
        run(Tied(), method, ball, threat)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Square(0), "`queries` must be 1 or more, got 0"),
        (lambda: Square(share=0.0), r"`share` must lie in \(0, 1\], got 0.0"),
        (lambda: CarliniWagner(0), "`steps` must be 1 or more, got 0"),
        (lambda: CarliniWagner(learning_rate=0.0), "`learning_rate` must be positive, got 0.0"),
        (lambda: ModelSpace(PGD(), 0), "`rounds` must be 1 or more, got 0"),
        (lambda: AutoAttack("fast"), '`version` must be "standard" or "rand", got "fast"'),
    ],
)
def test_refuses_settings_that_mean_nothing(make, message):
    with pytest.raises(ValueError, match=message):
        make()

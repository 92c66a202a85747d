"""Planted masking is flagged, each by the checks that should see it; honest models are not."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from weft.isometry import Reduction, SquaredError, isometry_loss
from weft.robustness import (
    FGSM,
    PGD,
    Check,
    IndependentRows,
    JointBatch,
    LInf,
    Noise,
    VictimOnly,
    attack,
    check_masking,
    cross_entropy,
    landscape,
    margin,
)

from .toys import Linear, Tied, clusters, inner_points

DIGITS = load_digits()
PIXELS, CLASSES = torch.tensor(DIGITS.data / 16).float(), torch.tensor(DIGITS.target)
ORDER = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
TRAIN, TEST = ((PIXELS[rows], CLASSES[rows]) for rows in ORDER[:1647].split(1347))
FALLS = "accuracy falls to zero as epsilon grows to 0.5"
BLIND = "attacks without gradient find no more"
LEADS = "a short step along the gradient beats a random one"
VANISH = "gradients do not vanish"
TWIN = "a step along a twin's gradient does no better at 0.3"


def train(*, beta=0.0, scale=1.0, noise=0.0, epochs=30, depth=3, seed=0):
    """A network of tanh layers, its features isometric by beta and K, trained on FGSM by noise."""
    torch.manual_seed(seed)
    layers = []
    for size in [64, *[100] * (depth - 1)]:
        layer = nn.Linear(size, 100)
        if size == 100:
            nn.init.orthogonal_(layer.weight)
        layers += [layer, nn.Tanh()]
    body, head = nn.Sequential(*layers), nn.Linear(100, 10)
    model = nn.Sequential(body, head)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(TRAIN[0])).split(100):
            inputs, labels = TRAIN[0][rows], TRAIN[1][rows]
            if noise:
                ball, threat = LInf(noise), IndependentRows()
                moved = attack(
                    model.eval(), inputs, labels, ball=ball, method=PGD(3), threat=threat
                )
                inputs = moved.inputs
                model.train()
            features = body(inputs)
            loss = F.cross_entropy(head(features), labels)
            if beta:
                loss = loss + beta * isometry_loss(
                    inputs,
                    features,
                    labels,
                    discrepancy=SquaredError(scale),
                    reduction=Reduction.MATRIX,
                )
            adam.zero_grad()
            loss.backward()
            adam.step()
    return model.eval()


@pytest.fixture(scope="module")
def honest():
    return train()


@pytest.fixture(scope="module")
def twin():
    return train(seed=5)


def check(model, epsilon=0.1, **options):
    options = {"queries": 50, **options}
    return check_masking(model, *TEST, epsilon=epsilon, threat=IndependentRows(300), **options)


def failed(masking):
    return {one.name for one in masking.failed}


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.2])
def test_an_honest_network_passes(honest, twin, epsilon):
    masking = check(honest, epsilon, twin=twin)
    assert masking.passed, masking.failed
    assert len(masking.checks) == 11
    assert check(honest, epsilon, loss=margin).passed


def test_networks_trained_to_be_robust_and_isometric_ones_pass(twin):
    for model in (train(noise=0.1, epochs=15), train(beta=10.0, epochs=20)):
        masking = check(model, twin=twin)
        assert masking.passed, masking.failed


def test_a_linear_model_passes():
    inputs, labels = inner_points(90, 6), torch.arange(90) % 3
    model = Linear(6, 3)
    labels = model(inputs).argmax(1)
    masking = check_masking(model, inputs, labels, epsilon=0.05, threat=IndependentRows())
    assert masking.passed, masking.failed


def test_isometry_with_k_10_is_flagged(twin):
    crushed = train(beta=0.1, scale=10.0, epochs=100, depth=5, seed=1)
    assert TWIN in failed(check(crushed, twin=twin))
    # One step of it is so weak that an attack which takes one has visibly not arrived.
    assert "more steps change little" in failed(check(crushed, 0.2, steps=1))


def test_a_saturated_head_is_flagged(honest):
    masking = check(lambda inputs: 1e4 * honest(inputs))
    assert failed(masking) >= {FALLS, BLIND, VANISH, LEADS, "the margin finds no more"}
    # Its margin is as good as before: the same model passes when that is climbed.
    by_margin = check(lambda inputs: 1e4 * honest(inputs), loss=margin)
    assert by_margin.passed, by_margin.failed


def test_a_random_gradient_is_flagged(honest):
    generator = torch.Generator().manual_seed(0)

    class Lying(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs):
            return inputs.clone()

        @staticmethod
        def backward(ctx, gradient):
            return torch.randn(gradient.shape, generator=generator)

    for loss in (cross_entropy, margin):
        masking = check(lambda inputs: honest(Lying.apply(inputs)), loss=loss)
        assert failed(masking) >= {FALLS, BLIND, LEADS}
        assert not masking.passed


def test_a_gradient_that_points_backwards_is_flagged(honest):
    def lying(inputs):
        return honest(2 * inputs.detach() - inputs)

    assert failed(check(lying)) >= {FALLS, BLIND, LEADS}


def test_rounded_inputs_are_flagged(honest):
    masking = check(lambda inputs: honest((8 * inputs).round() / 8))
    assert failed(masking) >= {FALLS, BLIND, VANISH, LEADS}


def test_a_tied_head_whose_kernel_dies_out_is_flagged():
    inputs, labels = clusters(60)
    masking = check_masking(Tied(), inputs, labels, epsilon=0.1, threat=JointBatch())
    assert FALLS in failed(masking)
    assert masking.threat == "joint, whole set"


def test_the_same_seed_gives_the_same_checks_and_the_model_is_left_alone(honest):
    state = {name: value.clone() for name, value in honest.state_dict().items()}
    told = []
    first = check(honest, progress=lambda *now: told.append(now))
    again = check(honest, generator=torch.Generator().manual_seed(0))
    assert first.checks == again.checks
    assert torch.equal(first.landscape.along, again.landscape.along)
    assert told[-1] == (10, 10)
    assert all(torch.equal(value, state[name]) for name, value in honest.state_dict().items())


def test_one_victim_at_a_time_can_be_checked():
    inputs, labels = clusters(12)
    masking = check_masking(
        Tied(),
        inputs,
        labels,
        epsilon=0.1,
        threat=VictimOnly(6, victims=4),
        steps=3,
        queries=5,
    )
    assert masking.landscape.along.shape == (21, 4)


def test_a_check_says_in_words_what_it_found():
    assert str(Check("nothing is hidden", False, "3 of 4")) == "FAILED: nothing is hidden (3 of 4)"
    assert str(Check("nothing is hidden", True, "4 of 4")) == "passed: nothing is hidden (4 of 4)"


def test_a_landscape_begins_at_the_clean_margins_and_follows_the_gradient():
    model, inputs = Linear(6, 3), inner_points(9, 6)
    labels = model(inputs).argmax(1)
    lines = landscape(
        model, inputs, labels, ball=LInf(0.01), threat=IndependentRows(4), loss=margin
    )
    clean = margin(model(inputs), labels)
    torch.testing.assert_close(lines.along[0], clean)
    torch.testing.assert_close(lines.aside[0], clean)
    steepest = (lines.along[1:] - clean) / lines.steps[1:, None]
    torch.testing.assert_close(steepest, steepest[:1].expand_as(steepest))  # linear: no bend
    assert (lines.led, lines.zero) == (1.0, 0.0)


def test_noise_finds_less_than_a_gradient_and_stays_in_the_ball(honest):
    results = [
        attack(honest, *TEST, ball=LInf(0.1), method=method, threat=IndependentRows())
        for method in (Noise(20), FGSM())
    ]
    assert results[0].replayed_accuracy > results[1].replayed_accuracy
    assert results[0].distance.max() <= 0.1 + 1e-7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: check(Linear(64, 10), 0.0), r"`epsilon` must lie in \(0, 1\], got 0.0"),
        (lambda: check(Linear(64, 10), 25.0), r"`epsilon` must lie in \(0, 1\], got 25.0"),
        (lambda: check(Linear(64, 10), steps=0), "`steps` must be 1 or more, got 0"),
        (lambda: check(Linear(64, 10), queries=0), "`queries` must be 1 or more, got 0"),
        (lambda: Noise(0), "`draws` must be 1 or more, got 0"),
        (
            lambda: landscape(Linear(64, 10), *TEST, ball=LInf(0.1), threat=JointBatch(), steps=15),
            "`steps` must be a multiple of 10, got 15",
        ),
    ],
)
def test_refuses_settings_that_mean_nothing(make, message):
    with pytest.raises(ValueError, match=message):
        make()

"""Gradient attacks find the optimum where it is known, and each is at least as good as a weaker."""

import pytest
import torch

from weft.robustness import (
    APGD,
    FGSM,
    L2,
    PGD,
    FeatureDistance,
    IndependentRows,
    JointBatch,
    LInf,
    attack,
    cross_entropy,
    dlr,
    margin,
)
from weft.robustness._gradient import _checkpoints

from .toys import Linear, Tied, clusters, inner_points

METHODS = [FGSM(margin), FGSM(), PGD(30), PGD(20, random_start=False), APGD(30), APGD(30, loss=dlr)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("method", "short"),  # by what share of the gain an attack may stay behind
    [
        (FGSM(margin), 0),
        (PGD(10, random_start=False), 0),
        (PGD(40), 0.1),  # from a random start, the Euclidean sphere is approached along an arc
        (APGD(40), 0.001),
        (APGD(40, loss=cross_entropy), 0.001),
    ],
    ids=str,
)
@pytest.mark.parametrize("threat", [IndependentRows(), JointBatch()], ids=str)
def test_attacks_reach_the_closed_form_margin_of_a_linear_model(dtype, method, short, threat):
    model, inputs = Linear(12, 2, dtype), inner_points(20, 12, dtype)
    labels = model(inputs).argmax(1)
    difference = model.weights[:, 1] - model.weights[:, 0]
    for ball, dual in ((LInf(0.02), 1), (L2(0.04), 2)):
        result = attack(model, inputs, labels, ball=ball, method=method, threat=threat)
        gain = ball.epsilon * difference.norm(p=dual)  # Hoelder's inequality, attained
        expected = margin(model(inputs), labels) + gain
        right = result.success == 0
        assert 0 < right.sum() < len(right)
        missing = (expected - result.margin)[right]
        assert missing.min() >= -1e-5
        assert missing.max() <= short * gain + 1e-5
        assert torch.equal(result.success, (expected > 0).to(dtype))


def curved(inputs):
    """A smooth model of single rows: logits are sums of waves."""
    return (6 * Linear(6, 3)(inputs)).sin() + Linear(6, 3)(inputs)


@pytest.mark.parametrize("ball", [LInf(0.1), L2(0.2)], ids=str)
@pytest.mark.parametrize(
    ("model", "threat"),
    [(curved, IndependentRows()), (Tied(), JointBatch())],
    ids=["single rows", "tied"],
)
def test_more_work_is_never_worse_on_a_model_with_curves(ball, model, threat):
    inputs, labels = clusters(30)
    labels = labels if threat == JointBatch() else curved(inputs).argmax(1)
    found = [
        attack(model, inputs, labels, ball=ball, method=method, threat=threat)
        for method in (FGSM(margin), PGD(20), PGD(20, restarts=3), APGD(20, restarts=3))
    ]
    one_step, iterated, restarted, adaptive = (result.replayed_accuracy for result in found)
    assert restarted <= iterated <= one_step
    assert adaptive <= restarted
    assert restarted < found[0].clean_accuracy


def test_a_surrogate_leads_and_the_model_itself_decides():
    model, inputs = Linear(12, 4), inner_points(30, 12)
    labels = model(inputs).argmax(1)

    def hidden(z):  # its gradient vanishes almost everywhere
        return (model(z) * 50).round() / 50 + 0 * z.sum()

    options = {"ball": LInf(0.05), "threat": IndependentRows()}
    blind = attack(hidden, inputs, labels, method=PGD(20, random_start=False), **options)
    seeing = attack(hidden, inputs, labels, method=PGD(20, surrogate=model), **options)
    assert blind.replayed_accuracy == blind.clean_accuracy
    assert seeing.replayed_accuracy < blind.replayed_accuracy
    assert "surrogate" in seeing.method


def test_features_lead_an_attack_too():
    inputs, labels = clusters(30)
    model = Tied()
    loss = FeatureDistance(model.references, model.labels)
    method = PGD(20, loss=loss, surrogate=lambda rows: rows)
    result = attack(model, inputs, labels, ball=LInf(0.2), method=method, threat=JointBatch())
    assert result.replayed_accuracy < result.clean_accuracy
    assert result.method == "PGD-20 (FeatureDistance, surrogate)"


def test_the_checkpoints_are_those_of_the_paper():
    # p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), of 100 steps
    assert sorted(_checkpoints(100))[:8] == [22, 41, 57, 70, 80, 87, 93, 99]


def test_names_say_what_was_done():
    names = [str(method) for method in (*METHODS, PGD(10, restarts=5))]
    assert names[:2] == ["FGSM (margin)", "FGSM (cross_entropy)"]
    assert names[3] == "IFGSM-20 (margin)"
    assert names[-1] == "PGD-10 x 5 (margin)"


@pytest.mark.parametrize("kind", [PGD, APGD])
def test_refuses_no_steps_and_no_restarts(kind):
    with pytest.raises(ValueError, match="`steps` must be 1 or more, got 0"):
        kind(steps=0)
    with pytest.raises(ValueError, match="`restarts` must be 1 or more, got 0"):
        kind(restarts=0)
    with pytest.raises(ValueError, match="`step_size` must be positive, got -1"):
        PGD(step_size=-1.0)


def test_a_model_without_gradient_is_named():
    inputs, labels = clusters(4)
    with pytest.raises(ValueError, match=r"must be differentiable .* attack with `Square\(\)`"):
        attack(
            torch.no_grad()(Tied()),
            inputs,
            labels,
            ball=LInf(0.1),
            method=FGSM(),
            threat=JointBatch(),
        )


def test_a_gradient_that_is_not_finite_is_named():
    inputs, labels = clusters(4)

    def broken(rows):
        return Linear(6, 3)(rows) + (rows - rows).norm(dim=1, keepdim=True).sqrt()

    with pytest.raises(ValueError, match="`the gradient of the loss` must be finite, got NaN"):
        attack(broken, inputs, labels, ball=LInf(0.1), method=FGSM(), threat=JointBatch())

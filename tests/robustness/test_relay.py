"""A relay begins where other attacks ended, and counts only what the model said on the way."""

import pytest
import torch

from weft.robustness import APGD, FGSM, PGD, JointBatch, LInf, Relay, attack, worst_case

from .toys import Tied, clusters


def run(inputs, labels, method, threat):
    return attack(Tied(), inputs, labels, ball=LInf(0.1), method=method, threat=threat)


def test_a_relay_never_loses_what_the_model_said_and_climbs_from_where_others_ended():
    inputs, labels = clusters(21)
    threat = JointBatch(7)
    before = [run(inputs, labels, method, threat) for method in (FGSM(), PGD(5), APGD(5))]
    margins = torch.stack([result.margin for result in before])
    points = torch.stack([result.inputs for result in before])
    best = points[margins.argmax(0), torch.arange(21)]
    after = run(inputs, labels, Relay(best, 20), threat)
    assert after.claimed_accuracy == after.replayed_accuracy
    assert worst_case([*before, after]).accuracy <= worst_case(before).accuracy
    outside = run(inputs, labels, Relay(best + 5.0, 2), threat)
    assert (outside.inputs - inputs).abs().max() <= 0.1 + 1e-12


def test_a_relay_needs_a_start_for_each_input():
    inputs, labels = clusters(9)
    with pytest.raises(ValueError, match=r"a point for each input that .* got 4"):
        run(inputs, labels, Relay(inputs[:4]), JointBatch())
    with pytest.raises(ValueError, match="`steps` must be 1 or more, got 0"):
        Relay(inputs, 0)

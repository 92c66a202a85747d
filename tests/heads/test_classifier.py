import pytest
import torch
from torch import nn

from weft.heads import GraphClassifier, GraphHead


@pytest.fixture
def samples():
    """Forty points in three overlapping groups, and their class numbers."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 3
    return torch.eye(3, 6)[labels] + 0.3 * torch.randn(40, 6, generator=generator), labels


def make(samples, **options):
    """A small classifier whose anchors are the first 12 samples."""
    inputs, labels = samples
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    return GraphClassifier(backbone, GraphHead(3, k=5), inputs[:12], labels[:12], **options)


def test_layers_frozen_on_purpose_stay_frozen_when_a_memory_bank_is_refreshed(samples):
    model = make(samples, memory_bank=True).train()
    model.backbone[1].eval()
    model.refresh_bank()
    assert [part.training for part in model.backbone] == [True, False, True, True]


def test_frozen_anchor_features_are_kept_while_nothing_changes(samples):
    model = make(samples).eval()
    first = model.anchor_features()
    model(samples[0])
    model.train().eval()
    assert model.anchor_features() is first
    assert not first.requires_grad


def change_a_weight(model):
    with torch.no_grad():
        model.backbone[0].weight.mul_(1.5)


def step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(model.anchor_inputs + 0.1)[:, 0].sum().backward()
    optimizer.step()


def run_in_training_mode(model):
    with torch.no_grad():
        model.train()(model.anchor_inputs + 1.0)  # moves the statistics of the batch norm
    model.eval()


def load_state(model):
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})


def load_part_of_the_state(model):
    load_state(model.backbone)


def assign_state(model):
    state = {name: value * 2 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def replace_a_layer(model):
    model.backbone[3] = nn.Linear(8, 4)


def replace_anchors(model):
    model.set_anchors(model.anchor_inputs + 0.5, model.anchor_labels)


@pytest.mark.parametrize(
    "change",
    [
        change_a_weight,
        step,
        run_in_training_mode,
        load_state,
        load_part_of_the_state,
        assign_state,
        replace_a_layer,
        replace_anchors,
    ],
)
def test_frozen_anchor_features_are_encoded_anew_after_a_change(samples, change):
    model = make(samples).eval()
    stale = model.anchor_features()
    change(model)
    with torch.no_grad():
        expected = model.backbone(model.anchor_inputs)
    assert not torch.equal(expected, stale)
    torch.testing.assert_close(model.anchor_features(), expected)


def test_an_average_of_weights_that_stays_in_evaluation_mode_sees_each_update(samples):
    model = make(samples)
    averaged = torch.optim.swa_utils.AveragedModel(model).eval()
    for _ in range(2):
        change_a_weight(model)
        averaged.update_parameters(model)
        expected = averaged.module.backbone(model.anchor_inputs)
        averaged(samples[0])
        torch.testing.assert_close(averaged.module.anchor_features(), expected.detach())


def test_frozen_anchor_features_move_with_the_model(samples):
    model = make(samples).eval()
    model(samples[0])
    assert model.to("meta").anchor_features().device.type == "meta"


def test_a_model_made_for_inference_keeps_its_anchor_features_too(samples):
    with torch.inference_mode():
        model = make(samples).eval()
        assert model.anchor_features() is model.anchor_features()


@pytest.mark.parametrize("alone", [True, False])
def test_explaining_in_training_mode_explains_the_evaluation_and_changes_nothing(samples, alone):
    model = make(samples).eval()
    expected = model.explain(samples[0], alone=alone)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.testing.assert_close(model.train().explain(samples[0], alone=alone), expected)
    torch.testing.assert_close(dict(model.state_dict()), before)
    assert all(part.training for part in model.modules())


def test_anchor_labels_may_be_unsigned(samples):
    inputs, labels = samples
    expected = make(samples)(inputs)
    torch.testing.assert_close(make((inputs, labels.to(torch.uint8)))(inputs), expected)


def test_a_memory_bank_does_not_outlive_the_anchors_it_was_made_of(samples):
    model, other = make(samples, memory_bank=True), make(samples)
    model(samples[0])
    other.set_anchors(samples[0][:20], samples[1][:20])
    model.load_state_dict(other.state_dict())
    assert len(model.anchor_features()) == 20

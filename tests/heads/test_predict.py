import pytest
import torch
from torch import nn

from weft.heads import (
    Batches,
    GraphClassifier,
    GraphHead,
    Queries,
    Whole,
    predict,
)

CONTEXTS = [Whole(), Batches(7), Queries(), Queries(exact=True)]


@pytest.fixture
def samples():
    """Forty points in three overlapping groups, and their class numbers."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 3
    return torch.eye(3, 6)[labels] + 0.3 * torch.randn(40, 6, generator=generator), labels


@pytest.fixture
def model(samples):
    """A small classifier with 18 anchors, every third of them unlabelled."""
    inputs, labels = samples
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    anchor_labels = torch.where(torch.arange(18) // 3 % 3 == 2, -1, labels[:18])
    return GraphClassifier(backbone, GraphHead(3, k=5), inputs[:18], anchor_labels)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_layers_frozen_on_purpose_stay_frozen_after_predict(model, samples, context):
    model.train()
    model.backbone[1].eval()
    predict(model, samples[0], context)
    assert [part.training for part in model.backbone] == [True, False, True, True]
    assert model.training


def test_modes_are_restored_when_predict_fails(model, samples):
    model.train()
    model.backbone[1].eval()
    with pytest.raises(RuntimeError):
        predict(model, samples[0][:, :2], Whole())
    assert [part.training for part in model.backbone] == [True, False, True, True]


def test_a_model_in_float64_predicts_in_float64(samples):
    model = nn.Linear(6, 3).double()
    assert predict(model, samples[0].double(), Whole()).probabilities.dtype == torch.float64


def test_rejects_a_graph_classifier_hidden_in_another_module(model, samples):
    with pytest.raises(TypeError, match=r"must be the GraphClassifier itself, got a Sequential"):
        predict(nn.Sequential(nn.Identity(), model), samples[0], Whole())

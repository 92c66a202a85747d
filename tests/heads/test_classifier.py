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

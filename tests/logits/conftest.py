"""What the tests of perturbations share: batches whose class sizes have nothing to do with ids."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    logits: Tensor
    targets: Tensor
    counts: Tensor


def _case(seed: int, num_classes: int = 0, num_samples: int = 0) -> Case:
    """Random logits in float64, flat or peaked, with all or only some classes in the batch."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    num_classes, num_samples = num_classes or draw(2, 13), num_samples or draw(1, 21)
    scale = [0.1, 2.0, 6.0][draw(0, 3)]
    logits = scale * torch.randn(num_samples, num_classes, generator=generator).double()
    targets = torch.randint(num_classes, (num_samples,), generator=generator)
    counts = 2 + 5 * torch.randperm(num_classes, generator=generator)
    return Case(logits, targets, counts)


@pytest.fixture(scope="session")
def case():
    return _case

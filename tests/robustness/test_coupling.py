"""The detector finds models that tie their batch together, and raises no false alarm."""

import pytest
import torch
from torch import nn

from weft.robustness import coupling

from .toys import Linear, Tied, clusters


def network(*layers, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(*layers).to(dtype)


def images(count=20, dtype=torch.float32):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def convolutions(dtype):
    model = network(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(256, 10), dtype=dtype,
    )  # fmt: skip
    model(images(50, dtype))  # fills the running statistics
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_in_evaluation_mode_raises_no_alarm(dtype):
    found = coupling(convolutions(dtype), images(dtype=dtype))
    assert not found.coupled
    assert not found.random
    assert found.changed == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_models_of_single_rows_raise_no_alarm(dtype, scale):
    linear = Linear(192, 10, dtype)
    assert not coupling(lambda inputs: scale * linear(inputs), images(dtype=dtype)).coupled
    deep = network(
        nn.Flatten(), *[part for _ in range(6) for part in (nn.Linear(192, 192), nn.ReLU())],
        dtype=dtype,
    ).eval()  # fmt: skip
    assert not coupling(lambda inputs: scale * deep(inputs), images(dtype=dtype)).coupled


def test_batch_statistics_are_found():
    model = convolutions(torch.float32)

    def usual(inputs):  # what batch norm does in training mode
        features = inputs.flatten(1)
        return ((features - features.mean(0)) / (features.std(0, unbiased=False) + 1))[:, :10]

    assert coupling(usual, images()).coupled
    with pytest.raises(ValueError, match="evaluation mode, got training mode in itself"):
        coupling(model.train(), images())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_graph_over_the_batch_is_found(dtype):
    found = coupling(Tied(dtype=dtype), clusters(24, dtype=dtype)[0])
    assert found.coupled
    assert found.largest > found.tolerance


def test_a_weak_tie_is_found_in_double_precision():
    linear = Linear(6, 3)
    inputs = clusters(24)[0]
    found = coupling(lambda rows: linear(rows) + 1e-6 * linear(rows).mean(0), inputs)
    assert found.coupled


def test_order_alone_is_found():
    def by_place(inputs):
        return torch.arange(1.0, len(inputs) + 1)[:, None] * torch.ones(3)

    found = coupling(by_place, clusters(24)[0].float())
    assert found.coupled


def test_random_answers_are_no_evidence():
    generator = torch.Generator().manual_seed(0)

    def noisy(inputs):
        return torch.randn(len(inputs), 3, generator=generator)

    found = coupling(noisy, clusters(24)[0].float())
    assert found.random
    assert not found.coupled


def test_one_input_has_no_company():
    with pytest.raises(ValueError, match="`inputs` must be 2 or more, got 1: one has no company"):
        coupling(Linear(6, 3), clusters(1)[0])

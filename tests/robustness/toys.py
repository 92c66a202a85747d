"""What the tests of attacks share: a linear model, and one that ties its batch together."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


class Linear:
    """Logits x W + b of inputs of any shape; the closed forms of its margins are known."""

    def __init__(self, inputs: int, classes: int, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(3)
        self.weights = torch.randn(inputs, classes, generator=generator, dtype=dtype)
        self.bias = -0.5 * self.weights.sum(0)  # the middle of the box is undecided

    def __call__(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weights + self.bias


class Tied:
    """Labels spread over a dense graph of references and batch: every row moves every other."""

    def __init__(self, num_references: int = 30, dtype: torch.dtype = torch.float64) -> None:
        self.references, self.labels = clusters(num_references, seed=1, dtype=dtype)

    def __call__(self, inputs: Tensor) -> Tensor:
        return with_anchors(self.references, self.labels)(inputs)


def with_anchors(references: Tensor, labels: Tensor):
    """A tied model from labelled references, differentiable in them."""

    def predict(inputs: Tensor) -> Tensor:
        points = torch.cat([references, inputs.flatten(1)])
        weights = (-20 * (points[:, None] - points).square().sum(2)).exp()
        laplacian = weights.sum(1).diag() - weights
        free = slice(len(references), None)
        flow = weights[free, : len(references)] @ one_hot(labels, 3).to(weights)
        floor = 1e-6 * torch.eye(len(inputs), dtype=weights.dtype)
        return torch.linalg.solve(laplacian[free, free] + floor, flow).clamp_min(1e-8).log()

    return predict


def clusters(
    count: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Points of three overlapping classes in the box, and their classes."""
    labels = torch.arange(count) % 3
    centres = torch.rand(3, 6, generator=torch.Generator().manual_seed(8)).to(dtype)
    noise = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return (0.25 + 0.5 * centres[labels] + 0.12 * noise).clamp(0, 1), labels


def inner_points(count: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Points away from the box's faces, so that a small ball is not cut."""
    generator = torch.Generator().manual_seed(5)
    return 0.35 + 0.3 * torch.rand(count, size, generator=generator, dtype=dtype)

"""Networks of several seeds side by side: one step trains them all, each as if it were alone.

Their losses are summed, so no seed's gradient reaches another's weights, and Adam treats each
weight by itself. Small networks spend most of their time between operations, so this is much
faster than one after the other.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn


class StackedMLP(nn.Module):
    """Multilayer perceptrons, one for each seed: (seeds, ..., in) to (seeds, ..., out)."""

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int]) -> None:
        super().__init__()
        generators = [Generator().manual_seed(seed) for seed in seeds]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            drawn = [torch.rand(fan_in + 1, fan_out, generator=own) for own in generators]
            layer = (2 * torch.stack(drawn) - 1) / fan_in**0.5  # as torch's Linear
            self.weights.append(nn.Parameter(layer[:, 1:].clone()))
            self.biases.append(nn.Parameter(layer[:, :1].clone()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply each seed's network to its own inputs."""
        hidden = inputs.flatten(1, -2)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden.relu() if index else hidden, weight)
        return hidden.unflatten(1, inputs.shape[1:-1])

"""Each level trains its own block, from frozen ones, through a read-out that all share."""

import copy
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from weft.isometry import (
    LocallyIsometricStack,
    Reduction,
    SquaredError,
    isometry_loss,
    level_loss,
    train_levels,
)

SEEDS = st.integers(0, 2**31)
TABLE = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [1, 3, 4]])  # of 5 fine classes


def build(seed=0):
    """Three levels: 3 -> 6 -> 6 -> 6 by tanh layers, and 5 classes."""
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.Linear(width, 6), nn.Tanh()) for width in (3, 6, 6)]
    return LocallyIsometricStack(blocks, nn.Linear(6, 5)).double()


def draw(seed=0, count=20):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return inputs, TABLE[torch.randint(5, (count,), generator=generator)]


@given(seed=SEEDS, level=st.integers(0, 2))
def test_the_loss_of_a_level_is_that_of_the_formula(seed, level):
    stack, (inputs, labels) = build(), draw(seed)
    labels[:3, level] = -1
    rows = inputs
    for block in stack.blocks[: level + 1]:
        rows = (rows @ block[0].weight.T + block[0].bias).tanh()
    logits = rows @ stack.readout.weight.T + stack.readout.bias
    own = labels[:, level]
    within = (own[:, None] == own) & (own >= 0)[:, None]
    apart = 2 * torch.cdist(rows, rows) - torch.cdist(inputs, inputs)
    cross_entropy = F.cross_entropy(logits[3:], own[3:])
    matrix = (within * apart.square()).sum() / 20**2
    found = level_loss(
        stack,
        inputs,
        labels,
        level,
        weight=0.7,
        discrepancy=SquaredError(2.0),
        reduction=Reduction.MATRIX,
    )
    assert_close(found, cross_entropy + 0.7 * matrix, rtol=1e-7, atol=1e-9)
    greedy = level_loss(stack, inputs, labels, level, weight=0.0)
    assert_close(greedy, cross_entropy)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_gradients_reach_the_block_of_the_level_and_the_readout_alone(level):
    stack, (inputs, labels) = build(), draw()
    level_loss(stack, inputs.requires_grad_(), labels, level).backward()
    for number, block in enumerate(stack.blocks):
        for parameter in block.parameters():
            assert (parameter.grad is not None) == (number == level)
            assert parameter.requires_grad
    assert stack.readout.weight.grad.norm() > 0
    assert (inputs.grad is None) == (level > 0)


def test_their_values_are_those_of_the_whole_model_for_that_block():
    stack, (inputs, labels) = build(), draw()
    own = labels[:, 1]
    by_hand = F.cross_entropy(stack(inputs, 1), own)
    by_hand = by_hand + 3 * isometry_loss(inputs, stack.features(inputs, 1), own)
    parameters = [*stack.blocks[1].parameters(), *stack.readout.parameters()]
    wanted = torch.autograd.grad(by_hand, parameters)
    found = torch.autograd.grad(level_loss(stack, inputs, labels, 1, weight=3.0), parameters)
    for ours, theirs in zip(found, wanted, strict=True):
        assert_close(ours, theirs)


def test_the_whole_model_has_gradients_in_all_blocks_and_in_the_inputs():
    stack, (inputs, _) = build(), draw()
    stack(inputs.requires_grad_()).sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in stack.parameters())
    assert inputs.grad.norm() > 0
    assert_close(stack(inputs), stack(inputs, level=2))
    assert_close(stack(inputs, -3), stack.readout(stack.blocks[0](inputs)))


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, 0.1),
    ],
)
def test_a_step_leaves_frozen_blocks_as_they_are_with_momentum_and_decay_too(make):
    stack, (inputs, labels) = build(), draw()
    optimizer = make(stack.parameters())
    train_levels(stack, inputs, labels, optimizer)  # gives every parameter momentum
    optimizer.zero_grad()
    level_loss(stack, inputs, labels, 1).backward()
    before = copy.deepcopy(stack.state_dict())
    optimizer.step()
    for name, value in stack.state_dict().items():
        moved = name.startswith(("blocks.1.", "readout."))
        assert torch.equal(value, before[name]) != moved, name


def test_training_takes_a_step_for_each_level_from_coarse_to_fine():
    stack, other, (inputs, labels) = build(), build(), draw()
    optimizer = torch.optim.Adam(stack.parameters(), 0.01)
    found = train_levels(stack, inputs, labels, optimizer, weights=[0.0, 1.0, 10.0])
    rival = torch.optim.Adam(other.parameters(), 0.01)
    for level, weight in enumerate([0.0, 1.0, 10.0]):
        loss = level_loss(other, inputs, labels, level, weight=weight)
        assert_close(loss.item(), found[level])
        rival.zero_grad()
        loss.backward()
        rival.step()
    assert_close(stack.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_the_readout_is_trained_by_every_level_and_stored_once():
    stack, (inputs, labels) = build(), draw()
    for level in range(3):
        stack.zero_grad()
        level_loss(stack, inputs, labels, level).backward()
        assert stack.readout.weight.grad.norm() > 0
    assert sum(name.startswith("readout") for name in stack.state_dict()) == 2
    assert len(list(stack.parameters())) == 3 * 2 + 2


def test_a_state_goes_into_another_stack():
    stack, other, (inputs, _) = build(0), build(1), draw()
    assert not torch.equal(stack(inputs), other(inputs))
    other.load_state_dict(stack.state_dict())
    for level in range(3):
        assert torch.equal(stack(inputs, level), other(inputs, level))


@pytest.mark.parametrize("seed", [0, 1])
def test_isometric_levels_keep_what_finer_levels_need(seed):
    """Quarters of a square, its halves first: a block of cross-entropy alone forgets the height."""
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(seed))
    side, height = (points > 0.5).long().T
    labels = torch.stack([side, 2 * side + height], dim=1)
    right = {}
    for weight in (0.0, 10.0):
        torch.manual_seed(seed)
        blocks = [
            nn.Sequential(*chain.from_iterable((nn.Linear(a, 10), nn.Tanh()) for a in widths))
            for widths in ((2, 10, 10, 10), (10, 10, 10, 10))
        ]
        stack = LocallyIsometricStack(blocks, nn.Linear(10, 4))
        optimizer = torch.optim.Adam(stack.parameters(), 0.01)
        for _ in range(150):
            train_levels(stack, points, labels, optimizer, weights=weight)
        found = torch.stack([stack(points, level).argmax(1) for level in range(2)], dim=1)
        right[weight] = (found == labels).double().mean(0)
    assert (right[10.0] > 0.95).all()
    assert right[0.0][0] > 0.95  # the halves themselves
    assert right[0.0][1] < 0.65


def test_maps_enter_the_first_block_and_half_precision_the_loss():
    blocks = [nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh()), nn.Linear(6, 6)]
    stack = LocallyIsometricStack(blocks, nn.Linear(6, 5))
    inputs, labels = torch.rand(10, 2, 2, 2), TABLE[torch.arange(10) % 5][:, :2]
    with torch.autocast("cpu", torch.bfloat16):
        second, first = (level_loss(stack, inputs, labels, level) for level in (1, 0))
    (first + second).backward()
    assert first.dtype == torch.float32
    # The frozen pass of the second level took no gradient from the first.
    assert all(parameter.grad.norm() > 0 for parameter in stack.parameters())


def test_derivatives_match_finite_differences_twice():
    stack, (inputs, labels) = build(), draw(count=8)
    names = ["blocks.1.0.weight", "readout.weight"]
    values = [stack.get_parameter(name).detach().requires_grad_() for name in names]

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = stack

        def forward(self):
            return level_loss(self.stack, inputs, labels, 1)

    def loss(*values):
        swapped = {f"stack.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Loss(), swapped, ())

    assert gradcheck(loss, values)
    assert gradgradcheck(loss, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_follow_the_inputs_also_without_rows_or_labels(dtype, device):
    stack, (inputs, labels) = build().to(device, dtype), draw()
    inputs, labels = inputs.to(device, dtype), labels.to(device)
    for rows, own in ((inputs, labels), (inputs[:0], labels[:0]), (inputs, labels * 0 - 1)):
        loss = level_loss(stack, rows, own, 2)
        assert (loss.dtype, loss.device.type, loss.shape) == (dtype, device.type, ())
        assert loss.isfinite()


def test_refuses_what_it_cannot_use():
    stack, (inputs, labels) = build(), draw()
    optimizer = torch.optim.SGD(stack.parameters(), 0.1)
    with pytest.raises(ValueError, match="`blocks` must hold one module for each level, got none"):
        LocallyIsometricStack([], nn.Linear(6, 5))
    for level in (3, -4):
        with pytest.raises(ValueError, match=f"`level` must be from 0 to 2.*, got {level}: there"):
            stack(inputs, level)
        with pytest.raises(ValueError, match=f"`level` must be from 0 to 2.*, got {level}: there"):
            level_loss(stack, inputs, labels, level)
    narrow = LocallyIsometricStack([nn.Linear(3, 6), nn.Linear(6, 4)], nn.Linear(6, 5)).double()
    with pytest.raises(ValueError, match=r"read-out, 6, got shape \(20, 4\) from the block of lev"):
        narrow(inputs)
    for wrong, message in (
        (labels[:, 0], r"20 inputs and one column for each of 3 levels, got shape \(20,\): stack"),
        (labels[:, :2], r"got shape \(20, 2\): stack them along the second axis"),
        (labels + 3, "below the read-out's 5 classes, got 7 in level 2: number the classes"),
    ):
        with pytest.raises(ValueError, match=message):
            level_loss(stack, inputs, wrong, 2)
    with pytest.raises(TypeError, match=r"a tensor of class numbers, got torch\.float64"):
        level_loss(stack, inputs, labels.double(), 0)
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="`weight` must not be negative, got"):
            level_loss(stack, inputs, labels, 0, weight=weight)
    with pytest.raises(ValueError, match="one number, or one for each of 3 levels, got 2: coars"):
        train_levels(stack, inputs, labels, optimizer, weights=[1.0, 2.0])

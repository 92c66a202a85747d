"""Mirrors weft.lab.pretrain."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weft.lab.augment import Jitter
from weft.lab.pretrain import contrastive_loss, pretrain


def features(seed, count=6, width=4):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def test_the_loss_is_the_published_sum_over_pairs():
    first, second = features(0), features(1)
    views = F.normalize(torch.cat([first, second]), dim=1)
    total = 0.0
    for i in range(12):
        similar = (views @ views[i] / 0.5).exp()
        total -= (similar[(i + 6) % 12] / (similar.sum() - similar[i])).log()
    torch.testing.assert_close(contrastive_loss(first, second, temperature=0.5), total / 12)


def test_the_loss_has_the_gradient_of_its_finite_differences():
    inputs = features(0).requires_grad_(), features(1).requires_grad_()
    assert torch.autograd.gradcheck(contrastive_loss, inputs)


def test_the_loss_does_not_see_the_length_of_features():
    first, second = features(0), features(1)
    scale = torch.rand(6, 1, generator=torch.Generator().manual_seed(2)).double() + 0.1
    torch.testing.assert_close(
        contrastive_loss(first * scale, second), contrastive_loss(first, second)
    )


def test_pretraining_brings_views_of_one_sample_together_and_repeats_itself():
    inputs = features(3, 64, 8).float()

    def run():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        losses = []
        generator = torch.Generator().manual_seed(0)
        pretrain(
            backbone,
            inputs,
            Jitter(strength=0.1),
            generator,
            steps=60,
            batch_size=32,
            on_step=lambda samples, loss: losses.append(loss),
        )
        return losses

    losses = run()
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert run() == losses


def test_a_single_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples to tell apart, got 1"):
        pretrain(
            nn.Linear(2, 2), torch.zeros(1, 2), Jitter(strength=0.1), torch.Generator(), steps=1
        )


def test_near_inputs_stand_in_for_half_of_the_second_views():
    inputs = torch.cat([torch.zeros(4, 2), torch.ones(4, 2) * 9]) + features(4, 8, 2).float() / 10
    seen = []

    def remember(rows, generator):
        seen.append(rows)
        return rows

    backbone = nn.Linear(2, 2)
    generator = torch.Generator().manual_seed(0)
    pretrain(backbone, inputs, remember, generator, steps=50, batch_size=8, neighbors=2)
    first, second = (
        torch.cat(part) for part in zip(*(rows.chunk(2) for rows in seen), strict=True)
    )
    same = (first == second).all(1).double().mean()
    assert 0.4 < same < 0.6
    assert ((first - second).norm(dim=1) < 3).all()  # never from the other cluster

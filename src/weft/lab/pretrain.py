"""Pretrain a backbone without labels: two random views of one sample shall have like features.

What a graph head needs from its features is that near means alike. That can be learned from the
unlabelled samples alone, and on few labels it is worth more than any other ingredient.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from weft.graph import ExactNeighbors


def contrastive_loss(
    first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], *, temperature: float = 0.2
) -> Float[Tensor, ""]:
    """Return the cross-entropy of finding each sample's other view among all other views.

    Args:
        first: features of one view of each sample, of any length.
        second: features of the other view, row by row of the same samples.
        temperature: divides cosine similarities; lower looks at the nearest rivals only.

    Source: NT-Xent, Chen et al., SimCLR, ICML 2020, equation 1; without a projection head, since
        the head compares these very features.
    """
    features = F.normalize(torch.cat([first, second]), dim=1)
    similar = features @ features.T / temperature
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    partner = torch.arange(len(features), device=features.device).roll(len(first))
    return F.cross_entropy(similar.masked_fill(itself, -torch.inf), partner)


def pretrain(
    backbone: nn.Module,
    inputs: Float[Tensor, "n *shape"],
    augment: Callable[[Tensor, Generator], Tensor],
    generator: Generator,
    *,
    steps: int,
    neighbors: int = 0,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    on_step: Callable[[int, float], None] = lambda samples, loss: None,
) -> None:
    """Train a backbone in place on pairs of augmented views, by AdamW on a one-cycle schedule.

    Args:
        backbone: inputs to features.
        inputs: samples, labelled or not; labels are not asked for.
        augment: makes a random view of each sample.
        generator: of batches and views.
        steps: optimizer steps.
        neighbors: above zero, half of the second views are made from one of the sample's so many
            nearest inputs: what the raw graph knows goes into the features.
        batch_size: samples per step; each is seen in two views.
        learning_rate: peak of the schedule.
        on_step: told the number of samples and the loss of each step.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(inputs) < 2:
        raise ValueError(
            f"`inputs` must hold at least 2 samples to tell apart, got {len(inputs)}: add samples."
        )
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=steps, cycle_momentum=False
    )
    near = _nearest(inputs, neighbors)
    backbone.train()
    for _ in range(steps):
        rows = torch.randperm(len(inputs), generator=generator)[:batch_size]
        others = near[rows, torch.randint(near.shape[1], rows.shape, generator=generator)]
        views = augment(inputs[torch.cat([rows, others]).to(inputs.device)], generator)
        loss = contrastive_loss(*backbone(views).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step(len(rows), loss.item())


def _nearest(inputs: Tensor, count: int) -> Int[Tensor, "n m"]:
    """Return whom a second view is drawn from: half of the time itself, else a near input."""
    itself = torch.arange(len(inputs))[:, None]
    if not count:
        return itself
    count = min(count, len(inputs) - 1)
    return torch.cat(
        [itself.expand(-1, count), ExactNeighbors()(inputs.flatten(1), count).cpu()], 1
    )

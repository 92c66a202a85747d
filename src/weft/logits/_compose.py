"""What a perturbation is, how several make one, and what one does to each class."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Perturbation(Protocol):
    """Maps the logits of a training batch to the logits that the loss sees.

    Any loss follows: `F.cross_entropy(perturbation(logits, targets), targets)`. Predictions,
    validation and metrics use the logits as they are. Those of this room are modules that hold
    their statistics; any function of the two tensors will do.
    """

    def __call__(
        self,
        logits: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
        /,
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits."""
        ...


class Compose(nn.Module):
    """One perturbation after the other: each sees the logits that those before it perturbed.

    `Compose(LogitAdjustment(stats), LPL(stats))` learns its shifts on adjusted logits, as in
    equation 15 of Li, Su, Wu, Zhang.
    """

    def __init__(self, *perturbations: Perturbation) -> None:
        super().__init__()
        self.perturbations = perturbations
        for place, perturbation in enumerate(perturbations):
            if isinstance(perturbation, nn.Module):  # for its state and device
                self.add_module(str(place), perturbation)

    def forward(
        self,
        logits: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    ) -> Float[Tensor, "n c"]:
        """Return the logits after the last perturbation."""
        for perturbation in self.perturbations:
            logits = perturbation(logits, targets)
        return logits


@torch.no_grad()
def loss_variation(
    perturbation: Perturbation,
    logits: Float[Tensor, "n c"],
    targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    *,
    loss: Callable[..., Tensor] = F.cross_entropy,
) -> Float[Tensor, " c"]:
    """Return by how much a perturbation raises each class's loss, relative to that loss.

    Above zero for classes that it pushes up, below zero for those that it pushes down.

    Args:
        perturbation: what is judged; one that draws random numbers or keeps moving averages does
            so here too.
        logits: of a batch, or of the whole training set.
        targets: class ids, or rows of labels for a loss with one value per label.
        loss: takes logits, targets and `reduction="none"`; gives one value per sample, or one per
            sample and label, such as `F.binary_cross_entropy_with_logits`.

    Returns:
        (l' - l) / l of each class; NaN where a class is absent or has no loss.
    """
    before = loss(logits, targets, reduction="none")
    after = loss(perturbation(logits, targets), targets, reduction="none")
    both = torch.stack([before, after.to(before.dtype)])
    if both.ndim == 3:  # a value per label
        before, after = both.sum(1)
    elif targets.ndim == 2:  # one per sample, which belongs to classes by its shares
        before, after = both @ targets.to(both.dtype)
    else:
        before, after = both.new_zeros(2, logits.shape[1]).index_add_(1, targets, both)
    return (after - before) / before

"""Which labelled samples to carry along in every batch: the base set of the paper."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def choose_anchors(
    labels: Int[Tensor, " n"],
    per_class: int,
    *,
    difficulty: Float[Tensor, " n"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " m"]:
    """Choose up to `per_class` samples of each class.

    Args:
        labels: class numbers; negative ones are never chosen.
        per_class: samples per class; a smaller class gives all it has.
        difficulty: a score per sample, such as its last loss or entropy: the highest of each
            class are taken, as the paper's code does. Without it, the choice is random.
        generator: draws the random choice, and breaks ties of `difficulty`; by default torch's
            global one.

    Returns:
        Indices of the chosen samples, ordered by class.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"`labels` must be class numbers of shape (n,), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}: flatten or cast them."
        )
    if per_class < 1:
        raise ValueError(f"`per_class` must be at least 1, got {per_class}.")
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    if difficulty is not None:
        if difficulty.shape != labels.shape:
            raise ValueError(
                f"`difficulty` must have one entry per label, shape {tuple(labels.shape)}, "
                f"got {tuple(difficulty.shape)}."
            )
        order = order[difficulty[order].argsort(descending=True, stable=True)]
    # Sorted by class, each class still in the order above; then the first few of each.
    order = order[labels[order] >= 0]
    order = order[labels[order].argsort(stable=True)]
    _, counts = labels[order].unique_consecutive(return_counts=True)
    start = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(len(order), device=order.device) - start
    return order[rank < per_class]

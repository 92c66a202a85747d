"""The ranking losses that a recipe may name. Importing this module does not import torch."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

RankingName = Literal["none", "recall", "average_precision"]


def build_ranking(
    name: RankingName, weight: float, backbone: "nn.Module"
) -> "Callable[[Tensor], Tensor | float]":
    """Return what to add to the loss of a step, given labels of all rows that the backbone saw.

    Rows with a negative label take no part. The ranking is differentiated as a negative identity,
    and is flat where an item stands right.
    """
    if name == "none":
        return lambda labels: 0.0
    from weft.discrete import average_precision_loss, recall_loss, retrieval_loss

    loss = {"recall": recall_loss, "average_precision": average_precision_loss}[name]
    last: dict[str, Any] = {}
    backbone.register_forward_hook(lambda module, args, output: last.update(features=output))
    return lambda labels: (
        weight * retrieval_loss(last.pop("features"), labels, loss=partial(loss, flat=True))
    )

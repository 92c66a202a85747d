"""Ranked lists as a loss on features: each labelled row asks for the others of its class.

The neighbours of a row are what a graph is made of, and here they are what is trained.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from weft._check import at_least_float32, check_finite, check_floating
from weft.discrete._layer import solve_discrete
from weft.discrete._losses import recall_loss
from weft.discrete._problem import Rule, SolverLog
from weft.discrete._rules import Identity
from weft.discrete._solvers.selection import Ranking

RankLoss = Callable[[Float[Tensor, "q n"], Bool[Tensor, "q n"]], Float[Tensor, " q"]]
"""Takes ranks from 1 and which items are relevant, and returns a loss per list."""

_RECALL, _IDENTITY = partial(recall_loss, flat=True), Identity()


def retrieval_loss(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    loss: RankLoss = _RECALL,
    rule: Rule = _IDENTITY,
    log: SolverLog | None = None,
) -> Float[Tensor, ""]:
    """Rank all other rows by their cosine to each row; those of its class should come first.

    The length of features does not count, nor does their order. Differentiable once in `features`,
    by the rule. Half precision is computed in float32.

    Args:
        features: one row per sample; a row of zeros is as near to all as to none.
        labels: classes; rows with a negative label neither ask nor are asked for.
        loss: of ranks and relevance, such as `average_precision_loss`. By default the recall loss,
            flat where an item stands right, which `Identity` wants.
        rule: how ranks are differentiated.
        log: counts the calls of the solver: one.

    Returns:
        The mean over rows that share their class with another; zero where there are none.

    Raises:
        TypeError: features are not floating point, or labels are no integers.
        ValueError: shapes that do not fit, NaN or infinite features.

    Source: Rolinek et al., CVPR 2020; with `Identity`, Sahoo et al., arXiv 2205.15213, section 4.3.
    """
    check_floating("features", features, "n d")
    check_finite("features", features.detach())
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"`labels` must be integers, got {labels.dtype}: give class numbers.")
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"`labels` must have shape ({len(features)},), got {tuple(labels.shape)}: "
            "one per row of `features`, -1 where there is none."
        )
    rows = labels >= 0
    labels = labels[rows]
    same = _without_diagonal(labels[:, None] == labels)
    asking = same.any(1)
    if not asking.any():
        return (0 * features).sum()
    with torch.autocast(features.device.type, enabled=False):
        directions = normalize(at_least_float32(features)[rows])
        cosines = _without_diagonal(directions @ directions.T)[asking]
        ranks = solve_discrete(cosines, Ranking(), rule, log=log)
        return loss(ranks, same[asking]).mean()


def _without_diagonal(square: Tensor) -> Tensor:
    """Turn (n, n) into (n, n - 1)."""
    n = len(square)
    others = ~torch.eye(n, dtype=torch.bool, device=square.device)
    return square[others].view(n, max(0, n - 1))

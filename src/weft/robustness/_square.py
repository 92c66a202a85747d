"""An attack that only asks: random squares, kept where they help. It needs no gradient."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.robustness._ball import LInf, as_rows, draw_uniform
from weft.robustness._gradient import check_count
from weft.robustness._losses import Loss, margin, name_of
from weft.robustness._search import Search

_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)  # of the side's area, of 10,000 queries


@dataclass(frozen=True)
class Square:
    """Random search with squares at the ball's corners, ever smaller.

    What it finds and gradients miss is a sign of masking. Rows that depend on each other are all
    given a square; rows whose own loss rose keep it, and the glued batch is asked about before
    it counts.

    Args:
        queries: proposals; rows that depend on each other take two calls for each.
        share: of the image that the first square covers.
        loss: what to climb.

    Source: Andriushchenko, Croce, Flammarion, Hein, ECCV 2020, the L-infinity version. Images of
        one axis are given stretches instead of squares; glued batches are ours.
    """

    queries: int = 1000
    share: float = 0.8
    loss: Loss = margin

    def __post_init__(self) -> None:
        check_count("queries", self.queries)
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` must lie in (0, 1], got {self.share}.")

    def __str__(self) -> str:
        return f"Square-{self.queries} ({name_of(self.loss)})"

    def __call__(self, search: Search) -> None:
        """Propose, ask, keep."""
        if not isinstance(search.ball, LInf):
            raise ValueError(
                f"`ball` must be an L-infinity ball for Square, got {search.ball}: give "
                "LInf(epsilon), or attack in L2 with CarliniWagner()."
            )
        clean, scene = search.clean, search.scene
        glued = not scene.independent and len(clean) == len(scene.labels)
        points = search.project(clean + search.ball.epsilon * _stripes(clean, search.generator))
        losses = search.value(points, self.loss)
        for query in range(self.queries):
            if search.finished:
                return
            proposed = self._propose(points, search, self._share(query))
            found = search.value(proposed, self.loss)
            if glued:
                mixed = torch.where(as_rows(found > losses, points), proposed, points)
                candidates = [(proposed, found), (mixed, search.value(mixed, self.loss))]
                proposed, found = max(candidates, key=lambda one: one[1].mean().item())
            better = scene.group(found) > scene.group(losses)
            points = scene.choose(better, proposed, points)
            losses = torch.where(better, found, losses)

    def _share(self, query: int) -> float:
        scaled = query / self.queries * 10_000
        return self.share / 2 ** sum(scaled > at for at in _HALVINGS)

    def _propose(self, points: Tensor, search: Search, share: float) -> Tensor:
        """Put one square of pixels of each row to a corner of its ball, channel by channel."""
        height, width = _sides(points)
        tall = 1 if height == 1 else max(1, round(math.sqrt(share * height * width)))
        wide = max(1, round(share * width)) if height == 1 else tall
        tall, wide = min(tall, height), min(wide, width)
        images = points.reshape(len(points), -1, height, width)
        places = draw_uniform(images[:, 0, 0, :1].expand(-1, 2), search.generator)
        top = (places[:, :1] * (height - tall + 1)).long()
        left = (places[:, 1:] * (width - wide + 1)).long()
        row = torch.arange(height, device=points.device)
        column = torch.arange(width, device=points.device)
        inside = ((row >= top) & (row < top + tall))[:, :, None]
        inside = inside & ((column >= left) & (column < left + wide))[:, None]
        corner = _signs(images[:, :, :1, :1], search.generator) * search.ball.epsilon
        moved = search.clean.reshape(images.shape) + corner
        changed = torch.where(inside[:, None], moved, images)
        return search.project(changed.reshape(points.shape))


def _sides(points: Tensor) -> tuple[int, int]:
    """Height and width of the images, 1 and the length for rows of one axis."""
    return (1, points.shape[-1]) if points.ndim == 2 else (points.shape[-2], points.shape[-1])


def _stripes(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Draw +-1 for every column of every channel: where the search begins."""
    images = clean.reshape(len(clean), -1, *_sides(clean))
    return _signs(images[:, :, :1], generator).expand(images.shape).reshape(clean.shape)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return 2 * (draw_uniform(like, generator) < 0.5).to(like.dtype) - 1

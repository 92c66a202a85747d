"""The smallest change in the Euclidean norm that turns a prediction."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.robustness._ball import L2
from weft.robustness._gradient import check_count
from weft.robustness._losses import margin
from weft.robustness._search import Search


@dataclass(frozen=True)
class CarliniWagner:
    """Trade the squared distance against the margin, and search the rate of exchange.

        |x' - x|^2 + c max(z_y - max_{j != y} z_j, -confidence),   x' = (tanh w + 1) / 2

    By Adam in w; c rises where no row was turned and falls where one was. With `L2(math.inf)` the
    result is the smallest change found, with a finite ball the iterates are clipped to it.

    Args:
        steps: gradients for each c.
        searches: values of c.
        learning_rate: of Adam.
        initial: the first c.
        confidence: margin that a turned row should have, in logits.

    Source: Carlini, Wagner, S&P 2017, section VI.A. Clipping to a ball is ours.
    """

    steps: int = 200
    searches: int = 6
    learning_rate: float = 0.01
    initial: float = 0.01
    confidence: float = 0.0

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("searches", self.searches)
        for name in ("learning_rate", "initial"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")

    def __str__(self) -> str:
        return f"CW-L2 {self.searches} x {self.steps}"

    def __call__(self, search: Search) -> None:
        """Search the rates; every iterate is offered."""
        if not isinstance(search.ball, L2):
            raise ValueError(
                f"`ball` must be an L2 ball for CarliniWagner, got {search.ball}: "
                "give L2(epsilon), or L2(math.inf) for the smallest change."
            )
        counted, moving = len(search.scene.labels), len(search.clean)
        # A rate for every row, or one for all where rows that move are not those that count.
        rate = search.clean.new_full((counted if counted == moving else 1,), self.initial)
        low, high = torch.zeros_like(rate), torch.full_like(rate, math.inf)
        for _ in range(self.searches):
            turned = self._descend(search, rate)
            turned = turned if len(turned) == len(rate) else turned.all(0, keepdim=True)
            low, high = torch.where(turned, low, rate), torch.where(turned, rate, high)
            rate = torch.where(high < math.inf, (low + high) / 2, 10 * rate)
            if search.finished:
                return

    def _descend(self, search: Search, rate: Tensor) -> Tensor:
        """Return which rows were turned on the way, at these rates of exchange."""

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return rate * margin(logits, labels).clamp(max=self.confidence)

        clean = search.clean
        w = torch.atanh((2 * clean - 1) * (1 - 1e-6))  # the box's faces lie at infinity
        adam = torch.optim.Adam([w], lr=self.learning_rate)
        turned = torch.zeros(len(search.scene.labels), dtype=torch.bool, device=clean.device)
        for _ in range(self.steps):
            points = search.project((w.tanh() + 1) / 2)
            losses, gradient = search.gradient(points, loss)
            turned |= losses >= rate * self.confidence
            slope = (1 - w.tanh().square()) / 2
            w.grad = slope * (2 * (points - clean) - gradient)
            adam.step()
        return turned

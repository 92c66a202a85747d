"""Attacks that follow the gradient: one step, many steps, and steps that find their own length."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from weft.robustness._ball import as_rows
from weft.robustness._losses import Loss, cross_entropy, margin, name_of
from weft.robustness._search import Predict, Search


class Method(Protocol):
    """How to attack: a frozen object, called with a `Search`, which keeps the best points.

    Its string is its name in results.
    """

    def __call__(self, search: Search) -> None:
        """Ask the search about points; what it keeps is the result."""
        ...


@dataclass(frozen=True)
class FGSM:
    """One step of full length along the gradient of the loss: the weakest attack worth a row.

    For a linear model it is the best there is.

    Args:
        loss: what to climb.
        surrogate: the model whose gradient is followed, if not the one under attack.

    Source: Goodfellow, Shlens, Szegedy, ICLR 2015.
    """

    loss: Loss = cross_entropy
    surrogate: Predict | None = None

    def __str__(self) -> str:
        return _name("FGSM", self.loss, self.surrogate)

    def __call__(self, search: Search) -> None:
        """Take the step."""
        _, gradient = search.gradient(search.clean, self.loss, self.surrogate)
        step = search.ball.epsilon * search.ball.ascent(gradient)
        search.offer(search.project(search.clean + step))


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent with steps of one length; IFGSM with `random_start=False`.

    Args:
        steps: gradients per restart.
        step_size: length of a step as a share of epsilon; by default 2.5 / steps, which can cross
            the ball even if it turns once.
        restarts: how often to begin anew, from other random points.
        random_start: begin at a random point of the ball; otherwise at the clean input.
        loss: what to climb.
        surrogate: the model whose gradient is followed, if not the one under attack.

    Source: Madry et al., ICLR 2018; IFGSM: Kurakin, Goodfellow, Bengio, ICLR 2017.
    """

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: Loss = margin
    surrogate: Predict | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("restarts", self.restarts)
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"`step_size` must be positive, got {self.step_size}.")

    def __str__(self) -> str:
        times = f" x {self.restarts}" if self.restarts > 1 else ""
        kind = "PGD" if self.random_start else "IFGSM"
        return _name(f"{kind}-{self.steps}{times}", self.loss, self.surrogate)

    def __call__(self, search: Search) -> None:
        """Climb from each start."""
        length = search.ball.epsilon * (self.step_size or 2.5 / self.steps)
        for _ in range(self.restarts):
            points = search.start() if self.random_start else search.clean
            for _ in range(self.steps):
                if search.finished:
                    return
                _, gradient = search.gradient(points, self.loss, self.surrogate)
                points = search.project(points + length * search.ball.ascent(gradient))
            search.offer(points)


@dataclass(frozen=True)
class APGD:
    """Projected gradient ascent with momentum that halves its steps where they bring no more.

    The step begins at 2 epsilon. At checkpoints, ever closer to each other, it is halved if too few
    steps since the last one raised the loss, or if neither it nor the best loss has changed
    there; the climb then goes on from the best point. Rows that depend on each other have one
    step length together.

    Args:
        steps: gradients per restart.
        restarts: how often to begin anew, from other random points.
        loss: what to climb.
        surrogate: the model whose gradient is followed, if not the one under attack.

    Source: Croce, Hein, ICML 2020, algorithm 1, with its constants: momentum 0.75, share of
        rising steps 0.75, checkpoints at 0, 0.22, ... of the steps. There is no momentum across a
        return to the best point, on which the paper is silent.
    """

    steps: int = 100
    restarts: int = 1
    loss: Loss = margin
    surrogate: Predict | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("restarts", self.restarts)

    def __str__(self) -> str:
        times = f" x {self.restarts}" if self.restarts > 1 else ""
        return _name(f"APGD-{self.steps}{times}", self.loss, self.surrogate)

    def __call__(self, search: Search) -> None:
        """Climb from each start."""
        for _ in range(self.restarts):
            self._climb(search, search.start())

    def _climb(self, search: Search, points: Tensor) -> None:
        choose, group = search.scene.choose, search.scene.group
        checkpoints = _checkpoints(self.steps)
        losses, gradient = search.gradient(points, self.loss, self.surrogate)
        value = group(losses)
        best, best_value, best_gradient = points, value, gradient
        length = torch.full_like(value, 2 * search.ball.epsilon)
        rises = torch.zeros_like(value)  # since the last checkpoint
        halved = torch.ones_like(value, dtype=torch.bool)  # at the last one; never at the first
        noted, last = best_value, 0
        before = points
        for step in range(1, self.steps):
            if search.finished:
                return
            ascent = search.ball.ascent(gradient)
            target = search.project(points + as_rows(length, points) * ascent)
            share = 0.75 if step > 1 else 1.0  # no momentum yet
            following = points + share * (target - points) + (1 - share) * (points - before)
            before, points = points, search.project(following)
            losses, gradient = search.gradient(points, self.loss, self.surrogate)
            previous, value = value, group(losses)
            rises = rises + (value > previous)
            better = value > best_value
            best = choose(better, points, best)
            best_gradient = choose(better, gradient, best_gradient)
            best_value = torch.where(better, value, best_value)
            if step in checkpoints:
                few = rises < 0.75 * (step - last)
                stuck = ~halved & (best_value <= noted)
                halved = few | stuck
                length = torch.where(halved, length / 2, length)
                points = choose(halved, best, points)
                before = choose(halved, best, before)
                gradient = choose(halved, best_gradient, gradient)
                value = torch.where(halved, best_value, value)
                rises, noted, last = torch.zeros_like(rises), best_value, step


def _checkpoints(steps: int) -> set[int]:
    """Where a climb of so many steps looks back: shares of it, 0.03 closer each time."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # Rounded first: 0.22 + 0.19 + 0.16 is 0.57 and a little more.
    return {math.ceil(round(share * steps, 9)) for share in shares[1:]}


def check_count(name: str, count: int) -> None:
    """Refuse a number of steps or restarts below one."""
    if count < 1:
        raise ValueError(f"`{name}` must be 1 or more, got {count}.")


def _name(kind: str, loss: Loss, surrogate: Predict | None) -> str:
    of = "" if surrogate is None else ", surrogate"
    return f"{kind} ({name_of(loss)}{of})"

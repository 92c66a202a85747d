"""How the margin changes along the gradient, and along a random direction: the loss landscape."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.robustness._attack import Threat
from weft.robustness._ball import Ball, draw_uniform
from weft.robustness._losses import Loss, cross_entropy, margin
from weft.robustness._search import Predict, Scene, Search, UnderAttack

FIRST = 0.1  # of the radius: near enough that a gradient should know the way


@dataclass(frozen=True, eq=False)
class Landscape:
    """Margins along two lines through the clean inputs.

    Args:
        steps: distances from the clean inputs, as shares of the radius; from 0 to 1.
        along: margins (largest wrong logit minus the label's) of each counted row, after a step
            along the gradient of the loss.
        aside: the same along random signs.
        zero: share of rows whose gradient vanishes, at a random point of the ball.
        small: share of rows whose gradient is shorter than 1e-6 there.
    """

    steps: Float[Tensor, " s"]
    along: Float[Tensor, "s k"]
    aside: Float[Tensor, "s k"]
    zero: float
    small: float

    @property
    def led(self) -> float:
        """The share of rows for which a short step along the gradient beat a random one.

        About one half where the gradient says nothing.
        """
        first = int((self.steps - FIRST).abs().argmin())
        return (self.along[first] > self.aside[first]).double().mean().item()


def landscape(
    predict: Predict,
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, " n"],
    *,
    ball: Ball,
    threat: Threat,
    loss: Loss = cross_entropy,
    steps: int = 20,
    generator: torch.Generator | None = None,
) -> Landscape:
    """Walk from the clean inputs along the gradient, and along random signs.

    In a smooth landscape the first short step along the gradient raises the margin of almost every
    row more than a random one does. Jumps on the way are where neighbours change places.

    Args:
        predict: the model, in evaluation mode.
        inputs: pixels in [0, 1].
        labels: their classes.
        ball: how far to walk.
        threat: who moves; all rows of a scene walk together.
        loss: whose gradient leads.
        steps: points on each line beside the clean one; a multiple of 10.
        generator: for random signs; by default a new one with seed 0.
    """
    if steps < 10 or steps % 10:
        raise ValueError(f"`steps` must be a multiple of 10, got {steps}.")
    generator = generator or torch.Generator().manual_seed(0)
    scenes = threat.scenes(inputs.detach(), labels, generator)
    shares = torch.linspace(0, 1, steps + 1, dtype=inputs.dtype)
    parts = [_of_scene(predict, scene, ball, loss, shares, generator) for scene in scenes]
    norms = torch.cat([part[2] for part in parts])
    return Landscape(
        steps=shares,
        along=torch.cat([part[0] for part in parts], dim=1),
        aside=torch.cat([part[1] for part in parts], dim=1),
        zero=(norms < 1e-12).double().mean().item(),
        small=(norms < 1e-6).double().mean().item(),
    )


def _of_scene(
    predict: Predict,
    scene: Scene,
    ball: Ball,
    loss: Loss,
    shares: Tensor,
    generator: torch.Generator,
) -> Sequence[Tensor]:
    """Return margins along and aside, and the norms of gradients at a random point."""
    search = Search(UnderAttack(predict), scene, ball, generator)
    _, gradient = search.gradient(scene.clean, loss)
    _, there = search.gradient(search.start(), loss)
    random = 2 * draw_uniform(scene.clean, generator) - 1
    lines = [
        torch.stack(
            [
                search.value(search.project(scene.clean + share * ball.epsilon * way), margin)
                for share in shares.tolist()
            ]
        )
        for way in (ball.ascent(gradient), ball.ascent(random))
    ]
    return *lines, there.flatten(1).norm(dim=1)

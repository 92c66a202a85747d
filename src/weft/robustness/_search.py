"""One attack under way: what may move, what the model then says, and the best found so far.

A head that ties its batch together is judged on *batches*: gluing rows that were best in different
batches makes a batch that nobody ever saw, and that the model may well get right. So a scene says
which rows belong together, and whole scenes are kept or dropped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import check_finite
from weft.robustness._ball import Ball, as_rows
from weft.robustness._losses import Loss, margin

Predict = Callable[[Tensor], Tensor]
"""A model under attack: inputs (n, ...) to logits (n, classes); its rows may depend on each other.

It must be in evaluation mode, and answer the same question the same way each time.
"""

View = Callable[[Predict, Tensor], Tensor]
"""How a scene looks to a model: (model, moved rows) to outputs (views, k, classes)."""


class UnderAttack:
    """The model under attack, its calls counted and the shape of its answers checked."""

    def __init__(self, predict: Predict, calls: list[int] | None = None) -> None:
        self.predict, self._calls = predict, [0] if calls is None else calls

    @property
    def calls(self) -> int:
        """Forward passes so far."""
        return self._calls[0]

    def become(self, predict: Predict) -> "UnderAttack":
        """Return another model that counts into the same number, such as one with new anchors."""
        return UnderAttack(predict, self._calls)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Ask the model."""
        self._calls[0] += 1
        logits = self.predict(inputs)
        if logits.ndim != 2 or len(logits) != len(inputs):
            raise ValueError(
                f"`predict` must return one row of logits per input, ({len(inputs)}, classes), got "
                f"shape {tuple(logits.shape)}: wrap the model in a function that does."
            )
        return logits


@dataclass(frozen=True, eq=False)
class Scene:
    """One problem for the attacker: rows that move, and rows that count.

    Args:
        clean: the moving rows as they are without attack, in [0, 1].
        labels: the true classes of the rows that count.
        rows: which of the inputs given to `attack` those are.
        craft: what the attacker sees: outputs at the counted rows, in one view or in several
            (draws of the company) over which losses are averaged.
        judge: what is deployed, and decides about success. Where the attacker knows the batch, the
            same as `craft`.
        independent: no row's output depends on another row, so that each may be kept by itself.
            Moving and counted rows are then the same.
        least: climb the smallest loss of the views instead of their mean.
    """

    clean: Float[Tensor, "m *shape"]
    labels: Int[Tensor, " k"]
    rows: Int[Tensor, " k"]
    craft: View
    judge: View
    independent: bool = False
    least: bool = False

    def group(self, values: Float[Tensor, " k"]) -> Float[Tensor, " g"]:
        """Average over rows that stand and fall together: all of them, or none if independent."""
        return values if self.independent else values.mean(0, keepdim=True)

    def choose(
        self, which: Tensor, yes: Float[Tensor, "m *shape"], no: Float[Tensor, "m *shape"]
    ) -> Float[Tensor, "m *shape"]:
        """Take from `yes` the groups that `which` names, and from `no` all others."""
        return torch.where(as_rows(which, yes), yes, no)


class Search:
    """What a method is given: it asks for gradients and values, and the best answer is kept here.

    Every point that a method asks about, and that lies in the ball, is a candidate. Candidates are
    compared by the model under attack itself, whatever loss or surrogate led to them: more wrong
    rows first, then a larger mean margin, or where the ball has no bound a smaller distance. For
    independent rows each row keeps its own best; otherwise a whole scene is kept, and the
    accuracy noted is one that the model really had.

    Args:
        predict: the model under attack.
        scene: the problem.
        ball: how far rows may go.
        generator: for all that is random.
    """

    def __init__(
        self, predict: Predict, scene: Scene, ball: Ball, generator: torch.Generator
    ) -> None:
        self.predict, self.scene, self.ball, self.generator = predict, scene, ball, generator
        self.best = scene.clean
        outputs = self._outputs(predict, self.best)
        most = int(scene.labels.max())
        if outputs.shape[2] < max(2, most + 1):
            raise ValueError(
                f"`labels` must be below the number of classes, {outputs.shape[2]} of 2 or more, "
                f"got {most}: does the model predict these labels?"
            )
        self._wrong, self._margins, self._score = self._judge(self.best, outputs)

    @property
    def clean(self) -> Float[Tensor, "m *shape"]:
        """The moving rows without attack."""
        return self.scene.clean

    @property
    def wrong(self) -> Float[Tensor, " k"]:
        """The share of views in which each counted row is wrong, at the best points."""
        return self._wrong

    @property
    def margins(self) -> Float[Tensor, " k"]:
        """The largest wrong logit minus the label's, mean over views, at the best points."""
        return self._margins

    @property
    def finished(self) -> bool:
        """Whether nothing is left to find: every row wrong in every view, as deployed."""
        known = self.scene.craft is self.scene.judge and self.ball.epsilon < math.inf
        return known and bool((self._wrong == 1).all())

    def gradient(
        self, points: Float[Tensor, "m *shape"], loss: Loss, surrogate: Predict | None = None
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, "m *shape"]]:
        """Return each counted row's loss and the gradient of their sum in the moving rows.

        Args:
            points: inside ball and box.
            loss: what to climb.
            surrogate: the model that loss and gradient come from, instead of the one under attack:
                a head with another kernel or decay, a softmax twin, an encoder.

        Raises:
            ValueError: the gradient is not finite.
        """
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            outputs = self._outputs(surrogate or self.predict, leaf)
            losses = self._losses(outputs, loss)
            gradient = None
            if losses.requires_grad:
                (gradient,) = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "The model's logits must be differentiable in its inputs, got none that depend on "
                "them: take out no_grad, or attack with `Square()`, which needs no gradient."
            )
        check_finite("the gradient of the loss", gradient)
        if surrogate is None:
            self._offer(points, outputs.detach())
        else:
            self.offer(points)
        return losses.detach(), gradient

    @torch.no_grad()
    def value(
        self, points: Float[Tensor, "m *shape"], loss: Loss, surrogate: Predict | None = None
    ) -> Float[Tensor, " k"]:
        """Return the loss of each counted row, without gradient."""
        outputs = self._outputs(surrogate or self.predict, points)
        if surrogate is None:
            self._offer(points, outputs)
        else:
            self.offer(points)
        return self._losses(outputs, loss)

    @torch.no_grad()
    def offer(self, points: Float[Tensor, "m *shape"]) -> None:
        """Ask the model under attack about points, and keep those that are better."""
        self._offer(points, self._outputs(self.predict, points))

    def project(self, points: Float[Tensor, "m *shape"]) -> Float[Tensor, "m *shape"]:
        """Bring points into ball and box."""
        return self.ball.project(points, self.clean)

    def start(self) -> Float[Tensor, "m *shape"]:
        """Draw random points of ball and box."""
        return self.ball.sample(self.clean, self.generator)

    def _offer(self, points: Tensor, outputs: Tensor) -> None:
        wrong, margins, score = self._judge(points, outputs)
        better = (score[0] > self._score[0]) | (
            (score[0] == self._score[0]) & (score[1] > self._score[1])
        )
        self.best = self.scene.choose(better, points.detach(), self.best)
        self._wrong = torch.where(better, wrong, self._wrong)
        self._margins = torch.where(better, margins, self._margins)
        self._score = torch.where(better, score, self._score)

    def _judge(self, points: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wrong, margins = judge(outputs, self.scene.labels)
        second = margins
        if self.ball.epsilon == math.inf:
            second = -self.ball.distance(points, self.clean)
        return wrong, margins, torch.stack([self.scene.group(wrong), self.scene.group(second)])

    def _losses(self, outputs: Tensor, loss: Loss) -> Tensor:
        views = torch.stack([loss(view, self.scene.labels) for view in outputs])
        return views.amin(0) if self.scene.least else views.mean(0)

    def _outputs(self, model: Predict, points: Tensor) -> Tensor:
        return self.scene.craft(model, points)


def judge(
    outputs: Float[Tensor, "v k c"], labels: Int[Tensor, " k"]
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Return how often each row is wrong, and its mean margin, over the views.

    Raises:
        ValueError: NaN or infinite logits.
    """
    check_finite("logits", outputs.flatten(0, 1))
    wrong = (outputs.argmax(2) != labels).to(outputs.dtype).mean(0)
    return wrong, torch.stack([margin(view, labels) for view in outputs]).mean(0)

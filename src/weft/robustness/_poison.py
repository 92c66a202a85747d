"""Attacks on the labelled examples that a head leans on, its anchors: on images and on labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.robustness._attack import check_images, check_labels
from weft.robustness._gradient import check_count
from weft.robustness._search import Predict, Scene, UnderAttack, judge

WithAnchors = Callable[[Tensor, Tensor], Predict]
"""(anchor inputs, anchor labels) to the model that leans on them, differentiable in the inputs."""


@dataclass(frozen=True, eq=False)
class PoisonedAnchors:
    """The attacker moves the anchors' images; their labels and all queries stay clean.

    The anchors are one scene, and the ball is around each of them. The model given to `attack` is
    not asked: each set of anchors makes its own.

    Args:
        with_anchors: makes the model from anchors. For a graph classifier: a function that encodes
            anchors and queries in one pass, with gradient.
        anchor_inputs: pixels in [0, 1].
        anchor_labels: their classes, -1 for anchors without label.
        movable: how many anchors may move, drawn at random; `None`: all of them.
    """

    with_anchors: WithAnchors
    anchor_inputs: Float[Tensor, "m *shape"]
    anchor_labels: Int[Tensor, " m"]
    movable: int | None = None

    def __post_init__(self) -> None:
        _check_anchors(self.anchor_inputs, self.anchor_labels)
        if self.movable is not None:
            check_count("movable", self.movable)

    def __str__(self) -> str:
        total = len(self.anchor_labels)
        return f"poisoned anchors, images of {min(self.movable or total, total)} of {total}"

    def scenes(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Sequence[Scene]:
        """Return one scene: anchors move, all queries count."""
        anchors = self.anchor_inputs
        order = torch.randperm(len(anchors), generator=generator, device=generator.device)
        rows = order[: self.movable].sort().values.to(anchors.device)

        def view(model: Predict, moved: Tensor) -> Tensor:
            poisoned = anchors.index_copy(0, rows, moved)
            own = self.with_anchors(poisoned, self.anchor_labels)
            asked = model.become(own) if isinstance(model, UnderAttack) else own
            return asked(inputs)[None]

        every = torch.arange(len(inputs), device=inputs.device)
        return [Scene(anchors[rows], labels, every, view, view)]


@dataclass(frozen=True, eq=False)
class PoisonedLabels:
    """What flipping the labels of anchors did.

    Args:
        labels: the anchors' labels at the end.
        flipped: which anchors were flipped, in order.
        accuracy: of the model on the clean queries, after 0, 1, ... flips.
        calls: models asked.
    """

    labels: Int[Tensor, " m"]
    flipped: tuple[int, ...]
    accuracy: tuple[float, ...]
    calls: int


@torch.no_grad()
def poison_labels(
    with_anchors: WithAnchors,
    anchor_inputs: Float[Tensor, "m *shape"],
    anchor_labels: Int[Tensor, " m"],
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, " n"],
    *,
    flips: int,
    candidates: int = 50,
    generator: torch.Generator | None = None,
) -> PoisonedLabels:
    """Flip labels of anchors, one after the other, each the most harmful of those tried.

    Greedy, by asking the model alone: no bound on what a better search would find.

    Args:
        with_anchors: makes the model from anchors.
        anchor_inputs: pixels in [0, 1].
        anchor_labels: their classes, -1 for anchors without label, which stay so.
        inputs: clean queries, pixels in [0, 1].
        labels: their classes.
        flips: labels to flip.
        candidates: flips tried in each step, drawn at random from all that are left.
        generator: for the draw; by default a new one with seed 0.

    Raises:
        ValueError: more flips than labelled anchors, or fewer than two classes.
    """
    _check_anchors(anchor_inputs, anchor_labels)
    check_images("inputs", inputs)
    check_labels(inputs, labels)
    check_count("flips", flips)
    check_count("candidates", candidates)
    known = (anchor_labels >= 0).nonzero().squeeze(1)
    classes = anchor_labels[known].unique()
    if flips > len(known) or len(classes) < 2:
        raise ValueError(
            f"`flips` must be at most the number of labelled anchors, {len(known)} of "
            f"{len(classes)} classes, got {flips}: flip fewer, or give anchors of two classes."
        )
    generator = generator or torch.Generator().manual_seed(0)
    calls = 0

    def ask(tried: Tensor) -> tuple[float, float]:
        nonlocal calls
        calls += 1
        wrong, margins = judge(with_anchors(anchor_inputs, tried)(inputs)[None], labels)
        return wrong.double().mean().item(), margins.double().mean().item()

    current, flipped = anchor_labels.clone(), []
    accuracy = [1 - ask(current)[0]]
    for _ in range(flips):
        left = [
            (int(row), int(other))
            for row in known
            if int(row) not in flipped
            for other in classes
            if other != anchor_labels[row]
        ]
        order = torch.randperm(len(left), generator=generator, device=generator.device)
        tried = []
        for row, other in (left[int(at)] for at in order[:candidates]):
            changed = current.clone()
            changed[row] = other
            tried.append((ask(changed), row, other))
        (wrong, _), row, other = max(tried)
        current[row] = other
        flipped.append(row)
        accuracy.append(1 - wrong)
    return PoisonedLabels(current, tuple(flipped), tuple(accuracy), calls)


def _check_anchors(inputs: Tensor, labels: Tensor) -> None:
    check_images("anchor_inputs", inputs)
    if labels.shape != inputs.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"`anchor_labels` must be one class number per anchor ({len(inputs)}), got "
            f"{labels.dtype} of shape {tuple(labels.shape)}: the two must go together."
        )

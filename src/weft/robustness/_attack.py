"""Attack a model under a threat model, and replay what was found. The room's one entrance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.robustness._ball import Ball
from weft.robustness._gradient import Method
from weft.robustness._search import Predict, Scene, Search, UnderAttack, judge


class Threat(Protocol):
    """Which rows may move, which count, and in whose company; a frozen object.

    Its string names it in every result.
    """

    def scenes(
        self,
        inputs: Float[Tensor, "n *shape"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator,
    ) -> Sequence[Scene]:
        """Return the attacker's problems, one after the other; company is drawn by `generator`."""
        ...


@dataclass(frozen=True, eq=False)
class Result:
    """What an attack did, and under which threat model.

    Rows are those that count, in the order of the scenes; `rows` says which inputs they are.

    Args:
        threat: the threat model, in words.
        method: the attack, in words.
        ball: how far it could go.
        moved: the adversarial rows, one tensor per scene: a batch under `JointBatch`, one input
            under `VictimOnly`, all its mates under `NeighboursOnly`.
        rows: which of the inputs counted.
        labels: their classes.
        groups: a number per row; rows that stand and fall together have the same.
        success: 1 where the replay is wrong, 0 where right; between them, the share of drawn
            companies in which it is wrong.
        margin: largest wrong logit minus the label's, in the replay; positive where it is wrong.
        clean_wrong: as `success`, without attack.
        distance: how far each moved row went, in the ball's norm.
        claimed_accuracy: what the attacker saw while searching.
        replayed_accuracy: the model's accuracy when asked anew about `moved`, in the company that
            is deployed: the number to quote. Equal to the claim where the attacker knows
            the company and the model is deterministic; a threat model under which it does not
            differs by what was lost on the way.
        calls: forward passes of the model under attack, replay included.
    """

    threat: str
    method: str
    ball: Ball
    moved: tuple[Float[Tensor, "m *shape"], ...]
    rows: Int[Tensor, " k"]
    labels: Int[Tensor, " k"]
    groups: Int[Tensor, " k"]
    success: Float[Tensor, " k"]
    margin: Float[Tensor, " k"]
    clean_wrong: Float[Tensor, " k"]
    distance: Float[Tensor, " m"]
    claimed_accuracy: float
    replayed_accuracy: float
    calls: int

    @property
    def inputs(self) -> Float[Tensor, "m *shape"]:
        """All adversarial rows, scene after scene."""
        return torch.cat(self.moved)

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on the rows that count, without attack, in the same company."""
        return (1 - self.clean_wrong.double()).mean().item()


def attack(
    predict: Predict,
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, " n"],
    *,
    ball: Ball,
    method: Method,
    threat: Threat,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Look for inputs in the ball that the model gets wrong, and replay the ones found.

    The model is only called: its mode, parameters, gradients and buffers stay as they are, and
    so does torch's own random state.

    Args:
        predict: inputs (n, ...) to logits (n, classes); a module must be in evaluation mode.
        inputs: pixels in [0, 1], float32 or float64.
        labels: their true classes.
        ball: `LInf(epsilon)` or `L2(epsilon)`.
        method: `FGSM()`, `PGD()`, `APGD()`, `CarliniWagner()`, `Square()`, `ModelSpace()`,
            `AutoAttack()`, or any callable that takes a `Search`.
        threat: who may move, and who counts: `JointBatch()`, `VictimOnly()` and the others.
        generator: for random starts and company; by default a new one with seed 0.
        progress: called after each scene, with the number done and of all.

    Raises:
        TypeError: inputs are not floating-point, or labels not integers.
        ValueError: pixels outside [0, 1], labels that do not fit, logits that are not finite or
            not (n, classes), a module in training mode.
    """
    check_model(predict)
    check_images("inputs", inputs)
    check_labels(inputs, labels)
    generator = generator or torch.Generator().manual_seed(0)
    model = UnderAttack(predict)
    scenes = threat.scenes(inputs.detach(), labels, generator)
    moved, judged, before, claimed = [], [], [], []
    for done, scene in enumerate(scenes, start=1):
        search = Search(model, scene, ball, generator)
        method(search)
        moved.append(search.best)
        claimed.append(search.wrong)
        with torch.no_grad():
            before.append(judge(scene.judge(model, scene.clean), scene.labels)[0])
            judged.append(judge(scene.judge(model, search.best), scene.labels))
        if progress is not None:
            progress(done, len(scenes))
    success = torch.cat([wrong for wrong, _ in judged])
    pairs = zip(moved, scenes, strict=True)
    return Result(
        threat=str(threat),
        method=str(method),
        ball=ball,
        moved=tuple(moved),
        rows=torch.cat([scene.rows for scene in scenes]),
        labels=torch.cat([scene.labels for scene in scenes]),
        groups=_groups(scenes),
        success=success,
        margin=torch.cat([margins for _, margins in judged]),
        clean_wrong=torch.cat(before),
        distance=torch.cat([ball.distance(found, scene.clean) for found, scene in pairs]),
        claimed_accuracy=(1 - torch.cat(claimed).double()).mean().item(),
        replayed_accuracy=(1 - success.double()).mean().item(),
        calls=model.calls,
    )


def _groups(scenes: Sequence[Scene]) -> Tensor:
    numbers, first = [], 0
    for scene in scenes:
        own = torch.arange(len(scene.labels), device=scene.labels.device)
        numbers.append(first + own * scene.independent)
        first += len(own)
    return torch.cat(numbers)


def check_model(predict: Predict) -> None:
    """Refuse a module in training mode, whose buffers and random state a call would change."""
    if not isinstance(predict, nn.Module):
        return
    training = [name or "itself" for name, part in predict.named_modules() if part.training]
    if training:
        raise ValueError(
            f"`predict` must be in evaluation mode, got training mode in {training[0]}: call "
            ".eval() first; batch statistics and dropout would answer differently every time."
        )


def check_images(name: str, inputs: Tensor) -> None:
    """Refuse what is not a batch of pixels in [0, 1]."""
    if not isinstance(inputs, Tensor) or inputs.dtype not in (torch.float32, torch.float64):
        came = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(
            f"`{name}` must be float32 or float64 pixels in [0, 1], got {came}: "
            "convert with .float(), and divide bytes by 255."
        )
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(
            f"`{name}` must be (n, ...) with n of 1 or more, got shape {tuple(inputs.shape)}: "
            "add an axis with [None]."
        )
    low, high = inputs.detach().aminmax()
    if not (low >= 0 and high <= 1):  # also refuses nan
        raise ValueError(
            f"`{name}` must be pixels in [0, 1], got values from {low:g} to {high:g}: rescale, and "
            "put what the model subtracts and divides by into the model."
        )


def check_labels(inputs: Tensor, labels: Tensor) -> None:
    """Refuse what is not one class per input."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        came = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"`labels` must be class numbers of type int64, got {came}: call .long().")
    if labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"`labels` must have one class per input ({len(inputs)}), got shape "
            f"{tuple(labels.shape)}."
        )
    if (labels < 0).any():
        raise ValueError(
            f"`labels` must be classes 0, 1, ..., got {int(labels.min())}: "
            "leave inputs without a class out of the attack."
        )

"""Whether an evaluation by gradients can be believed: checks that fail by themselves.

A model can be hard to attack without being robust: its gradient vanishes, lies, or points nowhere.
Each check here asks for one sign of that, on the model as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.robustness._attack import Result, Threat, attack
from weft.robustness._ball import LInf
from weft.robustness._gradient import FGSM, PGD, Method, check_count
from weft.robustness._landscape import Landscape, landscape
from weft.robustness._losses import Loss, cross_entropy, margin, name_of
from weft.robustness._noise import Noise
from weft.robustness._search import Predict
from weft.robustness._square import Square

_LEFT = 0.02  # of the rows that may stay right where any image may become a grey one
_LED = 0.8  # of the rows that a gradient must lead better than chance, which leads half of them
_VANISHED = 0.1
_GAP = 0.1  # between two losses, with four times the steps, or along a twin's gradient


@dataclass(frozen=True)
class Check:
    """One sign of masking, and whether it was seen.

    Args:
        name: what was asked, in words that are true if it passed.
        passed: whether the model, or the attack, is as it should be.
        found: the numbers.
    """

    name: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}: {self.name} ({self.found})"


@dataclass(frozen=True)
class Masking:
    """What the checks found. A failed one means: numbers from this gradient say too much.

    Args:
        threat: the threat model, in words.
        epsilon: the L-infinity radius, for pixels in [0, 1].
        loss: whose gradient was judged.
        checks: all of them.
        landscape: margins along the gradient and along random signs.
    """

    threat: str
    epsilon: float
    loss: str
    checks: tuple[Check, ...]
    landscape: Landscape

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether no sign of masking was seen. None seen does not prove that there is none."""
        return not self.failed


def check_masking(
    predict: Predict,
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, " n"],
    *,
    epsilon: float,
    threat: Threat,
    loss: Loss = cross_entropy,
    twin: Predict | None = None,
    steps: int = 20,
    queries: int = 200,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Masking:
    """Look for signs that attacks along a gradient overrate a model.

    - Many steps do no worse than one.
    - Nothing survives once epsilon is so large that any image may become a grey one.
    - Attacks without gradient, and noise, do no better than those with one.
    - Four times the steps, and restarts, change little: they neither help the defender nor find
      much more.
    - Another loss finds no more.
    - A step along the gradient of a twin, another model of the same task, does no better than one
      along the model's own, at epsilon and half way to the grey images.
    - Gradients do not vanish, and a short step along them beats a random one.

    One attack does better than another where its lead in rows exceeds twice the root of the
    number of rows on which the two differ: the noise of a paired comparison.

    Args:
        predict: the model, in evaluation mode.
        inputs: pixels in [0, 1]; a hundred or more say something, some hundred are enough.
        labels: their classes.
        epsilon: L-infinity radius at which the model is judged.
        threat: one under which the rows that count may move.
        loss: whose gradient is judged. The cross-entropy is what published curves climb; a model
            may mask it and not the margin, so ask about each loss that a number rests on.
        twin: an ordinary model of the same task, trained by itself; without one its check is left
            out. It sees what the others miss: features that are crushed together lead one step
            astray and many steps home.
        steps: of the attack that is judged.
        queries: of the attack without gradient.
        generator: for starts and company; by default a new one with seed 0.
        progress: called after each attack, with the number done and of all.

    Source: the checklists of Athalye, Carlini, Wagner, ICML 2018, and of Carlini et al.,
        arXiv 1902.06705; the thresholds are ours.
    """
    check_count("steps", steps)
    check_count("queries", queries)
    if not 0 < epsilon <= 1:
        raise ValueError(f"`epsilon` must lie in (0, 1], got {epsilon}: it is in pixels.")
    generator = generator or torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    other = margin if loss is not margin else cross_entropy
    grey = max(0.5, min(1.0, 2 * epsilon))
    plan: dict[str, tuple[Method, float]] = {
        "one": (FGSM(loss), epsilon),
        "many": (PGD(steps, loss=loss), epsilon),
        "longer": (PGD(4 * steps, loss=loss), epsilon),
        "again": (PGD(steps, restarts=3, loss=loss), epsilon),
        "other": (PGD(steps, loss=other), epsilon),
        "square": (Square(queries), epsilon),
        "noise": (Noise(queries), epsilon),
        "one far": (FGSM(loss), grey),
        "many far": (PGD(steps, loss=loss), grey),
    }
    middle = (epsilon + grey) / 2
    if twin is not None:
        plan |= {
            "twin": (FGSM(loss, twin), epsilon),
            "twin middle": (FGSM(loss, twin), middle),
            "one middle": (FGSM(loss), middle),
        }
    results: dict[str, Result] = {}
    for number, (name, (method, radius)) in enumerate(plan.items()):
        own = torch.Generator().manual_seed(seed + (name == "again"))  # other starts, same company
        results[name] = attack(
            predict,
            inputs,
            labels,
            ball=LInf(radius),
            method=method,
            threat=threat,
            generator=own,
        )
        if progress is not None:
            progress(number + 1, len(plan) + 1)
    lines = landscape(
        predict,
        inputs,
        labels,
        ball=LInf(epsilon),
        threat=threat,
        loss=loss,
        generator=torch.Generator().manual_seed(seed),
    )
    if progress is not None:
        progress(len(plan) + 1, len(plan) + 1)
    checks = [
        _not_better("many steps do no worse than one", results["many"], [results["one"]]),
        _not_better(
            f"many steps do no worse than one at {grey:g}",
            results["many far"],
            [results["one far"]],
        ),
        _nothing_left(results, grey),
        _not_better(
            "attacks without gradient find no more",
            results["many"],
            [results["square"], results["noise"]],
        ),
        _steady("more steps change little", results["many"], results["longer"]),
        _steady("restarts change little", results["many"], results["again"]),
        _close(f"the {name_of(other)} finds no more", results["many"], results["other"]),
        Check(
            "gradients do not vanish",
            lines.zero <= _VANISHED,
            f"zero for {lines.zero:.1%} of the rows, below 1e-6 for {lines.small:.1%}",
        ),
        Check(
            "a short step along the gradient beats a random one",
            lines.led >= _LED,
            f"for {lines.led:.1%} of the rows; by chance 50 %",
        ),
    ]
    if twin is not None:
        words = "a step along a twin's gradient does no better"
        checks += [
            _close(words, results["one"], results["twin"]),
            _close(f"{words} at {middle:g}", results["one middle"], results["twin middle"]),
        ]
    return Masking(str(threat), epsilon, name_of(loss), tuple(checks), lines)


def _lead(first: Result, second: Result) -> tuple[float, float]:
    """Return by how much the first attack beats the second, and the noise of that number."""
    difference = first.success.double() - second.success.double()
    noise = 2 * difference.square().sum().sqrt() / len(difference)
    return difference.mean().item(), noise.item()


def _words(*results: Result) -> str:
    return ", ".join(f"{result.method}: {result.replayed_accuracy:.1%}" for result in results)


def _not_better(name: str, strong: Result, weak: list[Result]) -> Check:
    leads = [_lead(one, strong) for one in weak]
    passed = all(lead <= noise for lead, noise in leads)
    return Check(name, passed, _words(strong, *weak))


def _close(name: str, judged: Result, other: Result) -> Check:
    lead, noise = _lead(other, judged)
    return Check(name, lead <= max(noise, _GAP), _words(judged, other))


def _steady(name: str, short: Result, long: Result) -> Check:
    lead, noise = _lead(long, short)
    return Check(name, -noise <= lead <= max(noise, _GAP), _words(short, long))


def _nothing_left(results: dict[str, Result], grey: float) -> Check:
    """Ask for chance at most: an attack could turn all images into one grey one."""
    one, many = results["one far"], results["many far"]
    chance = one.labels.bincount().max().item() / len(one.labels)
    noise = 2 * (chance * (1 - chance) / len(one.labels)) ** 0.5
    passed = many.replayed_accuracy <= _LEFT and one.replayed_accuracy <= chance + noise
    return Check(f"accuracy falls to zero as epsilon grows to {grey:g}", passed, _words(many, one))

"""Several attacks, one number: what an attacker reaches who picks the best of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from weft.robustness._attack import Result
from weft.robustness._ball import Ball


@dataclass(frozen=True)
class Worst:
    """The worst case over attacks under one threat model.

    Args:
        threat: the threat model, in words.
        ball: how far the attacks could go.
        methods: the attacks.
        clean_accuracy: without attack.
        accuracy: the best attack in each group of rows that stand and fall together; an attacker
            can do this. The number to quote.
        union: rows that survive every attack, whichever batch it was in. For rows that depend on
            each other nobody can do this at once: it claims too much, and stands here so
            that others' numbers can be compared.
    """

    threat: str
    ball: Ball
    methods: tuple[str, ...]
    clean_accuracy: float
    accuracy: float
    union: float


def worst_case(results: Sequence[Result]) -> Worst:
    """Combine the results of attacks on the same model and inputs.

    Args:
        results: of the same threat model, ball and rows; one or more.

    Raises:
        ValueError: they are not of the same problem.
    """
    if not results:
        raise ValueError("`results` must be one or more, got none: run an attack first.")
    first = results[0]
    for other in results[1:]:
        if (other.threat, other.ball) != (first.threat, first.ball) or not (
            torch.equal(other.rows, first.rows) and torch.equal(other.groups, first.groups)
        ):
            raise ValueError(
                "`results` must be of one threat model, ball and set of rows, got "
                f'"{first.threat}" in {first.ball} and "{other.threat}" in {other.ball}: '
                "combine each kind by itself, with generators of one seed."
            )
    success = torch.stack([result.success.double() for result in results])
    sums = success.new_zeros(len(results), len(first.rows)).index_add(1, first.groups, success)
    return Worst(
        threat=first.threat,
        ball=first.ball,
        methods=tuple(result.method for result in results),
        clean_accuracy=first.clean_accuracy,
        accuracy=1 - sums.amax(0).sum().item() / len(first.rows),
        union=1 - success.amax(0).mean().item(),
    )

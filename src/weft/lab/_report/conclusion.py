"""Say in plain words what the numbers of a report show, and what they do not."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from scipy import stats

from weft.lab._report.numbers import Estimate, Group, refusal

_REFUSED = 0.1  # the share of samples whose refusal the conclusion reports


def conclude(groups: Sequence[Group], context: str) -> list[list[str]]:
    """Write a few sentences for every number of labels, the main one first.

    Args:
        groups: as `group_by_seed` returns them, in order of their number of labels.
        context: the way of predicting to speak of; every group has it.

    Returns:
        Sentences of plain text, not escaped.
    """
    return [
        _sentences(list(members), context) for _, members in groupby(groups, lambda g: g.amount)
    ]


def _sentences(groups: list[Group], context: str) -> list[str]:
    def accuracy(group: Group) -> float:
        return group.estimate(context, "accuracy").mean

    best, *others = sorted(groups, key=accuracy, reverse=True)
    num_test = best.runs[0].results["num_test"]
    standing = [
        f"With {best.amount} labels, the {best.name} head is right on "
        f"{100 * accuracy(best):.1f} % of {num_test:,} test samples"
    ]
    standing += [f"the {group.name} head on {100 * accuracy(group):.1f} %" for group in others]
    sentences = [", ".join(standing) + "."]
    sentences += [_compare(best, other, context) for other in others]
    sentences.append(_calibration([best, *others], context))
    sentences.append(_doubt([best, *others]))
    if all(len(group.runs) == 1 for group in groups):
        sentences.append(
            f"One seed{' each' if others else ''}: how far another training run would move these "
            "numbers is not known."
        )
    return sentences


def _compare(best: Group, other: Group, context: str) -> str:
    """Compare over the seeds that both have; with fewer than two, over the test samples."""
    by_seed = {run.recipe.seed: run for run in other.runs}
    pairs = [(run, by_seed[run.recipe.seed]) for run in best.runs if run.recipe.seed in by_seed]
    if len(pairs) < 2:
        return _compare_samples(best, other)
    lead = Estimate.of(
        a.results["contexts"][context]["accuracy"] - b.results["contexts"][context]["accuracy"]
        for a, b in pairs
    )
    margin = lead.margin or 0.0  # two pairs or more have one
    interval = (
        f"{100 * lead.mean:.1f} points (95 % interval {100 * (lead.mean - margin):.1f} to "
        f"{100 * (lead.mean + margin):.1f} over {lead.count} paired seeds)"
    )
    lead_of = f"lead of the {best.name} head over the {other.name} head"
    if abs(lead.mean) > margin:
        return f"The {lead_of} is {interval}."
    return f"Other seeds could undo the {lead_of}: {interval}."


def _compare_samples(best: Group, other: Group) -> str:
    """Count the samples that only one of two runs gets right, and ask a sign test about them."""
    left, right = best.runs[0].predictions, other.runs[0].predictions
    _, i, j = np.intersect1d(left.index, right.index, return_indices=True)
    only_best = int((left.correct[i] & ~right.correct[j]).sum())
    only_other = int((~left.correct[i] & right.correct[j]).sum())
    if only_best + only_other == 0:
        return f"The {best.name} and {other.name} heads are right on the same samples."
    p = float(stats.binomtest(only_best, only_best + only_other).pvalue)
    verdict = "more than chance explains" if p < 0.05 else "no more than chance would give"
    return (
        f"Of the samples that only one of them gets right, the {best.name} head has {only_best:,}, "
        f"the {other.name} head {only_other:,}: {verdict} "
        f"({'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}, sign test)."
    )


def _calibration(groups: list[Group], context: str) -> str:
    parts = []
    for group in groups:
        error = 100 * group.estimate(context, "ece").mean
        confidence = np.mean([run.predictions.confidence.mean() for run in group.runs])
        accuracy = np.mean([run.predictions.correct.mean() for run in group.runs])
        side = "low" if confidence < accuracy else "high"
        parts.append(f"{error:.1f} points ({group.name}, mostly too {side})")
    return f"Confidence misses accuracy by {', '.join(parts)}."


def _doubt(groups: list[Group]) -> str:
    parts = []
    for group in groups:
        before, after = 100 * refusal(group, "uncertainty", np.array([1, 1 - _REFUSED]))
        parts.append(f"from {before:.1f} % to {after:.1f} % ({group.name})")
    return (
        f"Refusing the least confident {100 * _REFUSED:.0f} % of the samples takes the errors "
        f"{', '.join(parts)}."
    )

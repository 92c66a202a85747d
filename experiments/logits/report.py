"""Print the tables of README.md from results.csv; nothing is trained.

python experiments/logits/report.py
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from digits import DECAYS
from rows import RESULTS, difference, half_width, holm, interval, read, values

from weft.lab.measures import SizeGroups
from weft.lab.multi_label import load_label_matrix, load_multi_label


class Question(NamedTuple):
    """What a method adds to another, and what a prototype with other pixels let expect.

    Args:
        name: as in README.md.
        experiment: where both were run.
        method: what is judged.
        other: what it is compared with; None asks for the level itself.
        expected: points.
        within: the mean must be as near to what was expected.
        above: the lower end of the interval must be above this.
        measure: of which the difference is taken.
    """

    name: str
    experiment: str
    method: str
    other: str | None
    expected: float | None = None
    within: float | None = None
    above: float | None = None
    measure: str = "balanced"


IMAGES = ("fashion_mnist", "cifar10", "cifar10_resnet32", "cifar10_resnet32_even")
LT, LESS, EVEN = "imbalance 50", "imbalance 10", "balanced, 12 per class"
QUESTIONS = (
    Question("E1", LT, "CE", None, 81.5, within=1.5),
    Question("E1", LT, "LA 1", None, 85.2, within=1.5),
    Question("E1", LT, "LA 1.5", None, 85.6, within=1.5),
    Question("E1", LT, "LPL 8", None, 87.9, within=1.5),
    Question("E1", LT, "LPL 8", "LA 1.5", 2.3, above=0),
    Question("E2", LT, "LPL 8", "margin 8", 0.0, within=0.5),
    Question("E2", LT, "LPL 6", "margin 6", 0.3, within=0.5),
    Question("E3", LT, "LPL 1.5, K = 10", "LPL 1.5, K = 10, raw", 2.3, above=1),
    Question("E3", LT, "LPL 8, K = 10", "LPL 8, K = 10, raw"),
    Question("E4", LT, "LPL 8", "LPL 8, K = 10", -0.2, within=0.3),
    Question("E4", LT, "LPL 8, K = 3", "LPL 8, K = 10", -0.1, within=0.3),
    Question("E5", LESS, "LPL 4", "LA 1.5", 0.6, above=0),
    Question("E5", LESS, "LPL 4", "margin 4", 0.0, within=0.5),
    Question("E6", LT, "LA 1, priors sorted (fault)", "LA 1", -8.1, within=1.5),
    Question("E7", EVEN, "LPL by confidence 2", "CE", 0.6, within=0.5),
    Question("E7", EVEN, "LPL by confidence 1, signs flipped", "CE", -0.4, within=0.5),
    Question("E7", EVEN, "LPL by confidence 2", "margin by confidence 2"),
    Question("E7", EVEN, "LPL by confidence 2", "label smoothing 0.1"),
    Question("E7", EVEN, "ISDA 2", "CE", 0.9),
    Question("E8", "composed", "BCE", None, 89.7, within=0.8, measure="map"),
    Question("E8", "composed", "prior shift", None, 91.2, within=0.8, measure="map"),
    Question("E8", "composed", "LPL shared", "prior shift", 0.0, within=0.8, measure="map"),
    *(
        Question("E8", "composed", method, "prior shift", expected, above=0, measure="map")
        for method, expected in (
            ("prior shift + LPL shared", 0.4),
            ("prior shift + LPL positives", 0.3),
        )
    ),
    Question("E9", "generated", "BCE, post-hoc shift", "BCE", 0.0, within=0.01, measure="map"),
    Question("E9", "generated", "prior shift", "BCE", -2.3, measure="map"),
    *(
        Question("E9", "generated", method, other, expected, above=0, measure="macro_f1")
        for method, other, expected in (
            ("BCE, post-hoc shift", "BCE", 14.0),
            ("prior shift + LPL shared", "BCE, post-hoc shift", 0.7),
        )
    ),
    *(
        Question("E12", place, method, other)
        for place in IMAGES
        for method, other in (("LPL", "margin"), ("LA 1 + LPL", "LA 1 + margin"))
    ),
)
# Learned shifts and their control within the same kind of bounds, each tuned.
TWINS = (
    ("LPL", "margin"),
    ("LA 1 + LPL", "LA 1 + margin"),
    ("LPL by confidence", "margin by confidence"),
    ("LA 1 + LPL by confidence", "LA 1 + margin by confidence"),
    ("LPL, memory 0.9", "margin"),
    ("LPL, memory 0.99", "margin"),
    ("LPL, memory of an epoch", "margin"),
    ("LPL per sample", "margin"),
    ("LA 1 + LPL, memory 0.9", "LA 1 + margin"),
    ("LA 1 + LPL, memory of an epoch", "LA 1 + margin"),
    ("LA 1 + LPL per sample", "LA 1 + margin"),
    ("LPL, bounds by validation", "margin, bounds by validation"),
    ("LPL, bounds by validation", "margin"),
    ("margin, bounds by validation", "margin"),
)
SINGLE = ("balanced", "head", "mid", "tail", "ece")
LABELLED = ("composed", "generated", "yeast", "scene", "bibtex")
MULTI = ("map", "head", "mid", "tail", "macro_f1", "micro_f1")


def methods_of(experiment: str) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in read(RESULTS, experiment)))


def against(experiment: str, method: str, other: str, measure: str) -> str:
    """Format the paired difference of two methods; a dash against itself."""
    if method == other:
        return "-"
    pair = (values(RESULTS, experiment, name, measure) for name in (method, other))
    one, two = pair
    return difference(one - two)


def print_table(experiment: str, measures: Sequence[str], others: Sequence[str]) -> None:
    """Print every method of an experiment; differences to others in the first measure."""
    methods = methods_of(experiment)
    if not methods:
        return
    count = len(values(RESULTS, experiment, methods[0], measures[0]))
    print(f"\n### {experiment}, {count} seeds\n")
    print(
        "| method |", " | ".join(measures), "|", " | ".join(f"less {name}" for name in others), "|"
    )
    print("|---" * (1 + len(measures) + len(others)) + "|")
    for method in methods:
        first, *rest = (values(RESULTS, experiment, method, measure) for measure in measures)
        cells = [interval(first), *(f"{numbers.mean():.1f}" for numbers in rest)]
        cells += [against(experiment, method, other, measures[0]) for other in others]
        print(f"| {method} |", " | ".join(cells), "|")


def print_holm(experiment: str, measure: str, other: str) -> None:
    """Print which methods differ from another once all comparisons are counted."""
    methods = [name for name in methods_of(experiment) if name != other]
    base = values(RESULTS, experiment, other, measure)
    adjusted = holm([values(RESULTS, experiment, name, measure) - base for name in methods])
    cells = [f"{name} {p:.2g}" for name, p in zip(methods, adjusted, strict=True)]
    print(f"\n{experiment}, p against {other} after Holm, {len(cells)} tests:", ", ".join(cells))


def print_questions() -> None:
    print("\n### Expected and found, paired over seeds\n")
    print("| | experiment | points | expected | found | met |\n|---|---|---|---|---|---|")
    for question in QUESTIONS:
        name, experiment, method, other, expected, within, above, measure = question
        if not {method, other or method} <= set(methods_of(experiment)):
            continue
        points = values(RESULTS, experiment, method, measure)
        if other:
            points = points - values(RESULTS, experiment, other, measure)
        sign = "+" if other else ""
        wanted = "-" if expected is None else f"{expected:{sign}.1f}"
        wanted += f" ± {within:g}" if within else ""
        wanted += "" if above is None else f", lower end above {above:g}"
        checks = [within is None or abs(points.mean() - (expected or 0)) <= within]
        checks.append(above is None or points.mean() - half_width(points) > above)
        met = "-" if within is None and above is None else "yes" if all(checks) else "**no**"
        kind = {"balanced": "", "map": ", map", "macro_f1": ", macro F1"}[measure]
        asked = f"{method} less {other}" if other else method
        found = difference(points) if other else interval(points)
        print(f"| {name} | {experiment}{kind} | {asked} | {wanted} | {found} | {met} |")


def print_twins() -> None:
    """Print what learning adds to the control, with p-values after Holm."""
    place, there = "imbalance 50, tuned", set(methods_of("imbalance 50, tuned"))
    twins = [pair for pair in TWINS if set(pair) <= there]
    gaps = [
        values(RESULTS, place, one, "balanced") - values(RESULTS, place, other, "balanced")
        for one, other in twins
    ]
    print(f"\n### What learning adds, tuned, imbalance 50; p after Holm, {len(twins)} tests\n")
    print("| learned | control | difference | p |\n|---|---|---|---|")
    for (one, other), gap, p in zip(twins, gaps, holm(gaps), strict=True):
        print(f"| {one} | {other} | {difference(gap)} | {p:.2g} |")


def print_decays() -> None:
    """Print balanced accuracy by weight decay, and the questions asked at each."""
    experiments = [f"imbalance 50, decay {decay:g}" for decay in DECAYS]
    print("\n### E1b: weight decay, imbalance 50, 30 seeds\n")
    print("| method |", " | ".join(f"{decay:g}" for decay in DECAYS), "|")
    print("|---" * (1 + len(DECAYS)) + "|")
    for method in methods_of(experiments[0]):
        cells = [interval(values(RESULTS, place, method, "balanced")) for place in experiments]
        print(f"| {method} |", " | ".join(cells), "|")
    for method, other in (
        ("LA 1 + LPL 1", "LA 1"),
        ("LA 1 + LPL 2", "LA 1"),
        ("LPL 6", "LA 1"),
        ("LPL 6", "margin 6"),
        ("LPL 4", "margin 4"),
        ("LA 1 + LPL 1", "LA 1 + margin 1"),
    ):
        cells = [against(place, method, other, "balanced") for place in experiments]
        print(f"| {method} less {other} |", " | ".join(cells), "|")
    la, lpl = (
        max(
            (values(RESULTS, p, name, "balanced") for p in experiments for name in names),
            key=lambda numbers: numbers.mean(),
        )
        for names in (("LA 1", "LA 1.5"), ("LPL 4", "LPL 6"))
    )
    print(f"\nBest of LPL less best of LA over all decays: {difference(lpl - la)}")


def print_side_by_side(experiments: Sequence[str], measure: str, other: str) -> None:
    """Print a measure of every method on several data sets, and the difference to one method."""
    print(f"\n### {measure}, and the difference to {other}\n")
    print("| method |", " | ".join(experiments), "|")
    print("|---" * (1 + len(experiments)) + "|")
    for method in methods_of(experiments[0]):
        cells = [
            f"{values(RESULTS, place, method, measure).mean():.1f}"
            + (f" ({against(place, method, other, measure)})" if method != other else "")
            for place in experiments
        ]
        print(f"| {method} |", " | ".join(cells), "|")


def print_labels() -> None:
    """Print how long the tails of the multi-label data sets are."""
    if "WEFT_DATA" not in os.environ:
        return
    root = Path(os.environ["WEFT_DATA"])
    matrices = {name: load_label_matrix(name, root) for name in ("voc_mlt", "coco_mlt")}
    for name in ("yeast", "scene", "bibtex"):
        matrices[name] = load_multi_label(name, root).train_targets
    print("\n### Label matrices, training parts\n")
    print("| data | samples | labels | labels per sample | most | fewest | head / mid / tail |")
    print("|---" * 7 + "|")
    for name, targets in matrices.items():
        counts = targets.sum(0)
        groups = " / ".join(str(len(group)) for group in SizeGroups.by_count(counts))
        sizes = f"{len(targets)} | {len(counts)} | {counts.sum() / len(targets):.2f}"
        print(f"| {name} | {sizes} | {counts.max()} | {counts.min()} | {groups} |")


def main() -> None:
    print_table("imbalance 50", SINGLE, ("CE", "LA 1.5"))
    print_questions()
    print_decays()
    print_table("imbalance 10", SINGLE, ("CE", "LA 1.5"))
    print_table("balanced, 12 per class", SINGLE[:1], ("CE",))
    print("\n### Relabelled classes, largest change of a test logit in float64\n")
    for row in read(RESULTS, "relabelling"):
        print(row["method"], row["change"])
    print_table("imbalance 50, tuned", SINGLE, ("LA", "margin"))
    for other in ("LA", "margin"):
        print_holm("imbalance 50, tuned", "balanced", other)
    print_twins()
    for measure in ("map", "macro_f1"):
        print_side_by_side(LABELLED, measure, "prior shift")
    print_side_by_side(IMAGES[:2], "balanced", "LA")
    for name in LABELLED:
        print_table(name, MULTI, ("BCE", "prior shift"))
    if methods_of("composed"):
        print_holm("composed", "map", "prior shift")
    for name in IMAGES:
        print_table(name, SINGLE, ("LA", "margin"))
    print_labels()


if __name__ == "__main__":
    main()

"""What a report says about attacks: figures, pictures, and the checks that failed first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from weft.lab._attack_pictures import choose_examples, percents
from weft.lab._report.figures import _DASHED, _FAINT, _INK, _SERIES, _STYLE, _svg
from weft.lab._report.loading import Attacked, EvaluatedRun
from weft.lab._report.pictures import Sheet, as_tiles


@dataclass(frozen=True)
class Example:
    """An image before and after: places of tiles on the sheet, and what was predicted."""

    clean: int
    moved: int
    difference: int
    label: str
    guess: str


@dataclass(frozen=True)
class AttackSection:
    """One attacked run: its results as `weft attack` wrote them, and what is drawn of them."""

    name: str
    results: dict[str, Any]
    failed: list[str]
    curve: Markup
    landscape: Markup
    epsilon: float
    examples: list[Example]


def attack_sections(runs: Sequence[EvaluatedRun], sheet: Sheet) -> list[AttackSection]:
    """Prepare a section for each run that was attacked, and put its images on the sheet."""
    return [
        _section(run, run.attacked, sheet, alone=len(runs) == 1) for run in runs if run.attacked
    ]


def _section(run: EvaluatedRun, attacked: Attacked, sheet: Sheet, *, alone: bool) -> AttackSection:
    results, images = attacked.results, attacked.images
    radius, rows = choose_examples(images)
    epsilon = float(images["epsilons"][radius])
    clean, moved = images["clean"][rows], images["adversarial"][radius][rows]
    kinds = (clean, moved, 0.5 + (moved - clean) / (2 * epsilon))
    places = [sheet.add(as_tiles(kind, like=run.predictions.inputs)) for kind in kinds]
    classes = results["classes"]
    guesses = images["predicted"][radius][rows]
    return AttackSection(
        name=f"{run.recipe.head} head" if alone else f"{run.recipe.head} head, {run.path}",
        results=results,
        failed=[
            f"{one['loss']}: {check['name']} ({check['found']})"
            for one in [{"loss": "all attacks", "checks": results["checks"]}, *results["masking"]]
            for check in one["checks"]
            if not check["passed"]
        ],
        curve=Markup(_curve(results)),
        landscape=Markup(_landscape(results["masking"])),
        epsilon=epsilon,
        examples=[
            Example(before, after, change, classes[images["labels"][row]], classes[guess])
            for before, after, change, row, guess in zip(*places, rows, guesses, strict=True)
        ],
    )


@mpl.rc_context(_STYLE)
def _curve(results: dict[str, Any]) -> str:
    """Draw accuracy against epsilon: published attacks dashed, the worst case thick."""
    figure = Figure((4.4, 3.6), layout="constrained")
    axis = figure.subplots()
    points, clean = results["curve"], 100 * results["clean"]
    radii = [0.0, *(point["epsilon"] for point in points)]
    for number, row in enumerate(points[0]["methods"]):
        values = [clean, *percents(points, number)]
        if row["method"].startswith(("FGSM", "IFGSM")):
            color = _SERIES[1] if row["method"].startswith("FGSM") else _SERIES[3]
            axis.plot(radii, values, color=color, linestyle=_DASHED, label=row["method"])
        else:
            name = "the others" if number == 2 else None
            axis.plot(radii, values, color=_FAINT, linewidth=1.0, label=name)
    worst = [clean, *(100 * point["worst"] for point in points)]
    axis.plot(radii, worst, "o-", color=_SERIES[0], linewidth=2.6, label="worst case")
    axis.set(xlabel="epsilon, in pixels from 0 to 1", ylabel="right, %", ylim=(0, 102))
    axis.legend()
    return _svg(figure)


@mpl.rc_context(_STYLE)
def _landscape(masking: Sequence[dict[str, Any]]) -> str:
    """Draw the mean margin along the gradient of each loss, and along random signs."""
    figure = Figure((4.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for one, color in zip(masking, _SERIES, strict=False):
        lines = one["landscape"]
        steps = np.array(lines["steps"]) * one["epsilon"]
        for row in np.array(lines["along"]).T:
            axis.plot(steps, row, color=color, linewidth=0.4, alpha=0.5)
        name = f"along the gradient of the {one['loss']}"
        axis.plot(steps, lines["along_mean"], color=color, label=name)
    first = masking[0]
    steps = np.array(first["landscape"]["steps"]) * first["epsilon"]
    aside = first["landscape"]["aside_mean"]
    axis.plot(steps, aside, color=_INK, linestyle=_DASHED, label="along random signs")
    axis.set(xlabel="length of the step", ylabel="wrong logit less the label's")
    axis.legend()
    return _svg(figure)

"""Put a report's numbers, figures and samples into one HTML page that loads nothing else."""

import math
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from weft.lab._report import figures
from weft.lab._report.attack_section import attack_sections
from weft.lab._report.conclusion import conclude
from weft.lab._report.loading import EvaluatedRun
from weft.lab._report.numbers import Estimate, Group, group_by_seed, per_class
from weft.lab._report.pictures import Sheet, show_tile
from weft.lab._report.samples import explorer_data

_CONTEXTS = {
    "whole": "the whole test set as one graph",
    "batch": "batches of the test set",
    "query": "one sample at a time",
}


def render(runs: Sequence[EvaluatedRun]) -> str:
    """Return the page for runs that `load_runs` accepted."""
    groups = group_by_seed(runs)
    contexts = [
        name for name in groups[0].contexts if all(name in group.contexts for group in groups)
    ]
    context = "whole" if "whole" in contexts else contexts[0]
    settings = [_setting(list(members)) for _, members in groupby(groups, lambda g: g.amount)]
    sheet = Sheet()
    samples = explorer_data(groups, sheet)  # fills the sheet
    attacks = attack_sections(runs, sheet)
    first = runs[0]
    return (
        _environment()
        .get_template("template.html")
        .render(
            data=first.recipe.data,
            classes=first.results["classes"],
            num_test=first.results["num_test"],
            stored=len(first.predictions.labels),
            runs=runs,
            groups=groups,
            settings=settings,
            contexts={name: _CONTEXTS.get(name, name) for name in contexts},
            context=context,
            conclusions=conclude(groups, context),
            samples=samples,
            attacks=attacks,
            tile=partial(show_tile, sheet),
            sheet=sheet,
            style=_asset("style.css"),
            script=_asset("explorer.js"),
        )
    )


def _environment() -> Environment:
    """Templates that escape what they are given; an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("weft.lab._report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals |= {"estimate": _estimate, "percent": _percent, "per_class": per_class}
    return environment


def _asset(name: str) -> Markup:
    return Markup(files("weft.lab._report").joinpath(name).read_text(encoding="utf-8"))


def _setting(groups: list[Group]) -> dict[str, Any]:
    """Draw the figures of the groups that share a number of labels."""
    return {
        "amount": groups[0].amount,
        "heads": " and ".join(group.name for group in groups),
        "groups": groups,
        "curves": {
            quantity: Markup(figures.learning_curve(groups, quantity))
            for quantity in ("loss", "accuracy")
        },
        "reliability": Markup(figures.reliability(groups)),
        "risk": Markup(figures.risk_coverage(groups)),
        "embeddings": [Markup(figures.embedding(group.runs[0])) for group in groups],
    }


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"  # noqa: RUF001


def _estimate(estimate: Estimate) -> Markup:
    mean = _percent(estimate.mean)
    if estimate.margin is None:
        return Markup(mean)
    margin = Markup('<span class="margin">± {}</span>').format(_percent(estimate.margin))
    return Markup("{} {}").format(mean, margin)

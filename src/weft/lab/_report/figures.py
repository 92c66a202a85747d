"""Draw the figures of a report, as SVG that takes its colours and letters from the page."""

import io
import re
from collections.abc import Sequence
from itertools import cycle
from textwrap import fill, shorten
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from weft.lab._report.loading import EvaluatedRun
from weft.lab._report.numbers import Group, calibration, refusal

# Stand-ins that no figure uses otherwise; the page's style gives them light and dark values.
_INK, _FAINT = "#010203", "#010204"
_SERIES = ("#010210", "#010211", "#010212", "#010213", "#010214", "#010215")
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--line)"} | {
    color: f"var(--series-{k})" for k, color in enumerate(_SERIES)
}
# Ten colours told apart with any colour vision (Petroff 2021), then the same with other markers.
_CLASSES = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
            "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")  # fmt: skip
_MARKERS = "osD^v<>PXh"
_DASHED = (0, (2, 1.5))
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: in the page's font, selectable
    "svg.hashsalt": "weft",  # the same runs give the same page
    "text.parse_math": False,  # a class may be called "$x"
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@mpl.rc_context(_STYLE)
def learning_curve(groups: Sequence[Group], quantity: str) -> str:
    """Draw the loss or the accuracy by epoch, on training and validation data; seeds' mean."""
    figure = Figure((4.4, 3.3), layout="constrained")
    axis = figure.subplots()
    for group, color in zip(groups, cycle(_SERIES), strict=False):
        for split, dash in (("valid", "-"), ("train", _DASHED)):
            epochs, values = _curve(group.runs, split, quantity)
            if epochs:
                label = f"{_short(group.name)}, {split}"
                axis.plot(epochs, values, color=color, linestyle=dash, label=label)
    axis.set(xlabel="epoch", ylabel=quantity)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axis.lines:
        axis.legend()
    return _svg(figure)


def _short(name: str) -> str:
    """Return a name that leaves the axes their room, in two lines at most."""
    return fill(shorten(name, 76, placeholder=" …"), 38)


def _curve(
    runs: Sequence[EvaluatedRun], split: str, quantity: str
) -> tuple[list[int], list[float]]:
    """Average a quantity by epoch, over the lines and the seeds that have it."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for line in run.metrics:
            if line["split"] == split and line.get(quantity) is not None:
                found.setdefault(line["epoch"], []).append(line[quantity])
    epochs = sorted(found)
    return epochs, [float(np.mean(found[epoch])) for epoch in epochs]


@mpl.rc_context(_STYLE)
def reliability(groups: Sequence[Group]) -> str:
    """Draw accuracy against confidence, and below it how often each confidence occurs."""
    figure = Figure((4.4, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for group, color in zip(groups, cycle(_SERIES), strict=False):
        bins = calibration(group.runs)
        filled = bins.share > 0
        x, y = bins.confidence[filled], bins.accuracy[filled]
        upper.plot(x, y, "o-", color=color, markersize=4, label=_short(group.name))
        lower.stairs(bins.share, np.linspace(0, 1, len(bins.share) + 1), color=color)
    upper.set(ylabel="share right", xlim=(0, 1), ylim=(0, 1.02))
    lower.set(xlabel="confidence", ylabel="samples", yticks=[])
    lower.grid(visible=False)
    upper.legend()
    return _svg(figure)


@mpl.rc_context(_STYLE)
def risk_coverage(groups: Sequence[Group]) -> str:
    """Draw the error among the kept samples as the share refused grows."""
    kept = np.linspace(1, 0.02, 99)
    figure = Figure((4.4, 4.6), layout="constrained")
    axis = figure.subplots()
    for group, color in zip(groups, cycle(_SERIES), strict=False):
        for doubt, dash in (("uncertainty", "-"), ("abstention", _DASHED)):
            # A softmax that sums to 1 within rounding does not abstain.
            if any(getattr(run.predictions, doubt).max() > 1e-5 for run in group.runs):
                error = 100 * refusal(group, doubt, kept)
                label = f"{_short(group.name)}, by {doubt}"
                axis.plot(100 * (1 - kept), error, color=color, linestyle=dash, label=label)
    axis.set(xlabel="refused, % of the samples", ylabel="errors among the kept, %")
    axis.set(xlim=(0, 98), ylim=(0, None))
    axis.legend()
    return _svg(figure)


@mpl.rc_context(_STYLE)
def embedding(run: EvaluatedRun) -> str:
    """Draw the features' two main directions; errors ringed, anchors as stars, edges faint."""
    p = run.predictions
    points = _project(np.concatenate([p.features, p.anchor_features]))
    samples, anchors = np.split(points, [len(p.labels)])
    figure = Figure((6, 5), layout="constrained")
    axis = figure.subplots()
    if p.neighbor_index is not None and p.neighbor_weight is not None:
        start = np.repeat(samples[:, None], p.neighbor_index.shape[1], axis=1)
        lines = np.stack([start, points[p.neighbor_index]], axis=2)[p.neighbor_weight > 0]
        alpha = np.clip(1000 / max(1, len(lines)), 0.06, 0.3)  # many edges, each fainter
        edges = LineCollection(list(lines), colors="#808080", linewidths=0.4, alpha=alpha)
        edges.set_rasterized(True)  # thousands of lines: a picture is smaller
        axis.add_collection(edges)
    for k, name in enumerate(run.results["classes"]):
        color, marker = _CLASSES[k % len(_CLASSES)], _MARKERS[k // len(_CLASSES) % len(_MARKERS)]
        of_class, labelled = samples[p.labels == k], anchors[p.anchor_labels == k]
        axis.scatter(*of_class.T, s=12, color=color, marker=marker, linewidths=0)
        axis.scatter(*labelled.T, s=70, color=color, marker="*", edgecolors=_INK, linewidths=0.6)
        if len(of_class):
            x, y = np.median(of_class, axis=0)
            shown = name if len(name) <= 12 else name[:11] + "…"
            axis.text(x, y, shown, fontsize=12, weight="bold", ha="center", va="center", gid="halo")
    wrong = samples[~p.correct]
    axis.scatter(*wrong.T, s=34, facecolors="none", edgecolors=_INK, linewidths=0.9, zorder=4)
    axis.set_axis_off()
    return _svg(figure)


def _project(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Coordinates along the two main directions; the second is zero for a single feature."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(features), 2))
    points[:, : len(scale[:2])] = left[:, :2] * scale[:2]
    return points


def _svg(figure: Figure) -> str:
    """Return an SVG element that scales with the page and repeats no id of another figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace('<g id="halo">', '<g class="halo">')
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg

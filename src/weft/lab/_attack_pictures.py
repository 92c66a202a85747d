"""Pictures of an attack: accuracy against epsilon, and images before and after."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

_MOST = 8  # images shown


def draw_curve(results: dict[str, Any]) -> bytes:
    """Draw the accuracy that each attack leaves against epsilon, as PNG."""
    figure = Figure((7.6, 4.2), layout="constrained")
    axis = figure.subplots()
    _plot_curve(axis, results)
    axis.set(xlabel="epsilon (L-infinity, pixels in [0, 1])", ylabel="accuracy, %")
    axis.set_title(f"{results['data']}, {results['head']}: {results['threat']}", fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axis.grid(alpha=0.3)
    return _png(figure)


def _plot_curve(axis: Any, results: dict[str, Any]) -> None:
    """Draw one faint line per attack, a thick one for the worst case, dots for the union."""
    points = results["curve"]
    radii = [0.0, *(point["epsilon"] for point in points)]
    clean = 100 * results["clean"]
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(points[0]["methods"])))
    for number, row in enumerate(points[0]["methods"]):
        values = [clean, *percents(points, number)]
        axis.plot(radii, values, color=colors[number], linewidth=1.1, label=row["method"])
    worst = [clean, *(100 * point["worst"] for point in points)]
    axis.plot(radii, worst, color="black", linewidth=2.4, marker="o", label="worst case")
    union = [clean, *(100 * point["union"] for point in points)]
    if union != worst:
        axis.plot(radii, union, color="black", linestyle=":", label="union (nobody can do it)")
    axis.set_ylim(0, 102)


def percents(points: Sequence[dict[str, Any]], number: int) -> list[float]:
    """Return the accuracies that an attack leaves; nan where it was not needed."""
    found = [point["methods"][number]["accuracy"] for point in points]
    return [np.nan if share is None else 100 * share for share in found]


def choose_examples(arrays: dict[str, np.ndarray], most: int = _MOST) -> tuple[int, np.ndarray]:
    """Choose the smallest radius at which there are enough turned images, and some of those."""
    right = arrays["predicted_clean"] == arrays["labels"]
    turned = right & (arrays["predicted"] != arrays["labels"])
    counts = turned.sum(1)
    enough = np.flatnonzero(counts >= min(most, counts.max()))
    radius = int(enough[0])
    return radius, np.flatnonzero(turned[radius])[:most]


def draw_examples(arrays: dict[str, np.ndarray], classes: list[str]) -> bytes:
    """Draw clean images, perturbed ones, and their difference, as PNG."""
    radius, rows = choose_examples(arrays)
    epsilon = float(arrays["epsilons"][radius])
    clean, moved = arrays["clean"][rows], arrays["adversarial"][radius][rows]
    figure = Figure((1.1 * max(len(rows), 3) + 0.8, 4.2), layout="constrained")
    if not len(rows):
        figure.text(0.5, 0.5, "no image was turned", ha="center")
        return _png(figure)
    axes = figure.subplots(3, len(rows), squeeze=False)
    guesses = arrays["predicted"][radius][rows]
    for column, (before, after) in enumerate(zip(clean, moved, strict=True)):
        difference = 0.5 + (after - before) / (2 * epsilon)
        for line, image in enumerate((before, after, difference)):
            _show(axes[line, column], image)
        axes[0, column].set_title(classes[arrays["labels"][rows[column]]], fontsize=9)
        axes[1, column].set_title(classes[guesses[column]], fontsize=9, color="#b3360b")
    for line, name in enumerate(("clean", f"moved by {epsilon:g}", "difference")):
        axes[line, 0].set_ylabel(name, fontsize=9)
    return _png(figure)


def _show(axis: Any, image: np.ndarray) -> None:
    axis.set(xticks=[], yticks=[])
    if image.ndim == 1:
        axis.plot(image, linewidth=0.8)
        axis.set_ylim(0, 1)
        return
    picture = image.transpose(1, 2, 0)
    if picture.shape[2] != 3:
        picture = picture.mean(2)
    axis.imshow(picture.clip(0, 1), cmap="gray", vmin=0, vmax=1)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format="png", metadata={"Software": None})
    return buffer.getvalue()

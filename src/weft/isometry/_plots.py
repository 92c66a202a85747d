"""Pictures of what became of distances. Each function draws on axes and returns them.

Nothing is shown or saved, and no state of matplotlib changes: `axes.figure.savefig(path)`. Knows
matplotlib, which is imported when a picture is asked for.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import check_finite, check_floating
from weft.isometry._diagnostics import Diagnosis, fit_distances, quantiles
from weft.isometry._distances import Euclidean, Metric, checked_distances, flat_rows
from weft.isometry._losses import check_one_batch
from weft.isometry._pairs import WithinClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WITHIN_CLASS, _EUCLIDEAN = WithinClass(), Euclidean()


@torch.no_grad()
def plot_shepard(
    inputs: Float[Tensor, " p"], features: Float[Tensor, " p"], *, axes: "Axes | None" = None
) -> "Axes":
    """Draw a Shepard diagram: how many pairs have which distance in and which distance out.

    The dashed line is an isometry at the best scale; the title says how far the pairs are from it.

    Args:
        inputs: D, one distance per pair.
        features: d, of the same pairs.
        axes: to draw on; by default of a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing: `pip install 'weft[lab]'`.
        ValueError: as `fit_distances`.
    """
    fit = fit_distances(inputs, features)
    axes = axes or _new_axes()
    across, up = (part.detach().double().cpu() for part in (inputs, features))
    axes.hexbin(across.numpy(), up.numpy(), gridsize=50, bins="log", mincnt=1, cmap="viridis")
    # Stress compares D with s d at s = sum D d / sum d^2: the line is d = D / s.
    product = (across * up).sum()
    if product > 0:
        end = across.max().item()
        slope = (up.square().sum() / product).item()
        axes.plot([0, end], [0, slope * end], "--", color="black", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("distance of inputs")
    axes.set_ylabel("distance of features")
    axes.set_title(
        f"r = {fit.pearson:.3f}   rank r = {fit.spearman:.3f}   stress = {fit.stress:.3f}",
        fontsize="medium",
    )
    return axes


def plot_profile(profile: Mapping[str, Diagnosis], *, axes: "Axes | None" = None) -> "Axes":
    """Draw correlation, rank correlation and stress within classes, layer by layer.

    Lines are means over classes; bands reach from the least to the greatest class.

    Args:
        profile: as `layer_profile` returns it, in the order of the layers.
        axes: to draw on; by default of a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the profile has no layer.
    """
    if not profile:
        raise ValueError("`profile` must have at least one layer, got none: see layer_profile.")
    axes = axes or _new_axes()
    places = range(len(profile))
    for measure, name in (("pearson", "r"), ("spearman", "rank r"), ("stress", "stress")):
        mean = [getattr(found.class_mean(), measure) for found in profile.values()]
        every = [
            [getattr(fit, measure) for fit in found.classes.values()] for found in profile.values()
        ]
        (line,) = axes.plot(places, mean, "o-", markersize=4, label=name)
        low, high = list(map(min, every)), list(map(max, every))
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xticks(places, [name or "output" for name in profile])
    axes.set_xlabel("layer")
    axes.set_ylim(top=1.02)
    axes.legend(frameon=False)
    return axes


@torch.no_grad()
def plot_ratios(
    inputs: Float[Tensor, "n *shape"],
    features: Float[Tensor, "n *features"],
    labels: Int[Tensor, " n"],
    boundary: Float[Tensor, " n"],
    *,
    bins: int = 10,
    pairs: WithinClass = _WITHIN_CLASS,
    metric: Metric = _EUCLIDEAN,
    feature_metric: Metric = _EUCLIDEAN,
    generator: torch.Generator | None = None,
    axes: "Axes | None" = None,
) -> "Axes":
    """Draw by how much distances within classes changed, far from and near the decision boundary.

    The ratio d / D of each pair, over its median, against the smaller of its ends' distances to
    the boundary, in bins of equally many pairs: the median, and a band from 5 to 95 %. A map
    that is isometric up to scale is a flat line at one without band.

    Args:
        inputs: rows of any shape, flattened.
        features: of the same rows.
        labels: class numbers; rows with a negative one are not looked at.
        boundary: how far each row is from the boundary, such as `boundary_distance` estimates.
        bins: how many; at least 1.
        pairs: every pair within a class, or `WithinClass(per_sample=k)`.
        metric: of inputs.
        feature_metric: of features.
        generator: draws pairs.
        axes: to draw on; by default of a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: inputs, features or distances are not floating point.
        ValueError: NaN or infinite entries, sizes that do not fit, or fewer pairs of unequal
            inputs than bins.
    """
    rows = {"inputs": flat_rows("inputs", inputs), "features": flat_rows("features", features)}
    check_floating("boundary", boundary, "n")
    check_finite("boundary", boundary)
    for other in (features, labels, boundary):
        check_one_batch(len(inputs), len(other))
    chosen = pairs(len(labels), labels, generator, inputs.device).rows
    before = checked_distances(rows["inputs"], chosen, metric).double()
    after = checked_distances(rows["features"], chosen, feature_metric).double()
    apart = before > 1e-6 * before.max() if len(before) else before > 0  # equal inputs: no ratio
    if not 1 <= bins <= apart.sum():
        raise ValueError(
            f"`bins` must be from 1 to the number of pairs of unequal inputs, {int(apart.sum())}, "
            f"got {bins}: take fewer, or more rows of a class."
        )
    ratio = (after / before)[apart]
    ratio = ratio / ratio.median()
    near = boundary.double()[chosen].amin(0)[apart]
    order = near.argsort(stable=True)
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=ratio.dtype, device=ratio.device)
    parts = [
        (near[part].median(), quantiles(ratio[part], levels)) for part in order.tensor_split(bins)
    ]
    across = [middle.item() for middle, _ in parts]
    low, median, high = torch.stack([found for _, found in parts], dim=1).tolist()
    axes = axes or _new_axes()
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.fill_between(across, low, high, alpha=0.2, linewidth=0, label="5 to 95 %")
    axes.plot(across, median, "o-", markersize=4, label="median")
    axes.set_xlabel("distance to the decision boundary (nearer end)")
    axes.set_ylabel("feature / input distance, over its median")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return axes


def _new_axes() -> "Axes":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which is not installed: run pip install 'weft[lab]'."
        ) from error
    return Figure(figsize=(4.6, 3.6), layout="constrained").subplots()

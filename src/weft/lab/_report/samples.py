"""What the explorer shows: each group's first run as values for JSON, with pictures on a sheet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from weft.lab._report.loading import EvaluatedRun, Predictions
from weft.lab._report.numbers import Group
from weft.lab._report.pictures import Sheet, as_tiles

_SHOWN_CLASSES = 10  # probabilities kept per sample


def explorer_data(groups: Sequence[Group], sheet: Sheet) -> dict[str, Any]:
    """Gather the samples of each group's first run, and put their pictures on the sheet.

    Shares and weights are rounded to four digits. Of the anchors, only those that some sample
    points to have a picture; the place of the others is -1.
    """
    runs = [_run_data(group, group.runs[0], sheet) for group in groups]
    return {
        "classes": groups[0].runs[0].results["classes"],
        "sheet": {"columns": sheet.columns, "rows": sheet.rows, "side": sheet.side},
        "runs": runs,
    }


def _run_data(group: Group, run: EvaluatedRun, sheet: Sheet) -> dict[str, Any]:
    p = run.predictions
    order = np.argsort(-p.probabilities, axis=1, kind="stable")[:, :_SHOWN_CLASSES]
    table: dict[str, Any] = {
        "name": f"{group.name}, {group.amount} labels, seed {run.recipe.seed}",
        "index": p.index.tolist(),
        "labels": p.labels.tolist(),
        "tiles": sheet.add(as_tiles(p.inputs, like=p.inputs)),
        "classes": order.tolist(),
        "probabilities": _rounded(np.take_along_axis(p.probabilities, order, axis=1)),
        "truth": _rounded(p.probabilities[np.arange(len(p.labels)), p.labels]),
        "abstention": _rounded(p.abstention),
        "anchors": {"labels": p.anchor_labels.tolist(), "tiles": _anchor_tiles(p, sheet)},
        "reasons": None,
        "neighbors": None,
    }
    if p.reason_anchor is not None and p.reason_weight is not None:
        table["reasons"] = {
            "anchors": p.reason_anchor.tolist(),
            "weights": _rounded(p.reason_weight),
            "corrected": _corrected(p, p.reason_anchor, p.reason_weight),
        }
    if p.neighbor_index is not None and p.neighbor_weight is not None:
        weights = _rounded(p.neighbor_weight)
        table["neighbors"] = {"nodes": p.neighbor_index.tolist(), "weights": weights}
    return table


def _anchor_tiles(p: Predictions, sheet: Sheet) -> list[int]:
    pointed_at = []
    if p.reason_anchor is not None:
        pointed_at.append(p.reason_anchor.ravel())
    if p.neighbor_index is not None:
        nodes = p.neighbor_index.ravel()
        pointed_at.append(nodes[nodes >= len(p.labels)] - len(p.labels))
    places = np.full(len(p.anchor_labels), -1)
    if pointed_at:
        used = np.unique(np.concatenate(pointed_at))
        places[used] = sheet.add(as_tiles(p.anchor_inputs[used], like=p.inputs))
    return places.tolist()


def _corrected(
    p: Predictions, anchors: Int[np.ndarray, "m r"], weights: Float[np.ndarray, "m r"]
) -> bool:
    """Tell whether the head corrected class masses: a class then has less than its own votes."""
    votes = np.zeros_like(p.probabilities)
    np.add.at(votes, (np.arange(len(anchors))[:, None], p.anchor_labels[anchors]), weights)
    return bool((votes > p.probabilities + 1e-3).any())


def _rounded(values: np.ndarray) -> list:
    return np.round(values.astype(np.float64), 4).tolist()

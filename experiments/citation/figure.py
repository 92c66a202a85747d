"""Draw docs/figures/citation.png from results.csv: python experiments/citation/figure.py."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tables import KINDS, METHODS, half_width, random_splits, read

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "citation.png"
COLOURS = {"none": "0.45", "given": "C0", "features": "C1", "both": "C2"}


def main() -> None:
    runs = read()
    names = tuple(dict.fromkeys(key[0] for key in runs))
    methods = METHODS[::-1]
    figure, axes = plt.subplots(1, len(names), figsize=(9, 5), sharey=True, layout="constrained")
    for axis, data in zip(axes, names, strict=True):
        for row, method in enumerate(methods):
            for place, kind in enumerate(KINDS):
                splits = runs.get((data, method, kind))
                if not splits:
                    continue
                numbers = random_splits(splits)
                axis.errorbar(
                    numbers.mean(),
                    row + 0.24 - 0.16 * place,
                    xerr=half_width(numbers),
                    fmt="o",
                    markersize=4,
                    color=COLOURS[kind],
                    label=KINDS[kind],
                )
        axis.set(title=data.title(), xlabel="accuracy on ten random splits, %")
        axis.set_yticks(range(len(methods)), methods)
        axis.grid(axis="x", alpha=0.3)
        axis.set_ylim(-0.6, len(methods) - 0.4)
        for row in range(1, len(methods), 2):
            axis.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0)
    found = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        [found[label] for label in KINDS.values()],
        KINDS.values(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()

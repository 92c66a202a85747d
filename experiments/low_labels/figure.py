"""Draw docs/figures/how_to_choose.png from results.csv: python experiments/low_labels/figure.py."""

from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from encode import HERE
from run import DATA, INPUTS, RATES, read

FIGURE = HERE.parents[1] / "docs" / "figures" / "how_to_choose.png"
NODES = "10000"
METHODS = {
    "PoissonMBO, volumes known": ("C3", "-"),
    "Laplace, class masses": ("C0", "-"),
    "Poisson": ("C1", "-"),
    "WNLL": ("C2", "-"),
    "label spreading": ("C4", "-"),
    "graph nearest neighbour": ("0.5", "--"),
    "Laplace": ("C0", ":"),
}


def main() -> None:
    rows = [row for row in read() if row["nodes"] == NODES]
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    for line, source in zip(axes, INPUTS, strict=True):
        for axis, data in zip(line, DATA, strict=True):
            for method, (color, style) in METHODS.items():
                found = [
                    [
                        float(row["accuracy"])
                        for row in rows
                        if (row["data"], row["input"]) == (data, source)
                        and (row["method"], row["labels"]) == (method, str(rate))
                    ]
                    for rate in RATES
                ]
                if all(found):
                    means = [mean(values) for values in found]
                    axis.plot(RATES, means, style, color=color, label=method)
            axis.set(title=f"{data}, {source}", xticks=RATES)
            axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %")
    for axis in axes[1]:
        axis.set_xlabel("labels per class")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(FIGURE, dpi=90)


if __name__ == "__main__":
    main()

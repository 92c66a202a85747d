"""Draw the picture of docs/robustness.md: one head, judged as published and as it is.

Run: python docs/figures/robustness.py
"""

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from weft.lab.attack import AttackSettings, attack
from weft.lab.recipe import Recipe
from weft.lab.runs import ATTACK, Run
from weft.lab.train import train

SETTINGS = AttackSettings("0.05,0.1,0.2,0.3", images=100, batch=100, steps=15, victims=0)


def main(path: Path) -> None:
    """Train two heads, attack both, and draw."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        for axis, head, epochs in zip(axes, ("softmax", "graph"), (20, 5), strict=False):
            run = Run.create(Path(folder) / head, Recipe(head=head, epochs=epochs, threads=1))
            train(run)
            results = attack(run, SETTINGS)
            curves(axis, results)
            failed = sum(not c["passed"] for one in results["masking"] for c in one["checks"])
            axis.set_title(f"{head} head on digits: {failed} checks failed", fontsize=10)
        with np.load(run.path / ATTACK / "adversarial.npz") as file:
            pictures(axes[2], dict(file))
    figure.savefig(path, dpi=110)


def curves(axis, results):
    """Draw published attacks, adaptive ones and the worst case."""
    points, clean = results["curve"], 100 * results["clean"]
    radii = [0.0, *(point["epsilon"] for point in points)]
    for number, name in enumerate(row["method"] for row in points[0]["methods"]):
        found = [point["methods"][number]["accuracy"] for point in points]
        values = [clean, *(np.nan if share is None else 100 * share for share in found)]
        published = name.startswith(("FGSM", "IFGSM"))
        style = {"color": "#c2500a", "ls": "--"} if published else {"color": "#c5c9cd", "lw": 0.9}
        label = "published: FGSM, IFGSM" if number == 0 else "adaptive" if number == 2 else None
        axis.plot(radii, values, label=label, **style)
    worst = [clean, *(100 * point["worst"] for point in points)]
    axis.plot(radii, worst, "o-", color="#0072b2", lw=2.4, label="worst case")
    axis.set(xlabel="epsilon, pixels in [0, 1]", ylabel="right, %", ylim=(0, 102))
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)


def pictures(axis, kept):
    """Draw images before and after."""
    number = int(np.flatnonzero(np.isclose(kept["epsilons"], 0.1))[0])
    turned = (kept["predicted"][number] != kept["labels"]) & (
        kept["predicted_clean"] == kept["labels"]
    )
    rows = np.flatnonzero(turned)[:5]
    clean, moved = kept["clean"][rows, 0], kept["adversarial"][number][rows, 0]
    lines = [clean, moved, 0.5 + (moved - clean) / 0.2]
    framed = [[np.pad(image, 1, constant_values=1.0) for image in line] for line in lines]
    sheet = np.vstack([np.hstack(line) for line in framed])
    axis.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[5, 15, 25])
    axis.set_yticklabels(["clean", "moved by 0.1", "difference"])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    words = "   ".join(
        f"{a}→{b}"
        for a, b in zip(kept["labels"][rows], kept["predicted"][number][rows], strict=True)
    )
    axis.set_title(words, fontsize=10)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/figures/robustness.png"))

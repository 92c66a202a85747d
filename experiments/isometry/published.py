"""The published evaluation, repeated, and why it overstates.

    python experiments/isometry/published.py --seeds 5
    python experiments/isometry/published.py --data mnist --seeds 5
    python experiments/isometry/published.py --figure

The released code attacks by one signed step (FGSM) up the loss of the *training*, cross-entropy and
isometry, in test batches of 100. Beside it stand the same step up the cross-entropy alone, and PGD
and APGD. `same sign` is the share of pixels that both one-step attacks move the same way: half is
what a coin does. Rows are added to published.csv.
"""

import argparse
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from ledger import Ledger
from setting import BATCH, CE, RIVALS, Method, load, methods, paper, train
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from weft.isometry import Reduction, SquaredError, isometry_loss
from weft.robustness import APGD, PGD, IndependentRows, LInf, attack, margin, worst_case
from weft.robustness import cross_entropy as attacked_cross_entropy

LEDGER = Ledger(Path(__file__).with_name("published.csv"))
FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "isometry_published.png"
RADII = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
IMAGES = 400  # attacked
WAYS = ("released", "FGSM", "worst")
SETTINGS = {  # beta and K of the paper's loss; the first is the released code's, digits are ours
    "digits": ((100.0, 1.0), (0.1, 10.0)),
    "mnist": ((0.1, 10.0), (10.0, 1.0)),
    "fashion_mnist": ((10.0, 1.0),),
}


def slopes(model: nn.Sequential, inputs: Tensor, labels: Tensor, beta: float, scale: float):
    """Return the gradients in the inputs of the cross-entropy and of the training's loss."""
    ours, theirs = [], []
    for rows in torch.arange(len(labels)).split(BATCH):
        images = inputs[rows].clone().requires_grad_()
        features = model.body(images)
        first = cross_entropy(model.head(features), labels[rows])
        isometry = isometry_loss(
            images,
            features,
            labels[rows],
            discrepancy=SquaredError(scale),
            reduction=Reduction.MATRIX,
            differentiate_inputs=True,
        )
        (alone,) = torch.autograd.grad(first, images, retain_graph=True)
        (both,) = torch.autograd.grad(first + beta * isometry, images)
        ours.append(alone)
        theirs.append(both)
    return torch.cat(ours), torch.cat(theirs)


def measure(
    data: str, method: Method, setting: tuple[float, float] | None, seed: int
) -> dict[str, float]:
    """Train, and attack as published and otherwise; without isometry, these two are one."""
    model, task = train(method, data, seed), load(data, seed)
    inputs, labels = task.test_inputs[:IMAGES], task.test_labels[:IMAGES]
    beta, scale = setting or (0.0, 1.0)
    alone, both = slopes(model, inputs, labels, beta, scale)
    moved = alone != 0
    same = (alone.sign() == both.sign())[moved].double().mean().item()

    @torch.no_grad()
    def right(points: Tensor) -> float:
        return 100 * (model(points).argmax(1) == labels).double().mean().item()

    found = {"clean": right(inputs), "same sign": 100 * same}
    for radius in RADII:
        found[f"released {radius:g}"] = right((inputs + radius * both.sign()).clamp(0, 1))
        found[f"FGSM {radius:g}"] = right((inputs + radius * alone.sign()).clamp(0, 1))
        results = [
            attack(
                model,
                inputs,
                labels,
                ball=LInf(radius),
                method=method,
                threat=IndependentRows(IMAGES),
            )
            for method in (PGD(40, loss=attacked_cross_entropy), APGD(50, loss=margin))
        ]
        found[f"worst {radius:g}"] = 100 * worst_case(results).accuracy
    return found


def name(setting: tuple[float, float] | None) -> str:
    return "cross-entropy" if setting is None else "beta {:g}, K {:g}".format(*setting)


def draw() -> None:
    """Draw accuracy against the radius, by three attacks, for each data set that has rows."""
    present = [data for data in SETTINGS if LEDGER.rows(data)]
    figure, panels = plt.subplots(
        1, len(present), figsize=(4.2 * len(present), 3.8), layout="constrained", sharey=True
    )
    for panel, data in zip(np.atleast_1d(panels), present, strict=True):
        for setting, colour in ((None, "0.45"), (SETTINGS[data][0], "#d95f02")):
            for way, style in zip(WAYS, (":", "--", "-"), strict=True):
                if setting is None and way == "released":
                    continue  # there is no second term: it is FGSM
                values = np.stack(
                    [LEDGER.values(data, name(setting), f"{way} {radius:g}") for radius in RADII]
                )
                shown = {"released": "FGSM on the training's loss", "worst": "PGD and APGD"}
                network = "without isometry" if setting is None else "with isometry"
                label = f"{network}: {shown.get(way, 'FGSM on the cross-entropy')}"
                panel.plot(RADII, values.mean(1), style, color=colour, label=label)
                panel.fill_between(
                    RADII, values.min(1), values.max(1), color=colour, alpha=0.12, linewidth=0
                )
        panel.axhline(10, color="0.8", linewidth=0.8, zorder=0)
        count = f"{values.shape[1]} seeds" if values.shape[1] > 1 else "1 seed"
        panel.set(xscale="log", xlabel="radius, L-infinity")
        panel.set_title(f"{data}: {name(SETTINGS[data][0])} ({count})", fontsize="medium")
        panel.set_xticks([0.01, 0.1, 1.0], ["0.01", "0.1", "1"])
    first = np.atleast_1d(panels)[0]
    first.set(ylabel="right, percent", ylim=(0, 102))
    figure.legend(
        *first.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(present),
        fontsize="small",
        frameon=False,
    )
    figure.savefig(FIGURE, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", choices=tuple(SETTINGS), default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--figure", action="store_true", help="draw, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.figure:
        draw()
        return
    data = arguments.data
    chosen = {name(None): partial(measure, data, Method((CE,)), None)}
    for setting in SETTINGS[data]:
        chosen[name(setting)] = partial(measure, data, Method((CE, paper(*setting))), setting)
    for rival in RIVALS:
        chosen[rival] = partial(measure, data, methods()[rival], None)
    LEDGER.run(data, chosen, range(arguments.seeds))
    shown = [f"{way} {radius:g}" for radius in (0.1, 0.3) for way in WAYS]
    print(LEDGER.table(data, ["clean", "same sign", *shown, "released 1", "worst 1"], digits=1))


if __name__ == "__main__":
    main()

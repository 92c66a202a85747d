"""Long-tailed digits: every method at given settings, then tuned with equal budgets.

    python experiments/logits/digits.py

Rows of each method are added to results.csv (tuning: tuning.csv) as they come; what is there is
not run again. `python experiments/logits/report.py` prints the tables.
"""

import dataclasses
import warnings
from functools import partial
from itertools import product

import torch
from rows import RESULTS, append, done, run, tune
from setting import (
    CROSS_ENTROPY,
    NUM_CLASSES,
    Loss,
    Method,
    Networks,
    Tasks,
    digits,
    mlps,
    predict,
    train,
)

from weft._check import WeftWarning
from weft.logits import (
    LDAM,
    LPL,
    ByConfidence,
    BySize,
    ClassMargin,
    ClassStats,
    Compose,
    GaussianCloud,
    LogitAdjustment,
    VectorScaling,
    class_balanced_weights,
    focal_loss,
)

SEEDS, TUNING_SEEDS = range(30), range(1000, 1010)
DRW_BETA, DRW_START = 0.9999, 0.8
DECAYS = (1.7e-4, 5e-4, 1.5e-3, 5e-3, 1e-2)


def la(temperature: float) -> Method:
    return Method(lambda stats: LogitAdjustment(stats, temperature))


def sorted_la(temperature: float) -> Method:
    """Take class ids for size ranks, which is the fault: priors in falling order."""

    def perturb(stats: ClassStats) -> LogitAdjustment:
        return LogitAdjustment(ClassStats(stats.counts.sort(descending=True).values), temperature)

    return Method(perturb)


def vs(gamma: float, temperature: float) -> Method:
    return Method(lambda stats: VectorScaling(stats, gamma, temperature))


def lpl(delta: float, *, epsilon: float = 0.0, prior: float = 0.0, **options) -> Method:
    """Learn shifts within bounds by size, on logits adjusted at the temperature `prior`."""
    return Method(partial(_by_size, LPL, epsilon, delta, prior, options))


def margin(delta: float, *, epsilon: float = 0.0, prior: float = 0.0) -> Method:
    """Push by a fixed margin within the same bounds."""
    return Method(partial(_by_size, ClassMargin, epsilon, delta, prior, {}))


def _by_size(kind, epsilon, delta, prior, options, stats: ClassStats):
    own = kind(stats, BySize(epsilon, delta), **options)
    return Compose(LogitAdjustment(stats, prior), own) if prior else own


def by_confidence(kind: type[LPL] | type[ClassMargin], epsilon: float, prior: float = 0) -> Method:
    """Push up the classes less sure than the mean of those present, the others down."""

    def perturb(stats: ClassStats):
        own = kind(stats, ByConfidence(epsilon))
        return Compose(LogitAdjustment(stats, prior), own) if prior else own

    return Method(perturb)


def balanced(beta: float, *, deferred: float = 0.0) -> Method:
    """Weigh classes by their effective number, from the start or at the end only (DRW)."""

    def own_loss(stats: ClassStats) -> Loss:
        return partial(CROSS_ENTROPY, weight=class_balanced_weights(stats, beta).float())

    return Method(own_loss=own_loss, deferred=deferred)


def focal(gamma: float) -> Method:
    return Method(loss=partial(focal_loss, gamma=gamma, reduction="none"))


def smoothed(share: float) -> Method:
    return Method(loss=partial(CROSS_ENTROPY, label_smoothing=share))


def ldam(size: float, scale: float, *, deferred: bool = False) -> Method:
    """Subtract LDAM's margins from cosines; `deferred`, with class weights at the end (DRW)."""
    method = balanced(DRW_BETA, deferred=DRW_START) if deferred else Method()

    def perturb(stats: ClassStats) -> LDAM:
        return LDAM(stats, size, scale)

    return dataclasses.replace(method, perturb=perturb, scale=scale)


def gcl(scale: float) -> Method:
    def perturb(stats: ClassStats) -> GaussianCloud:
        generator = torch.Generator().manual_seed(0)
        return GaussianCloud(stats, generator=generator, scale=scale)

    return Method(perturb, scale=scale)


def isda(strength: float, prior: float = 0.0) -> Method:
    return dataclasses.replace(la(prior) if prior else Method(), spread=strength)


def flipped(epsilon: float) -> Method:
    """Turn the signs of LPL by confidence round: a control."""

    class Flipped(ByConfidence):
        def __call__(self, counts, confidence):
            return -super().__call__(counts, confidence)

    return Method(lambda stats: LPL(stats, Flipped(epsilon)))


GIVEN = {
    "CE": Method(),
    "CE, post-hoc LA 1": Method(post_hoc=1.0),
    "CE, post-hoc LA 1.5": Method(post_hoc=1.5),
    "LA 1": la(1.0),
    "LA 1.5": la(1.5),
    "LA 1, priors sorted (fault)": sorted_la(1.0),
    "VS 0.1 / 0.5": vs(0.1, 0.5),
    "class-balanced 0.99": balanced(0.99),
    "DRW": balanced(DRW_BETA, deferred=DRW_START),
    "focal 1": focal(1.0),
    "cosine 20": Method(scale=20.0),
    "LDAM 0.5 / 20": ldam(0.5, 20.0),
    "LDAM-DRW 0.5 / 20": ldam(0.5, 20.0, deferred=True),
    "GCL 20": gcl(20.0),
    "ISDA 0.5": isda(0.5),
    "LPL 8": lpl(8.0),
    "margin 8": margin(8.0),
    "LPL 6": lpl(6.0),
    "margin 6": margin(6.0),
    "LPL 8, K = 3": lpl(8.0, steps=3),
    "LPL 8, K = 10": lpl(8.0, steps=10),
    "LPL fixed 4": lpl(0.0, epsilon=4.0),
    "LPL 1.5, K = 10": lpl(1.5, steps=10),
    "LPL 1.5, K = 10, raw": lpl(1.5, steps=10, normalize=False),
    "LPL 8, K = 10, raw": lpl(8.0, steps=10, normalize=False),
    "LA 1 + LPL 1": lpl(1.0, prior=1.0),
    "LA 1 + LPL 2": lpl(2.0, prior=1.0),
    "LA 1 + LPL 4": lpl(4.0, prior=1.0),
    "LA 1 + margin 1": margin(1.0, prior=1.0),
    "LA 1 + margin 2": margin(2.0, prior=1.0),
    "LA 1 + margin 4": margin(4.0, prior=1.0),
    "margin by confidence 1": by_confidence(ClassMargin, 1.0),
    "LA 1 + margin by confidence 1": by_confidence(ClassMargin, 1.0, 1.0),
    "LPL by confidence 1": by_confidence(LPL, 1.0),
    "LA 1 + LPL by confidence 1": by_confidence(LPL, 1.0, 1.0),
}
LESS_IMBALANCE = {
    name: GIVEN[name]
    for name in ("CE", "CE, post-hoc LA 1.5", "LA 1", "LA 1.5", "VS 0.1 / 0.5", "LPL 8")
} | {
    "LPL 4": lpl(4.0),
    "margin 4": margin(4.0),
    "LA 1 + LPL 2": GIVEN["LA 1 + LPL 2"],
    "LA 1 + margin 2": GIVEN["LA 1 + margin 2"],
}
BY_DECAY = {name: GIVEN[name] for name in ("CE", "LA 1", "LA 1.5", "LPL 6", "margin 6")} | {
    "LPL 4": lpl(4.0),
    "margin 4": margin(4.0),
    "LA 1 + LPL 1": GIVEN["LA 1 + LPL 1"],
    "LA 1 + LPL 2": GIVEN["LA 1 + LPL 2"],
    "LA 1 + margin 1": GIVEN["LA 1 + margin 1"],
}
BALANCED = {
    "CE": Method(),
    "LPL by confidence 1": by_confidence(LPL, 1.0),
    "LPL by confidence 2": by_confidence(LPL, 2.0),
    "LPL by confidence 1, signs flipped": flipped(1.0),
    "LPL by confidence 2, signs flipped": flipped(2.0),
    "margin by confidence 1": by_confidence(ClassMargin, 1.0),
    "margin by confidence 2": by_confidence(ClassMargin, 2.0),
    "label smoothing 0.1": smoothed(0.1),
    "focal 1": focal(1.0),
    "ISDA 0.5": isda(0.5),
    "ISDA 2": isda(2.0),
}
# Four settings of its own for each family, times three weight decays: twelve each.
TUNED_DECAYS = [{"weight_decay": decay} for decay in (5e-4, 1.5e-3, 5e-3)]
GRIDS: dict[str, dict[str, Method]] = {
    "CE": {f"rate {r}": Method(learning_rate=r) for r in (0.03, 0.05, 0.1, 0.2)},
    "CE, post-hoc LA": {f"{t}": Method(post_hoc=t) for t in (0.75, 1.0, 1.5, 2.0)},
    "LA": {f"{t}": la(t) for t in (0.75, 1.0, 1.25, 1.5)},
    "VS": {f"{g} / {t}": vs(g, t) for g, t in ((0.05, 1.0), (0.1, 0.5), (0.1, 1.0), (0.2, 1.0))},
    "class-balanced": {f"{b}": balanced(b) for b in (0.9, 0.99, 0.999, 0.9999)},
    "DRW": {
        f"{b} from {d}": balanced(b, deferred=d) for b, d in product((0.99, 0.9999), (0.5, 0.8))
    },
    "focal": {f"{g}": focal(g) for g in (0.5, 1.0, 2.0, 3.0)},
    "label smoothing": {f"{s}": smoothed(s) for s in (0.05, 0.1, 0.2, 0.3)},
    "cosine": {f"scale {s}": Method(scale=s) for s in (5.0, 10.0, 20.0, 30.0)},
    "LDAM": {f"{m} / {s}": ldam(m, s) for m, s in product((0.3, 0.5), (10.0, 20.0))},
    "LDAM-DRW": {
        f"{m} / {s}": ldam(m, s, deferred=True) for m, s in product((0.3, 0.5), (10.0, 20.0))
    },
    "GCL": {f"scale {s}": gcl(s) for s in (5.0, 10.0, 20.0, 30.0)},
    "ISDA": {f"{s}": isda(s) for s in (0.25, 0.5, 1.0, 2.0)},
    "LA 1 + ISDA": {f"{s}": isda(s, prior=1.0) for s in (0.25, 0.5, 1.0, 2.0)},
    "LPL": {f"{d}": lpl(d) for d in (2.0, 4.0, 6.0, 8.0)},
    "LPL fixed": {f"{e}": lpl(0.0, epsilon=e) for e in (1.0, 2.0, 4.0, 6.0)},
    "margin": {f"{d}": margin(d) for d in (2.0, 4.0, 6.0, 8.0)},
    "LA 1 + LPL": {f"{d}": lpl(d, prior=1.0) for d in (0.5, 1.0, 2.0, 4.0)},
    "LA 1 + margin": {f"{d}": margin(d, prior=1.0) for d in (0.5, 1.0, 2.0, 4.0)},
    "LPL by confidence": {f"{e}": by_confidence(LPL, e) for e in (0.5, 1.0, 2.0, 4.0)},
    "margin by confidence": {f"{e}": by_confidence(ClassMargin, e) for e in (0.5, 1.0, 2.0, 4.0)},
    "LA 1 + margin by confidence": {
        f"{e}": by_confidence(ClassMargin, e, 1.0) for e in (0.5, 1.0, 2.0, 4.0)
    },
    "LA 1 + LPL by confidence": {f"{e}": by_confidence(LPL, e, 1.0) for e in (0.5, 1.0, 2.0, 4.0)},
}


def largest_change_by_relabelling(method: Method) -> float:
    """Return by how much any test logit changes when classes are numbered otherwise, in float64."""
    tasks = digits(range(2), imbalance=50)
    wide = {"inputs": tasks.inputs.double(), "test_inputs": tasks.test_inputs.double()}
    tasks = dataclasses.replace(tasks, **wide)
    order = torch.randperm(NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    renamed = dataclasses.replace(
        tasks,
        targets=order[tasks.targets],
        stats=[ClassStats(stats.counts[order.argsort()]) for stats in tasks.stats],
    )

    def build(tasks: Tasks, method: Method, *, rename: bool) -> Networks:
        networks = mlps(tasks, method).double()
        for parameters in (networks.weights, networks.biases) if rename else ():
            parameters[-1].data = parameters[-1].data[..., order.argsort()]
        return networks

    logits = predict(train(tasks, method, build=partial(build, rename=False)), tasks)
    others = predict(train(renamed, method, build=partial(build, rename=True)), renamed)
    return (logits - others[..., order]).abs().max().item()


def main() -> None:
    torch.set_num_threads(1)
    # Bounds beyond the safe region are part of what is measured.
    warnings.simplefilter("ignore", WeftWarning)
    tasks = digits(SEEDS, imbalance=50)
    run(RESULTS, "imbalance 50", GIVEN, tasks)
    for decay in DECAYS:
        methods = {n: dataclasses.replace(m, weight_decay=decay) for n, m in BY_DECAY.items()}
        run(RESULTS, f"imbalance 50, decay {decay:g}", methods, tasks)
    run(RESULTS, "imbalance 10", LESS_IMBALANCE, digits(SEEDS, imbalance=10))
    run(RESULTS, "balanced, 12 per class", BALANCED, digits(SEEDS, imbalance=1, largest=12))
    for name in ("LA 1.5", "LPL 8"):
        if not done(RESULTS, "relabelling", name, ""):
            change = largest_change_by_relabelling(GIVEN[name])
            append(RESULTS, [{"experiment": "relabelling", "method": name, "change": change}])
    chosen = tune("imbalance 50", GRIDS, [digits(TUNING_SEEDS, imbalance=50)], TUNED_DECAYS)
    run(RESULTS, "imbalance 50, tuned", chosen, tasks)


if __name__ == "__main__":
    main()

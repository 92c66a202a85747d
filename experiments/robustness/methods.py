"""Every method of the tables, by its name there."""

from functools import partial

from objectives import Adversarial, Isometry, Jacobian, Pairs, Trades
from setting import Method

from weft.graph import WNLL, Constant, Gaussian, Laplace, SelfTuned, Tapered
from weft.heads import GraphHead
from weft.robustness import margin

TRAINED_AT = {"digits": 0.1, "mnist": 0.3, "fashion_mnist": 0.05, "cifar10": 0.03137}
head = partial(GraphHead, 10)
fixed = partial(head, bandwidth=Constant(1.0))
raw = partial(head, normalize=False)
raw_fixed = partial(raw, bandwidth=Constant(1.0))


def published() -> dict[str, Method]:
    """Return the classifiers of the papers, and their twins."""
    return {
        "softmax": Method(),
        "graph": Method(head),
        "graph, as accurate as softmax": Method(head, until_as_good_as="softmax"),
        "graph, constant bandwidth": Method(fixed),
        "graph, WNLL": Method(partial(head, equation=Laplace(0.01, reweighting=WNLL()))),
        "softmax, isometry": Method(objective=Isometry(10.0)),
        "graph, isometry": Method(raw, Isometry(10.0)),
    }


def without_attacks(epsilon: float) -> dict[str, Method]:
    """Return what may make a head robust without adversarial examples of the classifier."""
    pairs, jacobian = Pairs(epsilon), Jacobian(0.1)
    relative = Pairs(epsilon, weight=100.0, relative=True)
    return {
        "graph, tapered": Method(partial(head, kernel=Tapered())),
        "graph, bandwidth floor 0.5": Method(partial(head, bandwidth=SelfTuned(0.5))),
        "graph, tau 1": Method(partial(head, tau=1.0)),
        "graph, 100 anchors per class": Method(head, final_anchors=100),
        "graph, pixel edges": Method(partial(head, input_edges=1.0)),
        "graph on pixels, untrained": Method(raw, final_anchors=100, pixels=True),
        "softmax, Jacobian": Method(objective=jacobian),
        "graph, Jacobian": Method(raw, jacobian),
        "softmax, pairs": Method(objective=pairs),
        "graph, pairs": Method(raw, pairs),
        "graph, pairs, constant bandwidth": Method(raw_fixed, pairs),
        "graph, relative pairs": Method(fixed, relative, final_anchors=100),
        "softmax, relative pairs": Method(objective=relative),
        "graph on pairs features, 100 anchors": Method(
            fixed, encoder_of="softmax, pairs", final_anchors=100
        ),
        "graph, pairs, isometry": Method(raw, Pairs(epsilon, isometry=10.0)),
        "nearest feature, pairs": Method(encoder_of="softmax, pairs", nearest=True),
        "nearest pixels": Method(nearest=True),
    }


def with_attacks(epsilon: float, steps: int = 400) -> dict[str, Method]:
    """Return adversarial training, by softmax and through the graph, at equal steps and passes."""
    trades, more = Trades(epsilon), Trades(epsilon, warmup=0.0)
    soft = partial(fixed, kernel=Gaussian(2.0))
    still = partial(Trades, epsilon, beta=3.0, warmup=0.0)  # beside pairs
    after = {"steps": steps // 2, "starts_from": "softmax, TRADES"}
    return {
        "softmax, PGD training": Method(objective=Adversarial(epsilon), steps=steps),
        "softmax, TRADES": Method(objective=trades, steps=steps),
        "graph, PGD training": Method(fixed, Adversarial(epsilon), steps=steps),
        "graph, PGD training, margin": Method(
            fixed, Adversarial(epsilon, climb=margin, features=0.5), steps=steps
        ),
        "graph, TRADES": Method(fixed, trades, steps=steps),
        "graph, TRADES, tapered": Method(partial(fixed, kernel=Tapered()), trades, steps=steps),
        "graph, TRADES, wide": Method(partial(soft, k=100), trades, steps=steps),
        "graph, TRADES, hard anchors": Method(fixed, encoder_of="graph, TRADES", hardened=epsilon),
        "graph on TRADES features": Method(head, encoder_of="softmax, TRADES"),
        "softmax, TRADES, then TRADES": Method(objective=more, **after),
        "graph, TRADES, after softmax": Method(fixed, more, **after),
        **{
            f"graph, TRADES, after softmax, {count} anchors": Method(
                fixed, encoder_of="graph, TRADES, after softmax", final_anchors=count
            )
            for count in (100, 300)
        },
        "softmax, TRADES, then TRADES and pairs": Method(
            objective=still(pairs=Pairs(epsilon, weight=5.0)), **after
        ),
        "graph, TRADES and pairs, after softmax, 100 anchors": Method(
            fixed,
            still(pairs=Pairs(epsilon, weight=50.0, relative=True)),
            **after,
            final_anchors=100,
        ),
    }


def candidates(epsilon: float) -> dict[str, Method]:
    """Return what was tried on validation images only, besides the methods of the tables."""
    found = {}
    for beta in (2.0, 12.0):
        trades = Trades(epsilon, beta=beta)
        found[f"softmax, TRADES, beta {beta:g}"] = Method(objective=trades)
        found[f"graph, TRADES, beta {beta:g}"] = Method(fixed, trades)
    return found


def all_methods(data: str) -> dict[str, Method]:
    """Return all, for a task."""
    epsilon = TRAINED_AT[data]
    steps = 400 if data == "digits" else 800
    return {
        **published(),
        **without_attacks(min(epsilon, 0.1)),
        **with_attacks(epsilon, steps),
        **candidates(epsilon),
    }

"""Does isometry within classes give better graphs? The graph head and the softmax, by recipe.

    python experiments/isometry/graphs.py --seeds 5
    python experiments/isometry/graphs.py --data fashion_mnist --seeds 5

Trains recipes on 100 labels, with and without isometry of the features, and asks: how many test
samples (2000 at most) are right, all in one graph with the labelled samples and in batches; which
share of that graph's weight joins samples of one class; and what became of distances. After a
softmax, the graph is built on its features, and Laplace learning spreads the labels. Rows are added
to graphs.csv. Nothing is chosen: every weight that was tried has its row.
"""

import argparse
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import torch
from ledger import Ledger, interval

from weft.heads import Batches, GraphClassifier, GraphHead, Whole, predict
from weft.isometry import diagnose
from weft.lab._trained import encode, load_trained
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import train

LEDGER = Ledger(Path(__file__).with_name("graphs.csv"))
LABELS, IMAGES = 100, 2000
TERMS = ("none", "stress 1", "stress 10", "correlation 1")
MEASURES = ("whole", "batch", "alone", "weight in class", "Pearson", "stress", "between / within")


@torch.no_grad()
def measure(data: str, head: str, term: str, seed: int) -> dict[str, float]:
    """Train a recipe and look at its graph."""
    isometry, _, weight = term.partition(" ")
    recipe = Recipe(
        data=data,
        head=head,
        labels=LABELS,
        unlabelled=200 if head == "graph" else 0,
        isometry=isometry,
        isometry_weight=float(weight or 1),
        epochs=10,
        steps=20,
        seed=seed,
        threads=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", recipe)
        with torch.enable_grad():
            train(run)
        trained = load_trained(run)
    inputs, labels = trained.data.test_inputs[:IMAGES], trained.data.test_labels[:IMAGES]
    model, found = trained.model, {}
    if not isinstance(model, GraphClassifier):
        found["alone"] = share(predict(model, inputs, Whole()).probabilities, labels)
        rows = trained.examples
        model = GraphClassifier(
            model.get_submodule("backbone"),
            GraphHead(trained.data.num_classes, k=recipe.k),
            trained.data.train_inputs[rows],
            trained.data.train_labels[rows],
        ).eval()
    for name, context in (("whole", Whole()), ("batch", Batches(recipe.batch_size))):
        found[name] = share(predict(model, inputs, context).probabilities, labels)
    features = encode(model, inputs)
    graph = model.head.graph(torch.cat([model.anchor_features(), features]))
    i, j = torch.cat([model.anchor_labels, labels])[graph.edges]
    known = (i >= 0) & (j >= 0)
    within, total = graph.weights[known & (i == j)].sum(), graph.weights[known].sum()
    found["weight in class"] = 100 * (within / total).item()
    fit = diagnose(inputs, features, labels)
    mean = fit.class_mean()
    distances = {"Pearson": mean.pearson, "stress": mean.stress, "between / within": fit.separation}
    return found | distances


def share(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * (probabilities.argmax(1) == labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", choices=("digits", "fashion_mnist"), default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    arguments = parser.parse_args()
    data = arguments.data
    chosen = {
        f"{head}, {term}": partial(measure, data, head, term)
        for head in ("graph", "softmax")
        for term in TERMS
    }
    LEDGER.run(data, chosen, range(arguments.seeds))
    print(LEDGER.table(data, MEASURES, digits=2), "\n")
    for head, term in product(("graph", "softmax"), TERMS[1:]):
        pair = [LEDGER.values(data, f"{head}, {name}", "whole") for name in (term, "none")]
        print(f"{head}, {term} less none, whole: {interval(pair[0] - pair[1], 2)}")


if __name__ == "__main__":
    main()

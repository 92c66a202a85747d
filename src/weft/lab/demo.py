"""Two classifiers of digits from 100 labels, a softmax and a graph head, and a page on both."""

import dataclasses
from pathlib import Path

from weft.lab.evaluate import evaluate
from weft.lab.recipe import Recipe
from weft.lab.report import write_report
from weft.lab.runs import RECIPE, Run
from weft.lab.train import train

# One thread: for matrices as small as these, a second one costs more than it brings.
SOFTMAX = Recipe(
    head="softmax",
    labels=100,
    augment="digits",
    features=64,
    pretrain=240,
    pretrain_neighbors=3,
    epochs=10,
    steps=25,
    threads=1,
)
# The same pretraining; then a short finish through the graph, on pixels and features.
GRAPH = dataclasses.replace(
    SOFTMAX,
    head="graph",
    k=10,
    input_edges=0.5,
    unlabelled=200,
    unlabelled_served=2000,
    learning_rate=5e-4,
    epochs=6,
    steps=10,
)


def demo(directory: Path) -> list[Path]:
    """Train and evaluate both below a directory, and write `report.html` into it.

    What an earlier call has trained there is not trained again.

    Returns:
        The two run directories.

    Raises:
        ValueError: other runs lie there.
    """
    paths = []
    for recipe in (SOFTMAX, GRAPH):
        path = directory / recipe.head
        run = Run.open(path) if (path / RECIPE).exists() else Run.create(path, recipe)
        if run.recipe != recipe:
            raise ValueError(
                f"{path} must be free or hold a run of this demo, got another recipe: "
                "name another directory."
            )
        train(run)
        evaluate(run)
        paths.append(path)
    write_report(paths, directory / "report.html")
    return paths

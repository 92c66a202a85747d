"""Two classifiers of digits from 100 labels, a softmax and a graph head, and a page on both."""

import dataclasses
from pathlib import Path

from weft.lab.evaluate import evaluate
from weft.lab.recipe import Recipe
from weft.lab.report import write_report
from weft.lab.runs import RECIPE, Run
from weft.lab.train import train

# One thread: for matrices as small as these, a second one costs more than it brings.
SOFTMAX = Recipe(head="softmax", labels=100, epochs=10, steps=25, augment="digits", threads=1)
GRAPH = dataclasses.replace(SOFTMAX, head="graph", unlabelled=300)


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

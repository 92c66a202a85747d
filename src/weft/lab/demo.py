"""Two classifiers of digits from 100 labels, a softmax and a graph head, and a page on both."""

from pathlib import Path

from weft.lab.evaluate import evaluate
from weft.lab.recipe import Recipe
from weft.lab.report import write_report
from weft.lab.runs import RECIPE, Run
from weft.lab.train import train

SOFTMAX = Recipe(head="softmax", labels=100, epochs=10, steps=25, augment="digits")
GRAPH = Recipe(head="graph", labels=100, epochs=10, steps=25, augment="digits", unlabelled=300)


def demo(directory: Path) -> Path:
    """Train and evaluate both below a directory; what is there already is gone on with.

    Returns:
        The page, `report.html` in the directory.
    """
    paths = []
    for recipe in (SOFTMAX, GRAPH):
        path = directory / recipe.head
        there = (path / RECIPE).exists() and Recipe.read(path / RECIPE) == recipe
        run = Run.open(path) if there else Run.create(path, recipe)
        train(run)
        evaluate(run)
        paths.append(path)
    return write_report(paths, directory / "report.html")

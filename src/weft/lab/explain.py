"""Explain one prediction of a graph head by the labelled examples behind it."""

from dataclasses import dataclass

import torch

from weft.heads import GraphClassifier
from weft.lab._reasons import WholeGraph
from weft.lab._trained import encode, load_trained
from weft.lab.runs import Run


@dataclass(frozen=True)
class Reason:
    """A labelled example, and its share in a prediction.

    Args:
        weight: exact: were the example's label another, so much probability would move with it.
        label: the example's class.
        example: its row in the training part.
    """

    weight: float
    label: str
    example: int


@dataclass(frozen=True)
class Explanation:
    """Why a sample was predicted as it was, with all test samples in one graph.

    Args:
        sample: its row in the test part.
        label: its true class.
        predicted: the class with the largest sum of weights.
        probability: that sum.
        abstention: what reached no label; with all weights it makes one.
        context: in which company the sample was seen.
        reasons: all labelled examples, the heaviest first.
    """

    sample: int
    label: str
    predicted: str
    probability: float
    abstention: float
    context: str
    reasons: list[Reason]

    def lines(self, most: int) -> list[str]:
        """Lay out as lines of text, the lighter reasons gathered in one."""
        shown, others = self.reasons[:most], self.reasons[most:]
        lines = [
            f"sample {self.sample}  label {self.label}  predicted {self.predicted}  "
            f"probability {self.probability:.4f}  abstention {self.abstention:.4f}  "
            f"context {self.context}"
        ]
        lines += [f"{item.weight:.4f}  {item.label}  example {item.example}" for item in shown]
        if others:
            rest = sum(item.weight for item in others)
            lines.append(f"{rest:.4f}  {len(others)} other examples")
        total = sum(item.weight for item in self.reasons)
        return [*lines, f"{total:.4f}  all examples = 1 - abstention"]


def explain(run: Run, sample: int) -> Explanation:
    """Find the labelled examples behind the prediction of a test sample.

    The weights are those of the graph's equation itself, before class masses are normalised,
    which the head does where less than 3 % of the nodes are labelled.

    Raises:
        ValueError: the run has no graph head, or the test part no such sample.
    """
    if run.recipe.head != "graph":
        raise ValueError(
            f"An explanation needs a graph head, got {run.recipe.head} in {run.path}: a matrix "
            "does not answer from examples; train with --head graph."
        )
    trained = load_trained(run)
    data, model = trained.data, trained.model
    if not 0 <= sample < len(data.test_labels):
        raise ValueError(
            f"`sample` must be a row of the test part, 0 to {len(data.test_labels) - 1}, "
            f"got {sample}: choose another."
        )
    assert isinstance(model, GraphClassifier)  # by the recipe
    whole = WholeGraph(model, encode(model, data.test_inputs), data.test_inputs)
    weights = whole.reasons(torch.tensor([sample]))[0].double()
    labels = data.train_labels[trained.examples]
    classes = torch.zeros(data.num_classes, dtype=torch.float64).index_add(0, labels, weights)
    names = data.class_names
    order = weights.argsort(descending=True)
    columns = (column[order].tolist() for column in (weights, labels, trained.examples))
    reasons = [Reason(weight, names[c], row) for weight, c, row in zip(*columns, strict=True)]
    return Explanation(
        sample=sample,
        label=names[data.test_labels[sample]],
        predicted=names[classes.argmax()],
        probability=classes.max().item(),
        abstention=1 - weights.sum().item(),
        context="whole",
        reasons=reasons,
    )

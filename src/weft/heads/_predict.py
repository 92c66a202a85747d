"""Predict with any classifier, and say in which company each input was seen.

A graph head is transductive: what it says about one input depends on the others. So the context
is an argument here, and part of every result.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft._check import at_least_float32
from weft.heads._classifier import GraphClassifier
from weft.heads._graph_head import abstention
from weft.heads._modes import evaluation


@dataclass(frozen=True)
class Whole:
    """All inputs and the anchors in one graph: the most information, and what papers report."""

    name = "whole"


@dataclass(frozen=True)
class Batches:
    """Batches of `size` inputs, each with the anchors in one graph.

    Args:
        size: inputs per batch, in the order given.
    """

    size: int = 256
    name = "batch"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"`size` must be at least 1, got {self.size}.")


@dataclass(frozen=True)
class Queries:
    """One input at a time against the frozen graph of the anchors, as in serving.

    Args:
        exact: solve with the input added, instead of averaging its neighbours' frozen values.
    """

    exact: bool = False
    name = "query"


Context = Whole | Batches | Queries


@dataclass(frozen=True)
class Prediction:
    """Probabilities, and the context they were made in.

    Args:
        probabilities: rows sum to one: abstention is divided out.
        abstention: mass that reached no label, in [0, 1]; zero for heads without a graph.
        context: in which company each input was seen.
    """

    probabilities: Float[Tensor, "n c"]
    abstention: Float[Tensor, " n"]
    context: Context


@torch.no_grad()
def predict(
    model: nn.Module, inputs: Float[Tensor, "n *shape"], context: Context, *, batch_size: int = 512
) -> Prediction:
    """Predict in evaluation mode, without gradient; the model's mode is restored.

    Args:
        model: any module from inputs to logits.
        inputs: what to classify.
        context: whole set, batches or single queries. A model without a graph looks at one
            input at a time anyway, so that the three agree.
        batch_size: inputs encoded at once.

    Raises:
        TypeError: a graph classifier is hidden inside `model`, so that neither the context nor
            the abstention could be told.
    """
    wrapped = not isinstance(model, GraphClassifier)
    if wrapped and any(isinstance(part, GraphClassifier) for part in model.modules()):
        raise TypeError(
            f"`model` must be the GraphClassifier itself, got a {type(model).__name__} around one: "
            "predict with the inner model, and move what comes before it into its backbone."
        )
    with evaluation(model):
        if not isinstance(model, GraphClassifier):
            logits = torch.cat([model(part) for part in inputs.split(batch_size)])
            probabilities = at_least_float32(logits).softmax(1)
            return Prediction(probabilities, torch.zeros_like(probabilities[:, 0]), context)
        features = model.encode(inputs, batch_size)
        if isinstance(context, Queries):
            beside = inputs.flatten(1) if model.head.input_edges else None
            queries = model.head.prepare(features)
            scores = model.freeze().query(queries, beside, exact=context.exact)
            logits = model.head.log(scores)
        else:
            size = context.size if isinstance(context, Batches) else max(1, len(features))
            parts = zip(features.split(size), inputs.split(size), strict=True)
            logits = torch.cat([_with_anchors(model, *part) for part in parts])
        return Prediction(logits.softmax(1), abstention(logits), context)


def _with_anchors(model: GraphClassifier, features: Tensor, inputs: Tensor) -> Tensor:
    anchors = model.anchor_features().to(features.dtype)
    unknown = model.anchor_labels.new_full((len(features),), -1)
    labels = torch.cat([model.anchor_labels, unknown])
    joined = torch.cat([anchors, features])
    return model.head(joined, labels, inputs=model.beside(inputs))[len(anchors) :]

"""Modules that turn features into logits, and whole classifiers around them.

One contract: inputs to logits, with softmax(logits) the prediction. A graph head's logits are
the logarithms of its label probabilities, so losses, metrics and attacks work unchanged.
"""

from weft.heads._anchors import choose_anchors
from weft.heads._classifier import GraphClassifier
from weft.heads._graph_head import GraphHead, LinearHead, abstention
from weft.heads._nearest import NearestHead
from weft.heads._predict import Batches, Context, Prediction, Queries, Whole, predict

__all__ = [
    "Batches",
    "Context",
    "GraphClassifier",
    "GraphHead",
    "LinearHead",
    "NearestHead",
    "Prediction",
    "Queries",
    "Whole",
    "abstention",
    "choose_anchors",
    "predict",
]

"""The three ways to predict: all samples as one graph, in batches, one query at a time.

A graph head's answer for one sample depends on the samples beside it, so every result names its
context. A softmax head looks at one sample at a time: all contexts give the same.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.lab._batches import top_per_class
from weft.lab._model import Classifier
from weft.lab.data import Split
from weft.lab.recipe import Recipe


class Anchors(NamedTuple):
    """Labelled samples that answer queries: their rows in the training part, and what they are."""

    rows: Int[Tensor, " a"]
    labels: Int[Tensor, " a"]
    features: Float[Tensor, "a d"]


def served_anchors(
    model: Classifier,
    recipe: Recipe,
    inputs: Float[Tensor, "n *shape"],
    labels: Int[Tensor, " n"],
    split: Split,
) -> Anchors:
    """Encode the labelled samples that predictions lean on: all, or `anchors_served` per class."""
    rows = split.labelled
    if recipe.anchors_served:
        generator = torch.Generator().manual_seed(recipe.seed)
        scores = torch.rand(len(rows), generator=generator)
        rows = rows[top_per_class(scores, labels.cpu()[rows], recipe.anchors_served)]
    features = model.encode(inputs[rows.to(inputs.device)])
    return Anchors(rows, labels[rows.to(labels.device)].to(features.device), features)


@torch.no_grad()
def predict_together(
    model: Classifier, features: Float[Tensor, "n d"], anchors: Anchors
) -> Float[Tensor, "n c"]:
    """Log-probabilities of samples tied into one graph with the anchors."""
    model.eval()
    count = len(features)
    labels = torch.cat([anchors.labels.new_zeros(count), anchors.labels])
    known = torch.arange(len(labels), device=labels.device) >= count
    return model(torch.cat([features, anchors.features]), labels, known)[:count]


def predict_in_batches(
    model: Classifier, features: Float[Tensor, "n d"], anchors: Anchors, size: int
) -> Float[Tensor, "n c"]:
    """Log-probabilities of samples in batches of `size`, each one graph with the anchors."""
    return torch.cat([predict_together(model, some, anchors) for some in features.split(size)])


def predict_alone(
    model: Classifier, features: Float[Tensor, "n d"], anchors: Anchors
) -> Float[Tensor, "n c"]:
    """Log-probabilities of samples that come one at a time, each answered by the anchors alone."""
    return predict_in_batches(model, features, anchors, 1)

"""How much a graph head's answer for one sample depends on the samples beside it.

Over random company, and sample by sample. A head that looks at one sample at a time has zero in
both.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.heads import Batches, GraphClassifier, predict
from weft.heads._modes import evaluation


@dataclass(frozen=True, eq=False)
class Variation:
    """What changes in predictions when a sample's batch mates are drawn again.

    Args:
        deviation: per sample, the root of the summed variances of its class probabilities.
        changed: per sample, the share of draws that do not predict its most frequent class.
        size: samples in a batch.
        draws: how often the mates were drawn.
    """

    deviation: Float[Tensor, " n"]
    changed: Float[Tensor, " n"]
    size: int
    draws: int


@torch.no_grad()
def variation(
    model: nn.Module, inputs: Float[Tensor, "n *shape"], *, size: int, draws: int, seed: int = 0
) -> Variation:
    """Predict all inputs in random batches, again and again, and see what stays.

    Args:
        model: a trained classifier.
        inputs: at least two; each is a mate of the others.
        size: samples in a batch; the last batch of a draw may have fewer.
        draws: how many times they are shuffled; at least two.
        seed: of the shuffling.
    """
    if draws < 2 or len(inputs) < 2:
        raise ValueError(
            f"A variation needs two draws of two inputs or more, got {draws} draws of "
            f"{len(inputs)}: raise `draws`."
        )
    generator = torch.Generator().manual_seed(seed)
    tables = []
    for _ in range(draws):
        order = torch.randperm(len(inputs), generator=generator)
        shuffled = predict(model, inputs[order], Batches(size))
        stated = shuffled.probabilities * (1 - shuffled.abstention)[:, None]
        tables.append(stated.double().cpu()[order.argsort()])
    table = torch.stack(tables)  # (draws, n, c)
    guesses = table.argmax(2)
    usual = guesses.mode(dim=0).values
    return Variation(
        table.var(dim=0).sum(1).sqrt(), (guesses != usual).double().mean(0), size, draws
    )


def influence(
    model: GraphClassifier, inputs: Float[Tensor, "n *shape"], sample: int
) -> Float[Tensor, " n"]:
    """Return how strongly the prediction of one input follows the features of each.

    The Frobenius norm of the derivative of the sample's class probabilities in the features that
    the backbone makes of an input, at fixed neighbours: exact, by one backward pass per class.

    Args:
        model: a graph classifier; in evaluation mode, whatever mode it is in.
        inputs: one batch, in one graph with the anchors.
        sample: a row of it.
    """
    if not 0 <= sample < len(inputs):
        raise ValueError(
            f"`sample` must be a row of the inputs, 0 to {len(inputs) - 1}, got {sample}."
        )
    with evaluation(model):
        with torch.no_grad():
            joined, labels = model.join(inputs)
        features = joined[-len(inputs) :].requires_grad_()
        every = torch.cat([joined[: -len(inputs)], features])
        scores = model.head.scores(every, labels, inputs=model.beside(inputs))[-len(inputs) :]
        squares = torch.zeros(len(inputs), dtype=features.dtype, device=features.device)
        for score in scores[sample]:
            (slope,) = torch.autograd.grad(score, features, retain_graph=True)
            squares += slope.square().sum(1)
    return squares.sqrt()

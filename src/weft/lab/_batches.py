"""Draw the batches of an epoch: queries, the anchors that answer them, unlabelled samples."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.lab.data import Split
from weft.lab.recipe import Recipe


class Batch(NamedTuple):
    """Rows of the training part; the loss is taken on the queries alone."""

    queries: Int[Tensor, " q"]
    anchors: Int[Tensor, " a"]
    unlabelled: Int[Tensor, " u"]


class Sampler:
    """What each training step sees; the state of its choices is `scores` and the generator's.

    An epoch asks about every labelled sample once (or `recipe.steps` batches of them). A graph
    head answers from anchors, which it knows the labels of; a sample is never asked about in a
    batch that it anchors. With few labels, half of each class anchors and the other half is
    asked about, in ever new halves with `anchor_refresh = "random"`.

    Args:
        recipe: batch sizes and how anchors are chosen.
        labels: classes of the training part.
        split: which of its samples are labelled.
        generator: of every random choice.

    Raises:
        ValueError: a graph head is to learn, but no class has two labelled samples.
    """

    def __init__(
        self, recipe: Recipe, labels: Int[Tensor, " n"], split: Split, generator: torch.Generator
    ) -> None:
        self._recipe, self._labels, self._split = recipe, labels, split
        self._generator = generator
        num_labelled = len(split.labelled)
        self.steps = recipe.steps or -(-num_labelled // recipe.batch_size)
        # Anchors are the samples of the highest scores in their class.
        self.scores = torch.rand(num_labelled, generator=generator)
        if recipe.head == "graph" and labels[split.labelled].bincount().max() < 2:
            raise ValueError(
                "The graph head needs two labelled samples of a class, one to ask about and one "
                f"to answer, got {num_labelled} samples with one per class: label more."
            )

    def epoch(self) -> Iterator[Batch]:
        """Draw one epoch of batches."""
        labelled, unlabelled = self._split.labelled, self._split.unlabelled
        size = min(self._recipe.batch_size, len(labelled))
        if self._recipe.steps:
            rounds = -(-self.steps * size // len(labelled))
            order = torch.cat([self._shuffle(len(labelled)) for _ in range(rounds)])
            order = order[: self.steps * size]
        else:
            order = self._shuffle(len(labelled))
        anchors = self._anchors()
        for asked in order.tensor_split(self.steps):  # sizes differ by one at most
            if self._recipe.anchor_refresh == "random":
                self.scores = torch.rand(len(labelled), generator=self._generator)
                anchors = self._anchors()
            queries = asked[~torch.isin(asked, anchors)]
            some = self._shuffle(len(unlabelled))[: self._recipe.unlabelled]
            if len(queries):
                yield Batch(labelled[queries], labelled[anchors], unlabelled[some])

    def record(self, queries: Int[Tensor, " q"], log_probs: Float[Tensor, "q c"]) -> None:
        """Note how hard the queries of a batch were: the hardest anchor the next epoch."""
        rows = torch.searchsorted(self._split.labelled, queries)
        if self._recipe.anchor_refresh == "loss":
            right = self._labels[queries].unsqueeze(1)
            self.scores[rows] = -log_probs.gather(1, right).squeeze(1)
        elif self._recipe.anchor_refresh == "entropy":
            self.scores[rows] = torch.special.entr(log_probs.exp()).sum(1)

    def _anchors(self) -> Int[Tensor, " a"]:
        """Positions in `split.labelled`: the highest scores of each class."""
        if self._recipe.head == "softmax":
            return torch.empty(0, dtype=torch.int64)
        return top_per_class(
            self.scores, self._labels[self._split.labelled], self._recipe.anchors, spare=True
        )

    def _shuffle(self, count: int) -> Int[Tensor, " n"]:
        return torch.randperm(count, generator=self._generator)


def top_per_class(
    scores: Float[Tensor, " n"], labels: Int[Tensor, " n"], most: int, *, spare: bool = False
) -> Int[Tensor, " a"]:
    """Return the places of the highest scores in each class, ascending.

    Args:
        scores: the higher, the sooner chosen.
        labels: classes 0 … C−1.
        most: how many of each class.
        spare: choose at most half of a class (but one of a class of one).
    """
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[labels[by_score].argsort(stable=True)]
    counts = labels.bincount()
    quota = (counts // 2).clamp(min=1, max=most) if spare else counts.clamp(max=most)
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order[rank < quota.repeat_interleave(counts)].sort().values

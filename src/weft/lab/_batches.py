"""Draw the batches of an epoch: queries, the anchors that answer them, unlabelled samples."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.heads import choose_anchors
from weft.lab._splits import class_order
from weft.lab.data import Split
from weft.lab.recipe import Recipe


class Batch(NamedTuple):
    """Rows of the training part; the loss is taken on the queries alone."""

    queries: Int[Tensor, " q"]
    anchors: Int[Tensor, " a"]
    unlabelled: Int[Tensor, " u"]


class Sampler:
    """What each training step sees; all its randomness comes from one generator.

    An epoch asks about every labelled sample once (or `recipe.steps` batches of them). A graph
    head answers from anchors, whose labels it knows; no sample is asked about in a batch that
    it anchors. Anchors come from at most half of each class, so that with few labels too, there
    are samples left to ask about: in ever new halves with `anchor_refresh = "random"`.

    Args:
        recipe: sizes, and how anchors are chosen.
        labels: classes of the training part.
        split: which of its samples are labelled.
        generator: of every random choice.

    Raises:
        ValueError: a graph head is to learn, but no class has two labelled samples.
    """

    def __init__(
        self, recipe: Recipe, labels: Int[Tensor, " n"], split: Split, generator: torch.Generator
    ) -> None:
        self._recipe, self._split, self._generator = recipe, split, generator
        self._labels = labels[split.labelled]
        if recipe.head == "graph" and self._labels.bincount().max() < 2:
            raise ValueError(
                "The graph head needs two labelled samples of a class, one to ask about and one "
                f"to answer, got one for each of the {len(self._labels)} classes: label more."
            )
        self.steps = recipe.steps or -(-len(self._labels) // recipe.batch_size)
        # The last loss or entropy of each labelled sample; with ties, chance chooses.
        self._difficulty = torch.zeros(len(self._labels))
        self._anchors = self._choose_anchors()

    def epoch(self) -> Iterator[Batch]:
        """Draw one epoch of batches."""
        labelled, unlabelled = self._split.labelled, self._split.unlabelled
        refresh = self._recipe.anchor_refresh
        if refresh in ("loss", "entropy"):
            self._anchors = self._choose_anchors()
        for asked in self._order().tensor_split(self.steps):  # sizes differ by one at most
            if refresh == "random":
                self._anchors = self._choose_anchors()
            queries = asked[~torch.isin(asked, self._anchors)]
            some = self._shuffle(len(unlabelled))[: self._recipe.unlabelled]
            if len(queries):
                yield Batch(labelled[queries], labelled[self._anchors], unlabelled[some])

    def record(self, queries: Int[Tensor, " q"], log_probs: Float[Tensor, "q c"]) -> None:
        """Note how hard the queries of a batch were."""
        rows = torch.searchsorted(self._split.labelled, queries)
        if self._recipe.anchor_refresh == "loss":
            right = self._labels[rows].unsqueeze(1)
            self._difficulty[rows] = -log_probs.gather(1, right).squeeze(1)
        elif self._recipe.anchor_refresh == "entropy":
            self._difficulty[rows] = torch.special.entr(log_probs.exp()).sum(1)

    def state_dict(self) -> dict[str, Any]:
        """All but the generator that the next epoch depends on."""
        return {"difficulty": self._difficulty, "anchors": self._anchors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the end of an epoch."""
        self._difficulty, self._anchors = state["difficulty"], state["anchors"]

    def _order(self) -> Int[Tensor, " n"]:
        count = len(self._labels)
        if not self._recipe.steps:
            return self._shuffle(count)
        asked = self.steps * min(self._recipe.batch_size, count)
        return torch.cat([self._shuffle(count) for _ in range(-(-asked // count))])[:asked]

    def _choose_anchors(self) -> Int[Tensor, " a"]:
        """Choose places in `split.labelled`."""
        if self._recipe.head == "softmax":
            return torch.empty(0, dtype=torch.int64)
        order = class_order(self._labels, self._generator, even=False)
        half = order[: -(-len(order) // 2)]  # a half of each class
        chosen = choose_anchors(
            self._labels[half],
            self._recipe.anchors,
            difficulty=self._difficulty[half],
            generator=self._generator,
        )
        return half[chosen]

    def _shuffle(self, count: int) -> Int[Tensor, " n"]:
        return torch.randperm(count, generator=self._generator)

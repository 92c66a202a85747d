"""A frozen graph whose scores come from any equation: a query takes a mean of them, no more."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from weft.graph import AnchorGraph

NEEDS_LAPLACE = (
    "Weights on labels, and exact queries, need the equation Laplace(tau) alone, got a head with "
    "another: ask for scores and plain queries, or take that equation."
)


@dataclass(frozen=True, eq=False)
class MeansOnly(AnchorGraph):
    """Anchors with given scores; made by `MeansOnly.of`."""

    @classmethod
    def of(cls, anchors: AnchorGraph, scores: Float[Tensor, "n c"]) -> "MeansOnly":
        """Return the same anchors with other scores."""
        parts: dict[str, Any] = vars(anchors) | {"scores": scores}
        return cls(**parts)

    def query(
        self,
        queries: Float[Tensor, "q d"],
        inputs: Float[Tensor, "q p"] | None = None,
        *,
        exact: bool = False,
    ) -> Float[Tensor, "q c"]:
        """Return the weighted mean of each query's neighbours; there is no exact form."""
        if exact:
            raise ValueError(NEEDS_LAPLACE)
        return super().query(queries, inputs)

    def label_weights(
        self, queries: Float[Tensor, "q d"], inputs: Float[Tensor, "q p"] | None = None
    ) -> Float[Tensor, "q n"]:
        """Refuse: the scores are no weighted mean of labels that is known here."""
        raise ValueError(NEEDS_LAPLACE)

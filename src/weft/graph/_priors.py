"""Class volumes as a constraint: as many nodes for each class as is known beforehand.

A correction of scores, and PoissonMBO, which applies it again and again. Knows graphs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from weft.graph._edges import csr_matrix, csr_pattern, csr_product
from weft.graph._equation import Equation, Problem
from weft.graph._poisson import Poisson


@dataclass(frozen=True)
class VolumeConstraint:
    """Weigh the classes so that their shares of the predicted labels are those given.

    A `Normalization`: scores are moved to [0, 1] by their least and largest entry, and multiplied
    by one weight per class, found by steps of `rate` on the difference between the share of nodes
    that a class gets by argmax and the share it should have. The argmax of the result is the
    prediction. Shares are counts, so the weights are piecewise constant and have no gradient;
    all nodes get the result, labelled ones too.

    Args:
        priors: expected share of each class; only their ratios count.
        rate: size of the steps.
        tolerance: stops when no class is further from its share.
        max_steps: stops here at the latest, and after a tenth of it without progress, with the
            best weights that were met: shares of few nodes, or equal scores, may allow no better.

    Source: Calder, Cook, Thorpe, Slepcev, ICML 2020, section 4.2; `volume_label_projection` of the
        GraphLearning package, which keeps its last weights instead of its best.
    """

    priors: tuple[float, ...]
    rate: float = 0.1
    tolerance: float = 1e-3
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        if not self.priors or not all(prior > 0 for prior in self.priors):
            raise ValueError(f"`priors` must be positive, got {self.priors}: one per class.")
        if not (self.rate > 0 and self.tolerance > 0 and self.max_steps > 0):
            raise ValueError(
                "`rate`, `tolerance` and `max_steps` must be positive, got "
                f"{self.rate}, {self.tolerance} and {self.max_steps}."
            )

    def __call__(
        self,
        scores: Float[Tensor, "n c"],
        labels: Float[Tensor, "n c"],
        known: Bool[Tensor, " n"],
        num_graphs: int,
    ) -> Float[Tensor, "n c"]:
        """Return weighted scores, each graph on its own."""
        ones = torch.ones_like(scores[:1])
        blocks = scores.view(num_graphs, -1, scores.shape[1])
        return torch.cat([scaled * self.weights(scaled, ones) for scaled in map(_scaled, blocks)])

    @torch.no_grad()
    def weights(
        self, scores: Float[Tensor, "n c"], start: Float[Tensor, "1 c"]
    ) -> Float[Tensor, "1 c"]:
        """Return the weights of the classes, for scores in [0, 1]."""
        if scores.shape[1] != len(self.priors):
            raise ValueError(
                f"`priors` must have {scores.shape[1]} entries, one per class, got "
                f"{len(self.priors)}: leave no class out."
            )
        priors = scores.new_tensor(self.priors)
        priors = priors / priors.sum()
        weights = best = start
        least, since = torch.inf, 0
        for _ in range(self.max_steps):
            chosen = (scores * weights).argmax(1)
            excess = torch.bincount(chosen, minlength=len(priors)) / len(scores) - priors
            error = excess.abs().max().item()
            since += 1
            if error < least:
                best, least, since = weights, error, 0
            if least <= self.tolerance or since > self.max_steps / 10:
                break
            weights = weights - self.rate * excess
            weights = weights / weights[:, :1]
        return best


def _scaled(scores: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Move scores to [0, 1] by their least and largest entry."""
    lowest = scores.amin()
    height = scores.amax() - lowest
    return (scores - lowest) / torch.where(height > 0, height, 1.0)


@dataclass(frozen=True)
class PoissonMBO(Equation):
    """Poisson learning sharpened: heat flow with sources, and thresholds that keep class volumes.

    The published record where one to five labels per class are known, if the shares of the
    classes are known too. Scores are one-hot labels, so there is no gradient.

    Args:
        volumes: the shares of the classes.
        rounds: thresholds taken.
        steps: steps of heat flow before each.
        source: strength of the labels in the flow.

    Source: Calder, Cook, Thorpe, Slepcev, ICML 2020, algorithm 2. Known nodes keep
        their labels at the end.
    """

    differentiable: ClassVar[bool] = False
    volumes: VolumeConstraint
    rounds: int = 20
    steps: int = 40
    source: float = 1.0

    def __post_init__(self) -> None:
        if not (self.rounds > 0 and self.steps > 0 and self.source > 0):
            raise ValueError(
                "`rounds`, `steps` and `source` must be positive, got "
                f"{self.rounds}, {self.steps} and {self.source}."
            )

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Start from Poisson learning, then flow and threshold in turns."""
        graph, known = problem.graph, problem.known
        classes = problem.labels.shape[1]
        shape = (graph.num_graphs, -1, classes)
        blocks, mask = problem.labels.view(shape), known.view(*shape[:2], 1)
        mean = blocks.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
        source = torch.where(mask, blocks - mean, 0.0).view(problem.labels.shape)

        degrees = graph.degrees()
        step = 1 / degrees.max().clamp_min(torch.finfo(degrees.dtype).tiny)
        row_start, columns, edge_of = csr_pattern(graph.edges, graph.num_nodes)
        adjacency = csr_matrix(row_start, columns, graph.weights[edge_of])
        scores = F.one_hot(Poisson().solve(problem).argmax(1), classes).to(source.dtype)
        weights = [torch.ones_like(scores[:1])] * graph.num_graphs
        for _ in range(self.rounds):
            for _ in range(self.steps):
                flow = csr_product(adjacency, scores) - degrees[:, None] * scores
                scores = scores + step * (flow + self.source * source)
            scaled = [_scaled(block) for block in scores.view(shape)]
            # From where the last threshold left them: they move little between two.
            weights = [self.volumes.weights(*pair) for pair in zip(scaled, weights, strict=True)]
            chosen = [(s * w).argmax(1) for s, w in zip(scaled, weights, strict=True)]
            scores = F.one_hot(torch.cat(chosen), classes).to(source.dtype)
        return torch.where(known[:, None], problem.labels, scores)

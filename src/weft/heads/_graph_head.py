"""The heads: from features to logits, one sample at a time or through a graph of the batch.

Modules without data of their own: what is labelled comes with each call. Knows the graph room.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weft._check import at_least_float32, check_floating, check_mask
from weft.graph import (
    AnchorGraph,
    Bandwidth,
    ClassMass,
    Equation,
    ExactNeighbors,
    Gaussian,
    Graph,
    Kernel,
    Laplace,
    LinearSolver,
    Neighbors,
    Normalization,
    SelfTuned,
    Unreached,
    knn_graph,
)
from weft.heads._means_only import NEEDS_LAPLACE, MeansOnly


class LinearHead(nn.Linear):
    """The head that everybody uses: features to logits by one matrix; the control in our tables."""


class GraphHead(nn.Module):
    """Spread the batch's labels over the similarity graph of its features.

    Has no parameters: it replaces the last linear layer and the softmax by the solution of a
    graph equation, and trains the features through it with exact gradients. The prediction for
    one row depends on all rows of the call.

    Args:
        num_classes: number of classes.
        k: neighbours of each row.
        kernel: edge weights from scaled distances; `Tapered()` makes the layer continuous.
        bandwidth: length scale of each row.
        neighbors: the neighbour search.
        equation: how labels spread; `Laplace(tau)` by default. The scores of an equation that are
            signed become probabilities by a softmax, and then nothing is abstention.
        tau: decay of the default equation, 0.01 by default, in the unit of the edge weights
            (degrees are around 1.5 for k = 25, 0.5 for k = 10). What decays is abstention: mass
            that meets no label on its way.
        normalize: scale each row of the features to length one first, as the paper's code does;
            without it the gradients of far points vanish.
        normalization: corrects class masses; by default where fewer than 3 % are labelled. Pass
            `None` with an equation that is made for few labels, to have it as published.
        unreached: what rows get that no label reaches.
        solver: solves the graph equation; by default the faster one for the size.
        input_edges: above zero, edges between near *inputs* stand beside those between near
            features, their weights times this number: with few labels, what pixels say and what
            features say errs differently. Calls then need `inputs`.
        epsilon: added to probabilities before the logarithm; bounds the loss of one row.

    Source: Brown et al., GLL, arXiv 2412.08016.
    """

    def __init__(
        self,
        num_classes: int,
        k: int = 25,
        *,
        kernel: Kernel | None = None,
        bandwidth: Bandwidth | None = None,
        neighbors: Neighbors | None = None,
        equation: Equation | None = None,
        tau: float | None = None,
        normalize: bool = True,
        normalization: Normalization | None = ClassMass(below=0.03),  # noqa: B008 (frozen)
        unreached: Unreached = Unreached.ABSTAIN,
        solver: LinearSolver | None = None,
        input_edges: float = 0.0,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1, got {num_classes}.")
        if tau is not None and not tau >= 0:
            raise ValueError(f"`tau` must not be negative, got {tau}: decay only takes mass away.")
        if tau is not None and equation is not None:
            raise ValueError(
                f"`tau` is the decay of the default equation, got {tau} beside {equation}: give it "
                "to the equation instead."
            )
        if not input_edges >= 0:
            raise ValueError(f"`input_edges` must not be negative, got {input_edges}.")
        if not 0 < epsilon < 1:
            raise ValueError(f"`epsilon` must lie between 0 and 1, got {epsilon}.")
        self.num_classes, self.k, self.epsilon = num_classes, k, epsilon
        self.equation = equation or Laplace(0.01 if tau is None else tau)
        self.kernel, self.bandwidth = kernel or Gaussian(), bandwidth or SelfTuned()
        self.neighbors, self.solver = neighbors or ExactNeighbors(), solver
        self.normalize, self.normalization, self.unreached = normalize, normalization, unreached
        self.input_edges = input_edges

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return (
            f"num_classes={self.num_classes}, k={self.k}, kernel={self.kernel}, "
            f"bandwidth={self.bandwidth}, equation={self.equation}, normalize={self.normalize}, "
            f"input_edges={self.input_edges}"
        )

    @property
    def tau(self) -> float:
        """The decay of the walks that explain a prediction: of plain Laplace learning only.

        Raises:
            ValueError: the head has another equation, whose scores are no such walks.
        """
        if not self.explains:
            raise ValueError(NEEDS_LAPLACE)
        return self.equation.tau  # pyright: ignore

    @property
    def explains(self) -> bool:
        """Whether predictions have exact weights on labels: with plain Laplace learning only."""
        return isinstance(self.equation, Laplace) and self.equation == Laplace(self.equation.tau)

    def prepare(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the features as the graph sees them: at least float32, rows of length one.

        A row of zeros, as a layer of ReLUs may leave, has no direction: it stays as it is.
        """
        check_floating("features", features, "n d")
        features = at_least_float32(features)
        if not self.normalize:
            return features
        lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        # F.normalize would divide a row of zeros, and its gradient, by 1e-12.
        return features / torch.where(lengths > 0, lengths, 1.0)

    def graph(
        self, features: Float[Tensor, "n d"], inputs: Float[Tensor, "n *shape"] | None = None
    ) -> Graph:
        """Return the graph that the head builds on these features, and inputs if it uses them."""
        graph = self._neighbor_graph(self.prepare(features))
        beside = self._beside(inputs)
        if beside is None:
            return graph
        near = self._neighbor_graph(beside.to(graph.weights.dtype))
        return graph + near.with_weights(self.input_edges * near.weights)

    def _neighbor_graph(self, points: Tensor) -> Graph:
        return knn_graph(
            points,
            self.k,
            kernel=self.kernel,
            bandwidth=self.bandwidth,
            neighbors=self.neighbors,
        )

    def _beside(self, inputs: Tensor | None) -> Tensor | None:
        """Return the inputs as rows where the head uses them."""
        if not self.input_edges:
            return None
        if inputs is None:
            raise ValueError(
                f"`inputs` are needed with input_edges = {self.input_edges}, got None: pass what "
                "the features were made from, one row per feature row."
            )
        return inputs.flatten(1)

    def scores(
        self,
        features: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | Float[Tensor, "n c"],
        known: Bool[Tensor, " n"] | None = None,
        inputs: Float[Tensor, "n *shape"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Return class probabilities; a row sums to one minus its abstention.

        Args:
            features: one row per sample, labelled and unlabelled together.
            labels: class numbers, or one row of probabilities per sample; not read where unknown.
            known: which rows have a label; by default those with a class number of at least 0.
            inputs: what the features were made from; read only with `input_edges`.
        """
        labels, known = self._targets(features, labels, known)
        return self.equation.probabilities(
            self.graph(features, inputs),
            labels,
            known,
            points=self.prepare(features),
            unreached=self.unreached,
            normalization=self.normalization,
            solver=self.solver,
        )

    def forward(
        self,
        features: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | Float[Tensor, "n c"],
        known: Bool[Tensor, " n"] | None = None,
        inputs: Float[Tensor, "n *shape"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Return log-probabilities for every row, labelled ones included.

        `nll_loss` on them counts abstention as lost probability; `cross_entropy` divides it
        out first. Both are finite where no label reaches.
        """
        return self.log(self.scores(features, labels, known, inputs))

    def log(self, scores: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Return logits: the logarithm of score + epsilon, safe against rounding below zero."""
        return scores.clamp_min(-self.epsilon / 2).add(self.epsilon).log()

    def freeze(
        self,
        features: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | Float[Tensor, "n c"],
        known: Bool[Tensor, " n"] | None = None,
        inputs: Float[Tensor, "n *shape"] | None = None,
    ) -> AnchorGraph:
        """Return these rows as a frozen graph that answers one query at a time.

        Class masses are not normalised there: a single query has no company to compare with.
        With another equation than `Laplace(tau)` a query takes the mean of its neighbours'
        probabilities; it has no exact form and no weights on labels.
        """
        targets, known = self._targets(features, labels, known)
        points = self.prepare(features)
        frozen = AnchorGraph.build(
            points,
            targets,
            known,
            self.k,
            kernel=self.kernel,
            bandwidth=self.bandwidth,
            neighbors=self.neighbors,
            tau=self.tau if self.explains else 0.0,
            solver=self.solver,
            inputs=self._beside(inputs),
            input_edges=self.input_edges,
        )
        if self.explains:
            return frozen
        with torch.no_grad():
            scores = self.equation.probabilities(
                frozen.graph, targets, known, points=points, solver=self.solver
            )
        return MeansOnly.of(frozen, scores)

    def _targets(
        self, features: Tensor, labels: Tensor, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return labels as rows of probabilities, and which of them count."""
        if labels.is_floating_point():
            if known is None or labels.shape != (len(features), self.num_classes):
                raise ValueError(
                    f"`labels` as probabilities need shape ({len(features)}, {self.num_classes}) "
                    f"and a `known` mask, got shape {tuple(labels.shape)}: or pass class numbers."
                )
            return labels, known
        if labels.shape != features.shape[:1]:
            raise ValueError(
                f"`labels` must have one entry for each of the {len(features)} rows, got shape "
                f"{tuple(labels.shape)}: give unlabelled rows the label -1."
            )
        if known is None:
            known = labels >= 0
        check_mask("known", known, labels.shape)
        inside = (labels >= 0) & (labels < self.num_classes)
        if (known & ~inside).any():
            wrong = int(labels[known & ~inside][0])
            raise ValueError(
                f"`labels` must lie in 0..{self.num_classes - 1} where known, got {wrong}: "
                "raise `num_classes`, or mark the row as unknown."
            )
        rows = F.one_hot(torch.where(inside, labels, 0).long(), self.num_classes)
        return rows.to(at_least_float32(features).dtype), known


def abstention(log_probabilities: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Return the mass that reached no label: one minus the sum of the row's probabilities.

    Exact to the head's epsilon times the number of classes. Zero for logits of any other head
    only after `log_softmax`.
    """
    return (1 - log_probabilities.exp().sum(-1)).clamp(0, 1)

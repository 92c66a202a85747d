"""A classifier with the graph head: inputs to logits, its labelled anchors carried along."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.graph import AnchorGraph, label_weights
from weft.heads._graph_head import GraphHead
from weft.heads._modes import evaluation


class GraphClassifier(nn.Module):
    """A drop-in `inputs -> logits` around a backbone and a graph head.

    In training mode every call encodes the anchors together with the batch, so gradients reach
    the backbone through both. In evaluation mode the anchors' features are encoded once, and
    anew when a weight of the backbone or an anchor has changed. Anchors, not their features,
    are in `state_dict`.

    Args:
        backbone: inputs to features, (n, ...) to (n, d).
        head: the graph head.
        anchor_inputs: inputs that every batch is joined to, (m, ...).
        anchor_labels: their class numbers; -1 for anchors that take part unlabelled.
        memory_bank: in training too, use stored features of the anchors, without gradient.
            This is an *approximation*: the features lag behind the backbone until
            `refresh_bank`, or an evaluation, encodes them anew. It saves encoding the anchors
            in each step.
    """

    anchor_inputs: Tensor
    anchor_labels: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: GraphHead,
        anchor_inputs: Float[Tensor, "m *shape"],
        anchor_labels: Int[Tensor, " m"],
        *,
        memory_bank: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.memory_bank = backbone, head, memory_bank
        self.register_buffer("anchor_inputs", anchor_inputs.new_empty(0))
        self.register_buffer("anchor_labels", anchor_labels.new_empty(0))
        self._anchor_features: Tensor | None = None
        self._encoded_from: list[tuple[int, int]] = []
        self.set_anchors(anchor_inputs, anchor_labels)

    def set_anchors(self, inputs: Float[Tensor, "m *shape"], labels: Int[Tensor, " m"]) -> None:
        """Replace the anchors, for example by harder ones: see `choose_anchors`."""
        if len(inputs) != len(labels) or labels.ndim != 1:
            raise ValueError(
                "`anchor_inputs` and `anchor_labels` must have one entry per anchor, got shapes "
                f"{tuple(inputs.shape)} and {tuple(labels.shape)}."
            )
        if labels.is_floating_point() or not (labels >= 0).any():
            raise ValueError(
                f"`anchor_labels` must be class numbers with at least one label, got {labels.dtype}"
                ": without labelled anchors there is nothing to predict from."
            )
        self.anchor_inputs, self.anchor_labels = inputs, labels.long()  # unsigned has no -1
        self._anchor_features = None

    def forward(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n c"]:
        """Return log-probabilities of the inputs, joined with the anchors in one graph."""
        num_anchors = len(self.anchor_labels)
        features, labels = self.join(inputs)
        return self.head(features, labels, inputs=self.beside(inputs))[num_anchors:]

    def beside(self, inputs: Float[Tensor, "n *shape"]) -> Tensor | None:
        """Return anchors and inputs as they came, for a head that compares them too."""
        return torch.cat([self.anchor_inputs, inputs]) if self.head.input_edges else None

    def join(self, inputs: Float[Tensor, "n *shape"]) -> tuple[Tensor, Tensor]:
        """Return features and labels of anchors and inputs together; inputs have label -1."""
        if self.training and not self.memory_bank:
            # One pass, so that batch normalisation sees anchors and inputs alike.
            features = self.backbone(torch.cat([self.anchor_inputs, inputs]))
        else:
            encoded = self.backbone(inputs)
            features = torch.cat([self.anchor_features().to(encoded.dtype), encoded])
        unknown = self.anchor_labels.new_full((len(inputs),), -1)
        return features, torch.cat([self.anchor_labels, unknown])

    def anchor_features(self) -> Float[Tensor, "m d"]:
        """Return the anchors' features, encoded without gradient in evaluation mode and kept.

        They are encoded anew when they are out of date: a memory bank in training never is.
        """
        may_lag = self.memory_bank and self.training
        if self._anchor_features is None or not (may_lag or self._encoded_from == self._sources()):
            self.refresh_bank()
        assert self._anchor_features is not None
        return self._anchor_features

    @torch.no_grad()
    def refresh_bank(self, batch_size: int = 512) -> None:
        """Encode the anchors anew, for example after each epoch with a memory bank."""
        with evaluation(self.backbone):
            self._anchor_features = self.encode(self.anchor_inputs, batch_size)
        self._encoded_from = self._sources()

    def _sources(self) -> list[tuple[int, int]]:
        """Name all tensors that the anchors' features come from, and the state each is in."""
        tensors = (self.anchor_inputs, *self.backbone.parameters(), *self.backbone.buffers())
        # torch counts the changes in place of every tensor that autograd may see.
        return [(id(part), 0 if part.is_inference() else part._version) for part in tensors]

    def encode(self, inputs: Float[Tensor, "n *shape"], batch_size: int = 512) -> Tensor:
        """Return the features of many inputs, batch by batch."""
        return torch.cat([self.backbone(part) for part in inputs.split(batch_size)])

    def freeze(self) -> AnchorGraph:
        """Return the anchors as a frozen graph that serves one query at a time.

        Its queries are features: `model.freeze().query(model.head.prepare(model.encode(x)))`,
        with `x.flatten(1)` beside them if the head has `input_edges`.
        """
        return self.head.freeze(
            self.anchor_features(), self.anchor_labels, inputs=self.anchor_inputs
        )

    @torch.no_grad()
    def explain(
        self, inputs: Float[Tensor, "n *shape"], *, alone: bool = False
    ) -> Float[Tensor, "n m"]:
        """Return how much each anchor counts in the prediction of each input.

        Rows are non-negative and sum to one minus the abstention; anchors without label have
        weight zero. The weights are exact: they say by how much the probability of a class
        would change with the label of that anchor, before any normalisation of class masses.

        Args:
            inputs: the inputs to explain; in evaluation mode, whatever mode the model is in.
            alone: each input against the frozen anchors only; otherwise all inputs in one
                graph with the anchors, as `forward` sees them.
        """
        num_anchors = len(self.anchor_labels)
        with evaluation(self):
            encoded = self.encode(inputs)
            if alone:
                beside = inputs.flatten(1) if self.head.input_edges else None
                return self.freeze().label_weights(self.head.prepare(encoded), beside)
            features = torch.cat([self.anchor_features().to(encoded.dtype), encoded])
        known = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        known[:num_anchors] = self.anchor_labels >= 0
        nodes = torch.arange(num_anchors, len(features), device=features.device)
        graph = self.head.graph(features, self.beside(inputs))
        weights = label_weights(graph, known, nodes, tau=self.head.tau, solver=self.head.solver)
        return weights[:, :num_anchors]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # The number of anchors may differ from the one this module was built with.
        for name in ("anchor_inputs", "anchor_labels"):
            if (stored := state_dict.get(prefix + name)) is not None:
                own = getattr(self, name)
                setattr(self, name, own.new_empty(stored.shape))
        self._anchor_features = None
        super()._load_from_state_dict(state_dict, prefix, *args)

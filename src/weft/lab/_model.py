"""The classifier that a recipe trains: a backbone, a head, and how rows of data pass them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_CHUNK = 1000  # samples encoded at once when no gradient is wanted


class Classifier(nn.Module):
    """A backbone below a head.

    Args:
        backbone: inputs -> features.
        head: features -> logits; with `is_graph`, (features, labels, known) -> log-probabilities.
        is_graph: whether the head ties the rows of a batch together.
        autocast: arithmetic of the backbone; the head always computes in float32.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, *, is_graph: bool, autocast: torch.dtype
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.is_graph, self.autocast = is_graph, autocast

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Take over the weights of a checkpoint.

        Raises:
            ValueError: they are of another network.
        """
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            where = str(error).splitlines()[1].strip()
            raise ValueError(
                "A checkpoint must hold the weights of its recipe's network, got others "
                f"({where[:80]}...): it is of another version of weft; train again with --overwrite."
            ) from error

    def features(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n d"]:
        """Pass inputs through the backbone."""
        half = self.autocast != torch.float32
        with torch.autocast(inputs.device.type, self.autocast, enabled=half):
            features = self.backbone(inputs)
        return features.float()

    @torch.no_grad()
    def encode(self, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n d"]:
        """Features for evaluation, on the model's device: no gradient, in chunks."""
        self.eval()
        device = next(self.parameters()).device
        return torch.cat([self.features(chunk.to(device)) for chunk in inputs.split(_CHUNK)])

    def forward(
        self,
        features: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        known: Bool[Tensor, " n"],
    ) -> Float[Tensor, "n c"]:
        """Log-probabilities of every row; a graph head may use the labels that are known.

        An unknown label never reaches the head.
        """
        if not self.is_graph:
            return self.head(features).log_softmax(dim=1)
        return self.head(features, labels.where(known, 0), known)

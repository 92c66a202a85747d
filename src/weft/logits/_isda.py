"""Semantic augmentation in closed form: a shift from the spread of a class's features."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft._check import check_floating
from weft.logits._batch import check_batch
from weft.logits._stats import check_ids, sum_over_processes


class ISDA(nn.Module):
    """Raise wrong logits by how far the features of the class spread towards them.

        u'_ic = u_ic + (strength / 2) sum_d v_yd (w_cd - w_yd)^2

    with w the rows of the last layer and v_y the variances of the features of class y: the bound of
    the loss over infinitely many augmented features. It sees more than logits and targets, so it
    holds the layer and must be shown the features of each batch first:

        isda.observe(features, targets)
        loss = F.cross_entropy(isda(layer(features), targets), targets)

    Differentiable to any order in the logits and the layer's weights; the variances are
    constants, kept in `state_dict`. Targets are class ids.

    Args:
        layer: the last layer, features to logits.
        strength: published schedules raise it from 0 to 0.5 with the epochs: assign to it.

    Raises:
        ValueError: `strength` is negative.

    Source: Wang et al., NeurIPS 2019, arXiv 1909.12220, equation 6; covariances are diagonal, as
        the published code has them for large feature vectors.
    """

    counts: Tensor
    means: Tensor
    variances: Tensor

    def __init__(self, layer: nn.Linear, strength: float = 0.5) -> None:
        super().__init__()
        if not 0 <= strength < torch.inf:
            raise ValueError(f"`strength` must be finite and not negative, got {strength}.")
        self._layer = (layer,)  # in a tuple: its weights are the model's, not part of this state
        self.strength = strength
        weight = layer.weight.detach()
        self.register_buffer("counts", weight.new_zeros(len(weight)))
        self.register_buffer("means", torch.zeros_like(weight))
        self.register_buffer("variances", torch.zeros_like(weight))

    @torch.no_grad()
    def observe(self, features: Float[Tensor, "n d"], targets: Int[Tensor, " n"]) -> None:
        """Take a batch into the means and variances of its classes, over all processes."""
        check_floating("features", features, "n d")
        check_ids(targets, len(self.counts))
        features = features.to(self.means.dtype)
        counts = sum_over_processes(
            torch.zeros_like(self.counts).index_add_(0, targets, self.counts.new_ones(len(targets)))
        )[:, None]
        sums = torch.zeros_like(self.means).index_add_(0, targets, features)
        means = sum_over_processes(sums) / counts.clamp_min(1)
        squares = (features - means[targets]).square()
        sums = torch.zeros_like(self.means).index_add_(0, targets, squares)
        variances = sum_over_processes(sums) / counts.clamp_min(1)
        # The variance of two groups together: within each, and between their means.
        share = counts / (self.counts[:, None] + counts).clamp_min(1)
        between = share * (1 - share) * (means - self.means).square()
        self.variances.lerp_(variances, share).add_(between)
        self.means.lerp_(means, share)
        self.counts.add_(counts.squeeze(1))

    def forward(
        self, logits: Float[Tensor, "n c"], targets: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_batch(logits, targets, len(self.counts))
        check_ids(targets, len(self.counts))
        weight = self._layer[0].weight
        spread, own = self.variances[targets], weight[targets]
        squared = (
            spread @ weight.square().T
            - 2 * (spread * own) @ weight.T
            + (spread * own.square()).sum(1, keepdim=True)
        )
        return logits + self.strength / 2 * squared.to(logits.dtype)

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return f"strength={self.strength}"

"""Margins for a normalised classifier, whose logits are a scale times cosines: LDAM and GCL."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.logits._batch import check_batch
from weft.logits._stats import ClassStats


class _Cosine(nn.Module):
    """Holds the classes and the scale; refuses logits that are no cosines times it."""

    def __init__(self, stats: ClassStats, margin: float, scale: float) -> None:
        super().__init__()
        if not 0 <= margin < torch.inf:
            raise ValueError(
                f"`margin` must be finite and not negative, got {margin}: it is a cosine."
            )
        if not 0 < scale < torch.inf:
            raise ValueError(f"`scale` must be positive, got {scale}: it multiplies the cosines.")
        stats.check_no_empty_class("its margin")
        self.stats, self.margin, self.scale = stats, margin, scale

    def _check(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = check_batch(logits, targets, self.stats.num_classes)
        if logits.numel() and not logits.detach().abs().max() <= 1.01 * self.scale:
            raise ValueError(
                f"`logits` must be cosines times `scale`, got {logits.detach().abs().max():.4g} "
                f"with scale {self.scale:g}: normalise the features and the rows of the last "
                "layer, and multiply their products by the scale."
            )
        return logits

    def _one_hot(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return targets as rows; soft ones are rows already."""
        if targets.ndim == 2:
            return targets.to(logits.dtype)
        return torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return f"margin={self.margin}, scale={self.scale}"


class LDAM(_Cosine):
    """Subtract a margin from the cosine of a sample's own class, the larger the smaller the class.

        u'_i = u_i - scale m_y e_y,    m_c = margin (n_min / n_c)^(1/4)

    Its schedule (deferred re-weighting): plain cross-entropy for most of the epochs, then with
    `weight=class_balanced_weights(stats)`. Differentiable to any order.

    Args:
        stats: the classes; each must have samples.
        margin: of the smallest class, as a cosine.
        scale: what the cosines were multiplied by.

    Raises:
        ValueError: a class has no samples, or logits that are no cosines times `scale`.

    Source: Cao et al., NeurIPS 2019, arXiv 1906.07413, equations 10 to 13.
    """

    def __init__(self, stats: ClassStats, margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__(stats, margin, scale)

    def forward(
        self,
        logits: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = self._check(logits, targets)
        counts = self.stats.counts
        margins = self.scale * self.margin * (counts.min() / counts) ** 0.25
        return logits - self._one_hot(logits, targets) * margins.to(logits.dtype)


class GaussianCloud(_Cosine):
    """Lower the cosines by the size of Gaussian noise, the more the smaller the class (GCL).

        u'_ic = u_ic - scale (|z_ic| log(n_max / n_c) / log(n_max / n_min) + margin [c = y])

    with z from a normal distribution of deviation `deviation`, cut to [-1, 1], anew for each
    sample and class. Differentiable to any order.

    Args:
        stats: the classes; each must have samples.
        generator: of the noise, on the device of the logits.
        margin: subtracted from the cosine of the own class.
        scale: what the cosines were multiplied by.
        deviation: of the noise; 0 leaves the margin alone.

    Raises:
        ValueError: a class has no samples, or logits that are no cosines times `scale`.

    Source: Li et al., Gaussian clouded logit adjustment, CVPR 2022, as in its released code.
    """

    def __init__(
        self,
        stats: ClassStats,
        *,
        generator: torch.Generator,
        margin: float = 0.5,
        scale: float = 30.0,
        deviation: float = 1 / 3,
    ) -> None:
        super().__init__(stats, margin, scale)
        if not 0 <= deviation < torch.inf:
            raise ValueError(f"`deviation` must be finite and not negative, got {deviation}.")
        self.generator, self.deviation = generator, deviation

    def forward(
        self,
        logits: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least; draws from the generator."""
        logits = self._check(logits, targets)
        rarity = (self.stats.counts.max() / self.stats.counts).log()
        rarity = (rarity / rarity.max().clamp_min(1e-12)).to(logits.dtype)  # 0 if all are equal
        noise = torch.empty_like(logits).normal_(0, self.deviation, generator=self.generator)
        cloud = noise.abs().clamp_max(1) * rarity + self.margin * self._one_hot(logits, targets)
        return logits - self.scale * cloud

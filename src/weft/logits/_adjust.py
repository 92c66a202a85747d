"""Fixed perturbations from class counts: priors, scales, margins and noise."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.logits._batch import check_batch, check_logits
from weft.logits._stats import ClassStats


class LogitAdjustment(nn.Module):
    """Add the logarithm of the class priors, times a temperature, to the logits in training.

        u'_i = u_i + temperature log pi

    The model then learns logits for classes in equal shares. At temperature 1 this is the
    balanced softmax: the logarithm of counts differs by a constant, which no softmax sees.
    Where a sampler rebalances, give the priors that it makes. Differentiable to any order.

    Args:
        stats: the classes; each must have samples.
        temperature: 1 is consistent for balanced accuracy; a little more often serves better.

    Raises:
        ValueError: a class has no samples, or `temperature` is not finite.

    Source: Menon et al., ICLR 2021, arXiv 2007.07314, equation 10; Ren et al., NeurIPS 2020.
    """

    def __init__(self, stats: ClassStats, temperature: float = 1.0) -> None:
        super().__init__()
        check_finite_number("temperature", temperature)
        stats.check_no_empty_class("the logarithm of its prior")
        self.stats, self.temperature = stats, temperature

    def forward(
        self,
        logits: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_batch(logits, targets, self.stats.num_classes)
        return logits + self._offsets(logits)

    def post_hoc(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Return logits of a model that was trained *without* adjustment, adjusted to predict.

        The other way round, u - temperature log pi, and for any inputs: no targets are needed.

        Source: Menon et al., equation 9.
        """
        logits = check_logits(logits, self.stats.num_classes)
        return logits - self._offsets(logits)

    def _offsets(self, logits: Tensor) -> Tensor:
        return (self.temperature * self.stats.priors.log()).to(logits.dtype)

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return f"temperature={self.temperature}"


class VectorScaling(nn.Module):
    """Scale the logits of small classes down, and add the logarithm of the priors (VS loss).

        u'_ic = u_ic (n_c / n_max)^gamma + temperature log pi_c

    With gamma 0 it is `LogitAdjustment`; with temperature 0, class-dependent temperatures (CDT).
    Differentiable to any order.

    Args:
        stats: the classes; each must have samples.
        gamma: strength of the scaling.
        temperature: strength of the priors.

    Source: Kini et al., NeurIPS 2021, arXiv 2103.01550; CDT: Ye et al., arXiv 2001.01385.
    """

    def __init__(self, stats: ClassStats, gamma: float = 0.3, temperature: float = 1.0) -> None:
        super().__init__()
        check_finite_number("gamma", gamma)
        check_finite_number("temperature", temperature)
        stats.check_no_empty_class("its scale")
        self.stats, self.gamma, self.temperature = stats, gamma, temperature

    def forward(
        self,
        logits: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_batch(logits, targets, self.stats.num_classes)
        counts = self.stats.counts
        scales = (counts / counts.max()) ** self.gamma
        offsets = self.temperature * self.stats.priors.log()
        return logits * scales.to(logits.dtype) + offsets.to(logits.dtype)

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return f"gamma={self.gamma}, temperature={self.temperature}"


def check_finite_number(name: str, value: float) -> None:
    """Refuse NaN and infinity."""
    if not abs(value) < torch.inf:
        raise ValueError(f"`{name}` must be a finite number, got {value}: 0 switches it off.")

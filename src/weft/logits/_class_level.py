"""Perturbations that give all samples of a class one shift: a fixed margin, or a learned one."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.logits._batch import check_batch
from weft.logits._bounds import Bounds, BySize, warn_of_collapse
from weft.logits._groups import LEAST, balance, group
from weft.logits._stats import ClassStats

_BY_SIZE = BySize()


class Bounded(nn.Module):
    """Holds statistics and bounds; bounds that do not follow the batch are computed once."""

    fixed: Tensor

    def __init__(self, stats: ClassStats, bounds: Bounds) -> None:
        super().__init__()
        self.stats, self.bounds = stats, bounds
        if not bounds.adaptive:
            self.register_buffer("fixed", bounds(stats.counts, stats.confidence))
            warn_of_collapse(self.fixed.min().item())

    def signed_bounds(self, probabilities: Tensor | None, targets: Tensor) -> Tensor:
        """Return s_c epsilon_c for this batch; fixed ones need no probabilities."""
        if probabilities is None or not self.bounds.adaptive:
            return self.fixed
        confidence = self.stats.observe(probabilities, targets)
        return self.bounds(self.stats.counts, confidence)

    def extra_repr(self) -> str:
        """Show the bounds in the module's printout."""
        return f"bounds={self.bounds}"


class ClassMargin(Bounded):
    """Lower the logit of a sample's own class by the signed bound of that class.

        u'_i = u_i - s_y epsilon_y e_y

    The control of `LPL`: the same classes pushed by the same amounts, and nothing learned. It
    equals `LPL` with bounds smaller by sqrt((c - 1) / c) where all wrong classes are equally
    likely. Under soft targets a sample gets its shares of the shifts. Differentiable to any order
    in the logits.

    Args:
        stats: the classes; held, so that it is in `state_dict`.
        bounds: which classes, how far.
    """

    def __init__(self, stats: ClassStats, bounds: Bounds = _BY_SIZE) -> None:
        super().__init__(stats, bounds)

    def forward(
        self,
        logits: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_batch(logits, targets, self.stats.num_classes)
        probabilities = logits.detach().softmax(1) if self.bounds.adaptive else None
        margins = self.signed_bounds(probabilities, targets).to(logits.dtype)
        if targets.ndim == 2:
            return logits - targets * margins
        return logits.scatter_add(1, targets[:, None], -margins[targets][:, None])


class LPL(Bounded):
    """Class-level logit perturbation, learned: push each class along its own confusion.

    All samples i of class c get one shift delta_c, found by `steps` ascent or descent steps on
    the class's mean cross-entropy, whose gradient in delta_c is g_c = mean softmax(u_i + delta_c)
    - e_c:

        delta_c <- delta_c + s_c (epsilon_c / steps) g_c / |g_c|

    so |delta_c| <= epsilon_c for every class. The shift is a class-graded margin, and spreads the
    rest over the other classes as they are confused with c. It is a constant for the gradient, so
    the perturbed logits are differentiable to any order with the derivatives of `logits`. Classes
    that are not in the batch count for nothing, and cost nothing where there are more than 256.
    Where the samples of a class give all wrong classes together less than 1e-18, confusion has no
    direction, and the shift is on the own logit alone. Under soft targets, samples count in a class
    by their share, and get their shares of its shift. In a distributed training, the means are
    those of all processes, which must call it together.

    Args:
        stats: the classes; held, so that it is in `state_dict`.
        bounds: which classes are pushed up and down, how far.
        steps: one goes the whole way; more follow the gradient as it turns, at a softmax each.
        normalize: steps of full length. False takes g_c as it is, as the paper writes; such steps
            fade as the training fits, and with them the effect.

    Raises:
        ValueError: `steps` is below one.

    Source: Li, Su, Wu, Zhang, arXiv 2209.05668, the objective and the PGD-like update; one row is
        normalised at a time (the released code divides by column norms, which voids the bound),
        and unnormalised steps are projected onto the ball at the end.
    """

    def __init__(
        self,
        stats: ClassStats,
        bounds: Bounds = _BY_SIZE,
        *,
        steps: int = 1,
        normalize: bool = True,
    ) -> None:
        super().__init__(stats, bounds)
        if not steps >= 1:
            raise ValueError(f"`steps` must be at least 1, got {steps}: epsilon 0 switches off.")
        self.steps, self.normalize = steps, normalize

    def forward(
        self,
        logits: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_batch(logits, targets, self.stats.num_classes)
        # In place, a pass less over memory; the sum has the gradient of its second term.
        return self._shifts(logits.detach(), targets.detach()).add_(logits)

    def _shifts(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the shift of each sample, in memory of its own; nothing here has a gradient."""
        groups = group(targets, self.stats.num_classes, logits.dtype)
        probabilities = logits.softmax(1)
        signed = self.signed_bounds(probabilities, targets)
        if groups.classes is not None:
            signed = signed.index_select(0, groups.classes)
        step = signed if self.steps == 1 else signed / self.steps
        shifts = None  # of each row's class
        for _ in range(self.steps):
            if shifts is not None:
                probabilities = (logits + groups.spread(shifts)).softmax(1)
            # This row becomes g_c times the class's mass; its entry at c is minus the sum of the
            # others, because p_c - 1 would cancel near p_c = 1.
            row = balance(groups.sums(probabilities), groups.classes)
            if self.normalize:
                length = torch.linalg.vector_norm(row, dim=1)
            else:
                length = groups.mass().to(row.dtype).clamp_min_(LEAST)
            # Into the lengths: bounds are float64, and converting them is one call more.
            row.mul_(torch.div(step, length, out=length).unsqueeze_(1))
            shifts = row if shifts is None else shifts.add_(row)
        assert shifts is not None  # there is a step
        if not self.normalize:
            reached = torch.linalg.vector_norm(shifts, dim=1)
            furthest = signed.abs().to(reached.dtype)
            shifts *= torch.where(reached > furthest, furthest / reached, 1.0)[:, None]
        return groups.spread(shifts)

    def extra_repr(self) -> str:
        """Show the settings in the module's printout."""
        return f"bounds={self.bounds}, steps={self.steps}, normalize={self.normalize}"

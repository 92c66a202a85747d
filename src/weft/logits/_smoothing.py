"""Label smoothing, as one more shift of the logits: a margin for each sample."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.logits._batch import check_batch
from weft.logits._stats import check_ids


class LabelSmoothing(nn.Module):
    """Lower the logit of a sample's own class until cross-entropy is that of smoothed labels.

        u'_i = u_i - m_i e_y  with  l(u'_i, y) = L_i = (1 - s) l(u_i, y) + s mean_c l(u_i, c)

    There is one such margin m_i for any logits: L_i is positive, so u'_iy = r_i - log(exp L_i - 1),
    with r_i the log-sum-exp of the wrong logits. It is differentiated with them, so the loss and
    its derivatives of any order are those of `F.cross_entropy(logits, targets, label_smoothing=s)`.
    No shift that is held constant could do that: where a wrong class is less likely than its share
    of the smoothing, no logits have that gradient. Needs no counts. Targets are class ids.

    Args:
        smoothing: share of the target that is spread evenly over all classes, in [0, 1]; 0 changes
            nothing.

    Raises:
        ValueError: `smoothing` is out of range.

    Source: Szegedy et al., CVPR 2016, arXiv 1512.00567, section 7; the margin is ours.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        if not 0 <= smoothing <= 1:
            raise ValueError(
                f"`smoothing` must be a share in [0, 1], got {smoothing}: 0 changes nothing."
            )
        self.smoothing = smoothing

    def forward(
        self, logits: Float[Tensor, "n c"], targets: Int[Tensor, " n"]
    ) -> Float[Tensor, "n c"]:
        """Return the perturbed logits, in float32 at least."""
        logits = check_batch(logits, targets, logits.shape[-1])
        check_ids(targets, logits.shape[1])
        if not self.smoothing or logits.shape[1] == 1:  # nothing to confuse it with
            return logits
        own = targets[:, None]
        losses = -logits.log_softmax(1)
        smooth = losses.gather(1, own).lerp(losses.mean(1, keepdim=True), self.smoothing)
        wrong = logits.scatter(1, own, -torch.inf).logsumexp(1, keepdim=True)
        odds = smooth + (-(-smooth).expm1()).log()  # log(exp L - 1), for small and large L alike
        return logits.scatter(1, own, wrong - odds)

    def extra_repr(self) -> str:
        """Show the setting in the module's printout."""
        return f"smoothing={self.smoothing}"

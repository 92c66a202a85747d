"""What is known of each class: how many samples it has, and how sure the model is of them.

Class ids are integers in any order; the size of a class is never read from its id. Knows tensors.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def distributed() -> bool:
    """Return whether other processes of `torch.distributed` hold parts of the batch."""
    return dist.is_available() and dist.is_initialized()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add up a tensor, in place, over the processes of `torch.distributed`, if there are any."""
    if distributed():
        dist.all_reduce(tensor)
    return tensor


class ClassStats(nn.Module):
    """Counts, priors, presence and mean confidence of classes, or of labels.

    A class without samples is allowed: it is left out of every rank, mean and threshold. What
    needs the logarithm of its prior refuses it. Counts and confidence are in `state_dict`.

    Args:
        counts: samples of each class, not negative; in multi-label tasks, positives of each label.
        num_samples: samples in all; by default the sum of `counts`, as where each sample has one
            class. Multi-label tasks must give it.
        momentum: share of the old mean confidence that stays when a batch is observed; 0 keeps
            nothing, so that only classes in the batch have a confidence.

    Raises:
        ValueError: counts are negative, not finite, all zero or more than `num_samples`, or
            momentum is out of range.
    """

    counts: Float[Tensor, " c"]
    num_samples: Float[Tensor, ""]
    confidence: Float[Tensor, " c"]

    def __init__(
        self,
        counts: Sequence[float] | Tensor,
        *,
        num_samples: float | None = None,
        momentum: float = 0.0,
    ) -> None:
        super().__init__()
        counts = torch.as_tensor(counts).detach().double().clone()
        if counts.ndim != 1 or not (counts >= 0).all() or not 0 < counts.sum() < torch.inf:
            raise ValueError(
                "`counts` must be one number per class, finite, not negative and not all zero, "
                f"got {counts.tolist()}: count the training labels, or use from_targets."
            )
        if num_samples is not None and not counts.max() <= num_samples:
            raise ValueError(
                f"`num_samples` must be at least the largest count, {counts.max().item():g}, "
                f"got {num_samples:g}: a sample has a label once or not at all."
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1), got {momentum}: 0 keeps no average.")
        self.momentum, self.num_classes = momentum, len(counts)  # those without samples too
        self.register_buffer("counts", counts)
        total = counts.sum() if num_samples is None else counts.new_tensor(num_samples)
        self.register_buffer("num_samples", total)
        self.register_buffer("confidence", torch.full_like(counts, torch.nan))

    @classmethod
    def from_targets(
        cls,
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
        num_classes: int | None = None,
        *,
        momentum: float = 0.0,
    ) -> "ClassStats":
        """Count training targets; each process of a distributed training counts all of them.

        Args:
            targets: class ids, or one row per sample: probabilities that sum to one (mixup) or
                zeros and ones (multi-label).
            num_classes: needed for ids, of which the last classes may have none.
            momentum: as in the class.

        Raises:
            TypeError: ids without `num_classes`, or targets that are neither.
            ValueError: an id is out of range.
        """
        if targets.ndim == 2:
            counts = targets.detach().double().sum(0)
            return cls(counts, num_samples=len(targets), momentum=momentum)
        if num_classes is None:
            raise TypeError("`num_classes` must be given with class ids: the last may be absent.")
        check_ids(targets, num_classes)
        return cls(targets.bincount(minlength=num_classes), momentum=momentum)

    @classmethod
    def from_priors(
        cls, priors: Sequence[float] | Tensor, num_samples: float, *, momentum: float = 0.0
    ) -> "ClassStats":
        """Take the classes' shares of the samples, such as those of a sampler that rebalances.

        Raises:
            ValueError: `priors` do not sum to one.
        """
        priors = torch.as_tensor(priors).double()
        if not abs(priors.sum().item() - 1) < 1e-5:
            raise ValueError(
                f"`priors` must sum to one, got {priors.sum().item():g}: divide by their sum, "
                "or give counts to ClassStats."
            )
        return cls(priors * num_samples, num_samples=num_samples, momentum=momentum)

    @property
    def present(self) -> Bool[Tensor, " c"]:
        """Which classes have samples."""
        return self.counts > 0

    @property
    def priors(self) -> Float[Tensor, " c"]:
        """Share of the samples that have each class."""
        return self.counts / self.num_samples

    def check_no_empty_class(self, use: str) -> None:
        """Refuse classes without samples, for what needs the logarithm of a count."""
        if not self.present.all():
            empty = int((~self.present).nonzero()[0])
            raise ValueError(
                f"`counts` must be positive for {use}, got 0 for class {empty}: leave the class "
                "out, or add a pseudo-count to every class."
            )

    @torch.no_grad()
    def observe(
        self,
        probabilities: Float[Tensor, "n c"],
        targets: Int[Tensor, " n"] | Float[Tensor, "n c"],
    ) -> Float[Tensor, " c"]:
        """Return each class's mean confidence: the mean, over its samples, of its probability.

        Of this batch, or a moving average if `momentum` is set and the module is in training
        mode. Samples count by their share of the class under soft targets, and those of all
        processes count in a distributed training. NaN for classes without any.
        """
        if targets.ndim == 2:
            mass = targets.sum(0)
            sums = (targets * probabilities).sum(0)
        else:
            mass = probabilities.new_zeros(self.num_classes)
            mass.index_add_(0, targets, mass.new_ones(len(targets)))
            own = probabilities.gather(1, targets[:, None]).squeeze(1)
            sums = torch.zeros_like(mass).index_add_(0, targets, own)
        sums, mass = sum_over_processes(torch.stack([sums, mass]))
        means = sums / mass  # 0 / 0 is NaN: no sample, no confidence
        if not self.momentum:
            return means
        old = self.confidence.to(means.dtype)
        means = torch.where(means.isnan(), old, means)
        means = torch.where(old.isnan(), means, means.lerp(old, self.momentum))
        if self.training:
            self.confidence.copy_(means)
        return means

    def extra_repr(self) -> str:
        """Show the sizes in the module's printout."""
        return f"num_classes={self.num_classes}, num_samples={self.num_samples.item():g}"


def check_ids(targets: Tensor, num_classes: int) -> None:
    """Refuse what is no vector of class ids from 0 to `num_classes` - 1."""
    if targets.ndim != 1 or targets.dtype != torch.int64:
        raise TypeError(
            f"`targets` must be class ids of shape (n,), or floating-point rows (n, {num_classes}),"
            f" got {targets.dtype} of shape {tuple(targets.shape)}: "
            "call .long() on ids, .float() on rows."
        )
    if len(targets) and not torch.compiler.is_compiling():  # values are not known then
        lowest, highest = targets.aminmax()
        low, high = lowest.item(), highest.item()
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"`targets` must lie between 0 and {num_classes - 1}, got {low} to {high}: "
                "number the classes from 0, and leave ignored samples out."
            )

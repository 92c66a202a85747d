"""Distances of pairs of rows that survive: close rows, equal rows, half precision, two derivatives.

Differences come first and are squared afterwards, never |x|^2 + |y|^2 - 2 <x, y>, which loses the
digits of close rows; and nothing of size batch x batch is made. Knows tensors only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import at_least_float32, check_finite, check_floating

Metric = Callable[[Float[Tensor, "p d"], Float[Tensor, "p d"]], Float[Tensor, " p"]]
"""A metric takes two tensors and returns the distance of each row of one to the same row of the
other. Any such function will do; one that is to be differentiated consists of torch operations."""

_CHUNK = {"cpu": 2**17}  # numbers that stay in a core's cache, in three buffers
_LARGE_CHUNK = 2**25  # elsewhere, few large kernels


@dataclass(frozen=True)
class Euclidean:
    """The metric |x - y|^2 / sqrt(|x - y|^2 + epsilon^2): smooth everywhere, zero at x = y.

    The plain norm has no derivative at x = y; this one has the gradient zero there and the second
    derivative 2 / epsilon. Distances that are larger than epsilon are too short by less than
    epsilon^2 / (2 |x - y|); far below it, they shrink as their squares.

    Args:
        epsilon: where smoothing begins, in the unit of the rows; positive.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(
                f"`epsilon` must be positive, got {self.epsilon}: at zero, equal rows have no "
                "gradient; take 1e-6."
            )

    def __call__(self, x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> Float[Tensor, " p"]:
        """Return the distances."""
        apart = x - y
        squares = (apart.square() if apart.requires_grad else apart.square_()).sum(1)
        return squares * (squares + self.epsilon**2).rsqrt()


_EUCLIDEAN = Euclidean()


def manhattan(x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> Float[Tensor, " p"]:
    """Return sum |x - y|, the L1 metric."""
    return (x - y).abs().sum(1)


def chebyshev(x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> Float[Tensor, " p"]:
    """Return max |x - y|, the L-infinity metric."""
    return (x - y).abs().amax(1)


def cosine(x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> Float[Tensor, " p"]:
    """Return 1 - cos(x, y), as half the squared chord: close directions keep their digits.

    A row of zeros has no direction: it is at 1/2 from all others, at 0 from its like, and gets no
    gradient. The gradient of other rows grows as they shrink, as the angle's does.
    """
    return (_direction(x) - _direction(y)).square().sum(1) / 2


def _direction(rows: Float[Tensor, "p d"]) -> Float[Tensor, "p d"]:
    squares = rows.square().sum(1, keepdim=True)
    some = squares > 0
    return rows * some / torch.where(some, squares, 1.0).sqrt()


def pair_distances(
    points: Float[Tensor, "n *shape"], pairs: Int[Tensor, "2 p"], metric: Metric = _EUCLIDEAN
) -> Float[Tensor, " p"]:
    """Return the distance of each pair of rows.

    Differentiable as often as the metric: `Euclidean()` to any order. Without gradient, pairs are
    taken in blocks, so that nothing of size pairs x width is made.

    Args:
        points: rows, flattened from the second axis on.
        pairs: which rows; pairs may come twice.
        metric: of two rows.

    Returns:
        Distances with the dtype and device of `points`; half precision gives float32, also inside
        autocast.

    Raises:
        TypeError: `points` are not floating point, or `pairs` are not row numbers.
        ValueError: NaN or infinite points, a pair of rows that are not there, or a metric that
            does not return one number per pair.
    """
    points = flat_rows("points", points)
    check_pairs(pairs, len(points))
    return checked_distances(points, pairs, metric)


def checked_distances(
    points: Float[Tensor, "n d"], pairs: Int[Tensor, "2 p"], metric: Metric
) -> Float[Tensor, " p"]:
    """Do what `pair_distances` does, for points and pairs that are known to be sound."""
    i, j = pairs
    with torch.autocast(points.device.type, enabled=False):
        points = at_least_float32(points)
        if not (points.requires_grad and torch.is_grad_enabled()):
            return _in_blocks(points, i, j, metric)
        distances = metric(points.index_select(0, i), points.index_select(0, j))
    _check_one_per_pair(distances, len(i))
    return distances


def _in_blocks(
    points: Float[Tensor, "n d"], i: Int[Tensor, " p"], j: Int[Tensor, " p"], metric: Metric
) -> Float[Tensor, " p"]:
    """Take distances without gradient; all blocks are gathered into the same memory."""
    width = points.shape[1]
    block = _CHUNK.get(points.device.type, _LARGE_CHUNK)
    size = min(max(1, block // max(1, width)), max(1, len(i)))
    x, y = points.new_empty(size, width), points.new_empty(size, width)
    distances = points.new_empty(len(i))
    places = zip(i.split(size), j.split(size), distances.split(size), strict=True)
    with torch.no_grad():
        for one, other, found in places:
            rows = slice(len(one))
            torch.index_select(points, 0, one, out=x[rows])
            torch.index_select(points, 0, other, out=y[rows])
            some = metric(x[rows], y[rows])
            _check_one_per_pair(some, len(one))
            found.copy_(some)
    return distances


def _check_one_per_pair(distances: Tensor, count: int) -> None:
    if distances.shape != (count,):
        raise ValueError(
            f"`metric` must return one number per pair, shape ({count},), got "
            f"{tuple(distances.shape)}: sum over the second axis."
        )


def flat_rows(name: str, tensor: Float[Tensor, "n *shape"]) -> Float[Tensor, "n d"]:
    """Return a tensor as rows of finite numbers, or say what else it is."""
    if isinstance(tensor, Tensor) and tensor.ndim > 2:
        tensor = tensor.flatten(1)
    check_floating(name, tensor, "n d")
    check_finite(name, tensor.detach())
    return tensor


def check_pairs(pairs: Tensor, num_rows: int) -> None:
    """Refuse anything but two rows of row numbers."""
    if not isinstance(pairs, Tensor) or pairs.dtype not in (torch.int32, torch.int64):
        came = pairs.dtype if isinstance(pairs, Tensor) else type(pairs).__name__
        raise TypeError(f"`pairs` must be a tensor of row numbers, got {came}: call .long().")
    if pairs.ndim != 2 or len(pairs) != 2:
        raise ValueError(
            f"`pairs` must have shape (2, p), got {tuple(pairs.shape)}: one pair per column."
        )
    if pairs.numel() and not (pairs.min() >= 0 and pairs.max() < num_rows):
        raise ValueError(
            f"`pairs` must be rows from 0 to {num_rows - 1}, got {int(pairs.min())} to "
            f"{int(pairs.max())}: number the rows of this batch."
        )

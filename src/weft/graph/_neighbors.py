"""The k nearest neighbours of each row: what a search is, and the exact one, on any device.

A search is an object that maps (features, k) to indices. The exact one certifies its answer:
matrix products find candidates fast but round, so a row whose k-th place is closer to its
rivals than the rounding error is chosen again among its candidates in float64, then searched
again in float64, and at last by direct differences.
The result is then the same on every device, and ties go to the lower index.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import at_least_float32, check_finite, check_floating, on_values
from weft.graph._edges import inner_products


class Neighbors(Protocol):
    """How to find neighbours: a frozen object, callable."""

    def __call__(self, features: Float[Tensor, "n d"], k: int) -> Int[Tensor, "n k"]:
        """Return for each row the k nearest other rows; the last column is the k-th nearest."""
        ...


@dataclass(frozen=True)
class ExactNeighbors:
    """Exact Euclidean neighbours, deterministic, in bounded memory on the tensor's device.

    Args:
        chunk_bytes: size of the largest block of distances; `None` takes 4 MiB on a CPU, which
            stays in cache, or what 256 rows need, for each block reads all points; 256 MiB at
            most, and elsewhere.
    """

    chunk_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            raise ValueError(
                f"`chunk_bytes` must be positive, got {self.chunk_bytes}: None is the default."
            )

    @on_values
    def __call__(self, features: Float[Tensor, "n d"], k: int) -> Int[Tensor, "n k"]:
        """Return the indices of the k nearest other rows, nearest first, ties by index.

        Which rows belong to the set, and which is the k-th, is certain; the order among the
        first k - 1 is that of the rounded distances.
        """
        check_search(features, k)
        features = at_least_float32(features)
        points = features.detach().double()
        found = torch.empty(len(points), k, dtype=torch.long, device=points.device)
        rows = torch.arange(len(points), device=points.device)
        if features.dtype == torch.float32 and _float32_products_are_exact():
            centred = points - points.mean(0)  # smaller norms, smaller rounding errors
            with torch.autocast(points.device.type, enabled=False):
                unsure = self._search(centred.float(), k, rows, found, spare=8)
            rows = unsure.choose(centred, k, found)
        rows = self._search(points, k, rows, found).rows
        self._search_directly(points, k, rows, found)
        return found

    def _search(
        self, points: Tensor, k: int, rows: Tensor, found: Tensor, spare: int = 0
    ) -> "_Candidates":
        """Fill `found` for `rows` by matrix products; return what stays uncertain."""
        if not len(rows):
            return _Candidates(rows, found[rows], points.new_zeros(0))
        norms = points.square().sum(1)
        count = min(k + 1 + spare, len(points) - 1)
        # All memory is taken at once: small results between freed blocks would tear the heap.
        values = points.new_empty(len(rows), count)
        indices = found.new_empty(len(rows), count)
        chunks = math.ceil(len(rows) / self._rows_per_chunk(points))
        height = math.ceil(len(rows) / chunks)
        block = points.new_empty(height, len(points))
        # <(-2 x, 1), (y, |y|^2)> = |x - y|^2 - |x|^2: one product, and no pass to add the norms.
        left = torch.cat([-2 * points, torch.ones_like(norms)[:, None]], dim=1)
        right = torch.cat([points, norms[:, None]], dim=1).T
        for part, *kept in zip(*(x.split(height) for x in (rows, values, indices)), strict=True):
            distances = block[: len(part)]
            torch.mm(left[part], right, out=distances)
            distances.scatter_(1, part[:, None], torch.inf)
            for slot, smallest in zip(kept, smallest_entries(distances, count), strict=True):
                slot.copy_(smallest)
        found[rows] = indices[:, :k]
        error = _rounding(points, norms, rows)
        unsure = (~_are_certain(values, k, error)).nonzero().squeeze(1)
        return _Candidates(rows[unsure], indices[unsure], (values[:, -1] - error)[unsure])

    def _search_directly(self, points: Tensor, k: int, rows: Tensor, found: Tensor) -> None:
        """Fill `found` for `rows` by direct differences: equal points have equal distances."""
        if not len(rows):
            return
        for part in rows.split(self._rows_per_chunk(points)):
            distances = torch.cdist(
                points[part], points, compute_mode="donot_use_mm_for_euclid_dist"
            )
            distances.scatter_(1, part[:, None], torch.inf)
            found[part] = distances.sort(dim=1, stable=True).indices[:, :k]

    def _rows_per_chunk(self, points: Tensor) -> int:
        row_bytes = points.element_size() * max(1, len(points))
        chunk_bytes = self.chunk_bytes or 2**28
        if self.chunk_bytes is None and points.device.type == "cpu":
            chunk_bytes = min(chunk_bytes, max(2**22, 256 * row_bytes))
        return max(1, chunk_bytes // row_bytes)


@dataclass(frozen=True)
class _Candidates:
    """Rows whose neighbours are uncertain, and a few more candidates than needed for each.

    Args:
        rows: the rows, ascending.
        indices: candidates of each row.
        beyond: no other point is nearer than this squared distance, |x_i|^2 subtracted.
    """

    rows: Int[Tensor, " r"]
    indices: Int[Tensor, "r c"]
    beyond: Float[Tensor, " r"]

    def choose(self, points: Tensor, k: int, found: Tensor) -> Tensor:
        """Fill `found` from the candidates by float64 products; return what stays uncertain."""
        count = self.indices.shape[1]
        indices = self.indices.sort(dim=1).values
        products = inner_products(points, self.rows.repeat_interleave(count), indices.flatten())
        norms = points.square().sum(1)
        values, order = (norms[indices] - 2 * products.view_as(indices)).sort(dim=1)
        found[self.rows] = indices.gather(1, order)[:, :k]
        error = _rounding(points, norms, self.rows)
        certain = _are_certain(values, k, error)
        if count < len(points) - 1:
            certain &= values[:, k - 1] + error < self.beyond
        return self.rows[~certain]


def _rounding(points: Tensor, norms: Tensor, rows: Tensor) -> Tensor:
    """Bound the rounding error of squared distances that are computed by products.

    A sum of d + 1 products is off by at most gamma times the sum of their sizes, here
    2 |x| |y| + |y|^2 <= |x|^2 + 2 |y|^2; the norms' own errors are of that order.
    """
    gamma = (points.shape[1] + 4) * torch.finfo(points.dtype).eps
    return gamma * (norms[rows] + 2 * norms.max())


def _are_certain(values: Tensor, k: int, error: Tensor) -> Tensor:
    """Tell where the k-th of ascending values is further from its rivals than the errors."""
    gaps = values.diff(dim=1)[:, max(0, k - 2) : k]
    return (gaps > 2 * error[:, None]).all(1)  # false where anything overflowed


def check_search(features: Tensor, k: int) -> None:
    check_floating("features", features, "n d")
    check_finite("features", features.detach())
    if not 1 <= k < len(features):
        raise ValueError(
            f"`k` must be at least 1 and less than the number of rows, {len(features)}, got {k}: "
            "a row has no more neighbours than there are others."
        )


def _float32_products_are_exact() -> bool:
    """Say whether float32 matrix products round to float32, not to TF32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by backend, which torch then refuses to sum up: take no chance
        return False


def smallest_entries(values: Float[Tensor, "r n"], count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` smallest entries of each row and their places, ascending.

    `topk` costs several times the matrix product before it. The minima of 4 x `count` buckets
    bound the `count`-th smallest entry from above, since `count` of them lie below it; only the
    few entries under that bound are sorted. NumPy partitions and sorts with vector instructions.
    """
    num_rows, num_columns = values.shape
    buckets = min(4 * count, num_columns // 4)
    if buckets < 2 * count or values.device.type != "cpu":
        return values.topk(count, largest=False)
    depth = num_columns // buckets
    minima = values[:, : depth * buckets].reshape(num_rows, depth, buckets).amin(1)
    bound = np.partition(minima.numpy(), count - 1, axis=1)[:, count - 1, None]
    table = values.numpy()
    at = _places(table <= bound)
    start = np.searchsorted(at, num_columns * np.arange(num_rows + 1))
    in_row = np.diff(start)
    row = np.repeat(np.arange(num_rows), in_row)
    width = max(count, in_row.max())
    to = np.arange(len(at)) - start[row] + row * width
    short = np.full((num_rows, width), np.inf, table.dtype)
    columns = np.zeros((num_rows, width), np.int64)
    short.reshape(-1)[to] = table.reshape(-1)[at]
    columns.reshape(-1)[to] = at - row * num_columns
    order = torch.from_numpy(short.argsort(axis=1)[:, :count])
    return torch.from_numpy(short).gather(1, order), torch.from_numpy(columns).gather(1, order)


def _places(mask: np.ndarray) -> np.ndarray:
    """Return where a mask with few true entries is true, flat; looks at eight at a time."""
    flat = mask.reshape(-1)
    whole = len(flat) // 8 * 8
    words = flat[:whole].view(np.uint64)
    word = np.flatnonzero(words != 0)
    inside = np.flatnonzero(words[word].view(np.bool_))
    places = 8 * word[inside >> 3] + (inside & 7)
    return np.concatenate([places, whole + np.flatnonzero(flat[whole:])])

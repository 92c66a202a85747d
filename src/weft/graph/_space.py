"""Where queries look for the anchors near them: frozen points and bandwidths, searched exactly.

Knows tensors and kernels.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft._check import check_finite, check_floating
from weft.graph._neighbors import _float32_products_are_exact
from weft.graph._weights import Bandwidth, Kernel, pair_weights

_SPARE = 8  # candidates beyond the k nearest by rounded distances


class Links(NamedTuple):
    """How queries hang on the anchors: the k nearest of each, and the edge weights."""

    anchors: Int[Tensor, "q k"]
    weights: Float[Tensor, "q k"]


@dataclass(frozen=True, eq=False)
class Space:
    """The anchors' coordinates and bandwidths, and how distances become weights.

    Args:
        points: coordinates of the anchors.
        kth_squared: squared distance of each anchor to its k-th neighbour.
        k: neighbours of a query.
        kernel: edge weights.
        bandwidth: length scales.
        scale: times all weights.
        rough: (y, |y|^2) in float32, where y are the points less their mean: what a query is
            compared with first.
        centre: that mean, of the points there were at first.
        largest: the largest of |y|^2.
    """

    points: Float[Tensor, "n d"]
    kth_squared: Float[Tensor, " n"]
    k: int
    kernel: Kernel
    bandwidth: Bandwidth
    scale: float
    rough: Float[Tensor, "n d+1"]
    centre: Float[Tensor, " d"]
    largest: Float[Tensor, ""]

    @classmethod
    def of(
        cls,
        points: Float[Tensor, "n d"],
        kth_squared: Float[Tensor, " n"],
        k: int,
        kernel: Kernel,
        bandwidth: Bandwidth,
        scale: float,
    ) -> "Space":
        """Prepare the search among points."""
        centre = points.double().mean(0)
        rough = _with_norms(points.double() - centre).float()
        k = min(k, len(points))
        largest = rough[:, -1].max()
        return cls(points, kth_squared, k, kernel, bandwidth, scale, rough, centre, largest)

    def with_point(self, point: Float[Tensor, "1 d"]) -> "Space":
        """Return the space with one point more, after the others; their bandwidths stay."""
        kth = self._squared(point, self._nearest(point)).amax(1)
        rough = _with_norms(point.double() - self.centre).float()
        return replace(
            self,
            points=torch.cat([self.points, point.to(self.points.dtype)]),
            kth_squared=torch.cat([self.kth_squared, kth.to(self.kth_squared.dtype)]),
            rough=torch.cat([self.rough, rough]),
            largest=torch.maximum(self.largest, rough[0, -1]),
        )

    def link(self, queries: Float[Tensor, "q d"]) -> Links:
        """Find the k nearest points of each query, and the weights of the edges to them."""
        check_floating("queries", queries, "q d")
        if queries.shape[1] != self.points.shape[1]:
            raise ValueError(
                f"`queries` must have shape (q, {self.points.shape[1]}), got "
                f"{tuple(queries.shape)}: encode them as the anchors were."
            )
        check_finite("queries", queries)
        rows = max(1, 2**22 // len(self.points))  # 16 MiB of distances at once
        parts = [self._link(part) for part in queries.to(self.points.dtype).split(rows)]
        return Links(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _link(self, queries: Tensor) -> Links:
        nearest = self._nearest(queries)
        squared = (queries[:, None] - self.points[nearest]).square().sum(2)
        kth = squared.amax(1, keepdim=True).expand_as(squared)
        own = self.kth_squared[nearest].flatten()
        weights = pair_weights(squared.flatten(), kth.flatten(), own, self.kernel, self.bandwidth)
        return Links(nearest, self.scale * weights.view(squared.shape))

    def _nearest(self, queries: Tensor) -> Int[Tensor, "q k"]:
        """Return the k nearest points of each query: candidates in float32, then certainty.

        One product with the points, read once, finds some more candidates than needed, and their
        distances in float64 order them. No other point can be among the k nearest if the last
        candidate is farther than the k-th of these by more than rounding; else all are compared.
        """
        count = min(self.k + _SPARE, len(self.points))
        centred = queries.double() - self.centre
        norms = centred.square().sum(1)
        # |x - y|^2 - |x|^2 = <(-2 x, 1), (y, |y|^2)>
        left = torch.cat([-2 * centred, torch.ones_like(norms)[:, None]], 1)
        rough = self.rough if _float32_products_are_exact() else self.rough.double()
        with torch.autocast(queries.device.type, enabled=False):
            near = (left.to(rough.dtype) @ rough.T).topk(count, largest=False)
        candidates = near.indices.sort(1).values  # so that ties go to the lower number
        squared = self._squared(queries, candidates)
        order = squared.argsort(dim=1, stable=True)[:, : self.k]
        nearest = candidates.gather(1, order)
        if count == len(self.points):
            return nearest
        # As in the search for all neighbours, and the points were rounded to float32 before.
        gamma = (self.rough.shape[1] + 8) * torch.finfo(torch.float32).eps
        error = gamma * (norms + 2 * self.largest)
        beyond = near.values.amax(1).double() + norms - error
        unsure = (~(squared.gather(1, order[:, -1:])[:, 0] < beyond)).nonzero().squeeze(1)
        if len(unsure):
            nearest[unsure] = self._nearest_directly(queries[unsure])
        return nearest

    def _nearest_directly(self, queries: Tensor) -> Int[Tensor, "q k"]:
        distances = torch.cdist(
            queries.double(),
            self.points.double(),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        return distances.sort(dim=1, stable=True).indices[:, : self.k]

    def _squared(self, queries: Tensor, candidates: Tensor) -> Float[Tensor, "q k"]:
        return (queries[:, None].double() - self.points[candidates].double()).square().sum(2)


def _with_norms(points: Tensor) -> Tensor:
    return torch.cat([points, points.square().sum(1, keepdim=True)], 1)

"""From features to a weighted graph: neighbours, distances, bandwidths, kernels.

The set of neighbours is found without gradient; the weights are ordinary differentiable
arithmetic on the edges, bandwidths included. Knows tensors and graphs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from weft._check import at_least_float32, check_finite, values_of
from weft.graph._edges import squared_distances
from weft.graph._graph import Graph, unique_edges
from weft.graph._neighbors import ExactNeighbors, Neighbors

Kernel = Callable[[Float[Tensor, " e"], Float[Tensor, " e"]], Float[Tensor, " e"]]
"""A kernel takes, for each edge, the scaled square distance s = d^2 / (eps_i eps_j) and the
reach r = d^2 / max(d_k(i), d_k(j))^2 in [0, 1], and returns weights: non-negative, and one at
s = r = 0. Any such function of tensors will do."""


@dataclass(frozen=True)
class Gaussian:
    """The kernel exp(-rate * s); with rate 4 and self-tuned bandwidths, that of the GLL paper."""

    rate: float = 4.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"`rate` must be positive, got {self.rate}: weights fall with s.")

    def __call__(self, scaled: Float[Tensor, " e"], reach: Float[Tensor, " e"]) -> Tensor:
        """Return the weights."""
        return torch.exp(-self.rate * scaled)


@dataclass(frozen=True)
class Tapered:
    """The kernel exp(-rate * s) (1 - r)^2, which is zero at the k-th neighbour.

    When two points swap places as k-th neighbour, both their edges have weight zero, so the
    weights, and every solution on the graph, are continuous in the features, with a continuous
    first derivative across the swap of edges. Without the taper both jump.
    """

    rate: float = 4.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"`rate` must be positive, got {self.rate}: weights fall with s.")

    def __call__(self, scaled: Float[Tensor, " e"], reach: Float[Tensor, " e"]) -> Tensor:
        """Return the weights."""
        return torch.exp(-self.rate * scaled) * (1 - reach).clamp_min(0).square()


class Bandwidth(Protocol):
    """How far a node sees: a frozen object, callable."""

    def __call__(self, kth_squared: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Map the squared distance to the k-th neighbour to eps^2, the squared bandwidth."""
        ...


@dataclass(frozen=True)
class SelfTuned:
    """The bandwidth of a node is the distance to its k-th neighbour, at least `floor`.

    Differentiated like everything else: leaving that term out changes the gradient by 57 to
    82 % in relative norm.

    Args:
        floor: least bandwidth, in the unit of the features; keeps coincident points finite.
    """

    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(
                f"`floor` must be positive, got {self.floor}: "
                "k coincident points would divide zero by zero."
            )

    def __call__(self, kth_squared: Float[Tensor, " n"]) -> Tensor:
        """Return the squared bandwidths."""
        return kth_squared.clamp_min(self.floor**2)


@dataclass(frozen=True)
class Constant:
    """One bandwidth for all nodes.

    Args:
        value: in the unit of the features; positive.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise ValueError(f"`value` must be positive, got {self.value}.")

    def __call__(self, kth_squared: Float[Tensor, " n"]) -> Tensor:
        """Return the squared bandwidths."""
        return torch.full_like(kth_squared, self.value**2)


_SELF_TUNED = SelfTuned()
_GAUSSIAN = Gaussian()
_EXACT = ExactNeighbors()


def knn_graph(
    features: Float[Tensor, "*b n d"],
    k: int = 25,
    *,
    kernel: Kernel = _GAUSSIAN,
    bandwidth: Bandwidth = _SELF_TUNED,
    neighbors: Neighbors = _EXACT,
) -> Graph:
    """Join each point with its k nearest others, weighted by distance.

    Two points are joined when either lists the other (the union graph). Coincident points are
    at distance zero and get the largest weight, one. Differentiable to any order in `features`
    while the sets of neighbours stay the same; with `Tapered`, across their changes too.

    Args:
        features: one row per node; or (b, n, d) for b graphs of n nodes each (episodes), which
            come back as one graph of b * n nodes in b blocks. Half precision is computed in
            float32.
        k: neighbours of each node, itself not counted; cut to n - 1 where there are fewer.
        kernel: weights from scaled distances.
        bandwidth: length scale of each node.
        neighbors: the search; exact by default.

    Returns:
        The graph, on the device of `features`, its weights with their dtype.

    Raises:
        TypeError: `features` are not floating point.
        ValueError: a wrong shape, NaN or infinite features, k < 1, or k < 2 with `Tapered`.

    Source: Brown et al., GLL, arXiv 2412.08016; the kernel and self-tuning as in its released
    code, the neighbours exact. The taper is ours.
    """
    return knn_graph_and_scales(features, k, kernel, bandwidth, neighbors)[0]


def knn_graph_and_scales(
    features: Tensor, k: int, kernel: Kernel, bandwidth: Bandwidth, neighbors: Neighbors
) -> tuple[Graph, Float[Tensor, " n"]]:
    """Do what `knn_graph` does; also return each node's squared distance to its k-th neighbour."""
    _check_features(features, k, kernel)
    episodes = features if features.ndim == 3 else features[None]
    num_graphs, block, width = episodes.shape
    num_nodes = num_graphs * block
    points = at_least_float32(episodes).reshape(num_nodes, width)
    with torch.autocast(points.device.type, enabled=False):
        k = min(k, block - 1)
        if k < 1 or not num_graphs:  # nodes without any neighbour, or none at all
            edges = torch.empty(2, 0, dtype=torch.long, device=points.device)
            weights = squared_distances(points, edges)
            graph = Graph(edges, weights, num_nodes, max(1, num_graphs))
            return graph, points.new_zeros(num_nodes)
        parts = [neighbors(points[at : at + block], k) + at for at in range(0, num_nodes, block)]
        found = torch.cat(parts) if num_graphs > 1 else parts[0]
        node = torch.arange(num_nodes, device=points.device)
        if found.shape != (num_nodes, k) or (found == node[:, None]).any():
            raise ValueError(
                f"`neighbors` must return {k} other rows for each of {num_nodes}, got shape "
                f"{tuple(found.shape)} or a row itself: drop the row from its own neighbours."
            )
        edges, keys = unique_edges(node[:, None], found, num_nodes)
        squared = squared_distances(points, edges)
        # The edge to the k-th neighbour is among the edges: find it, and its distance is known.
        kth = found[:, -1]
        key = torch.minimum(node, kth) * num_nodes + torch.maximum(node, kth)
        kth_squared = squared[torch.searchsorted(keys, key)]
        i, j = edges
        weights = pair_weights(squared, kth_squared[i], kth_squared[j], kernel, bandwidth)
    return Graph(edges, weights, num_nodes, num_graphs), kth_squared


def pair_weights(
    squared: Tensor, kth_i: Tensor, kth_j: Tensor, kernel: Kernel, bandwidth: Bandwidth
) -> Tensor:
    """Weigh pairs by their squared distance and both ends' squared distance to the k-th."""
    # A bandwidth may underflow, and a node may lie on all its k neighbours: 0 / 0 is then zero,
    # with a gradient of zero too.
    least = torch.finfo(squared.dtype).tiny / torch.finfo(squared.dtype).eps
    eps_i, eps_j = (bandwidth(kth).clamp_min(least).sqrt() for kth in (kth_i, kth_j))
    scaled = squared / (eps_i * eps_j)  # the product of squares would overflow sooner
    furthest = torch.maximum(kth_i, kth_j)
    return kernel(scaled, squared / torch.where(furthest > least, furthest, 1.0))


def _check_features(features: Tensor, k: int, kernel: Kernel) -> None:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        came = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"`features` must be a floating-point tensor, got {came}: call .float().")
    if features.ndim not in (2, 3):
        raise ValueError(
            f"`features` must have shape (n, d) or (b, n, d), got {tuple(features.shape)}: "
            "flatten images first."
        )
    values = values_of(features)
    check_finite("features", values)
    largest = values.abs().amax().item() if values.numel() else 0.0
    most = torch.finfo(at_least_float32(features[:0]).dtype).max
    if largest > (most / (4 * max(1, features.shape[-1]))) ** 0.5:
        raise ValueError(
            "`features` must have squared distances that fit their dtype, got entries as large as "
            f"{largest:g}: scale them down, or normalise the rows."
        )
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}: each node needs a neighbour.")
    if k < 2 and isinstance(kernel, Tapered):
        raise ValueError(
            "`k` must be at least 2 with the tapered kernel, got 1: its k-th weight is zero."
        )

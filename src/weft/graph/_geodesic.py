"""Distances along a point set: shortest paths on its nearest-neighbour graph.

Paths are searched from as few nodes as the asked pairs allow, by SciPy, on the CPU; where they are
asked for again and again, they are kept. Knows graphs.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor

from weft._check import at_least_float32, check_finite, check_floating, on_values
from weft.graph._edges import squared_distances
from weft.graph._graph import connected_components, unique_edges
from weft.graph._neighbors import ExactNeighbors, Neighbors
from weft.graph._weights import knn_graph

_EXACT = ExactNeighbors()
_BLOCK = 2**23  # entries of the largest block of distances: 64 MiB


def geodesic_distances(
    points: Float[Tensor, "n d"],
    pairs: Int[Tensor, "2 m"],
    *,
    labels: Int[Tensor, " n"] | None = None,
    k: int = 10,
    bridges: bool = True,
    neighbors: Neighbors = _EXACT,
) -> Float[Tensor, " m"]:
    """Return the lengths of the shortest paths between pairs, over each point's k nearest others.

    An edge is as long as its ends are apart, so paths follow the point set where straight lines
    would leave it. Memory grows with points and pairs, never with n^2. Not differentiable: these
    are distances of given inputs, to be computed once and kept.

    Args:
        points: one row per point. Half precision is computed in float32.
        pairs: indices of the two ends of each path. The cost is one search for each point
            that is first in a pair, or second, whichever are fewer: pairs from a few hundred
            sources are cheap.
        labels: paths stay inside a class, on the graph of that class alone; pairs must join
            points of one class. By default all points make one graph.
        k: neighbours of each point; a class of fewer is joined completely.
        bridges: where the graph falls apart, join its parts by the shortest segments between
            them (their minimum spanning tree), so that every distance is finite. `False` leaves
            them apart: distances between them are infinite.
        neighbors: the search of neighbours; exact by default.

    Returns:
        One distance per pair, with the dtype and device of `points`.

    Raises:
        TypeError: `points` are not floating point.
        ValueError: wrong shapes, NaN, what are no integers or out of range, or a pair across
            classes.

    Source: Tenenbaum, de Silva, Langford, Science 290, 2000 (Isomap), step 2; bridges are ours.
    """
    labels = _check_points(points, labels)
    pairs = _check_pairs(pairs, labels)
    return _distances(points, pairs, labels, k, bridges, neighbors)


class Geodesics:
    """The distances of `geodesic_distances`, for one set of points that is asked again and again.

    Training in batches asks for other pairs in each step. The graph of a class is made when it is
    first needed; each search from a point is done once, and its distances to the point's class are
    kept: in the end, and in memory, one number for each two points of a class.

        geodesics = Geodesics(points, labels=labels)
        distances = geodesics(rows[pairs])  # rows: those of the batch; pairs: inside the batch

    Args:
        points: one row per point. They are taken as they are now.
        labels: as in `geodesic_distances`, like the next three.
        k: neighbours of each point.
        bridges: join the parts of a graph that falls apart.
        neighbors: the search of neighbours.

    Raises:
        TypeError: `points` are not floating point.
        ValueError: wrong shapes, NaN, or labels that are no integers.
    """

    def __init__(
        self,
        points: Float[Tensor, "n d"],
        *,
        labels: Int[Tensor, " n"] | None = None,
        k: int = 10,
        bridges: bool = True,
        neighbors: Neighbors = _EXACT,
    ) -> None:
        self._labels = _check_points(points, labels).clone()
        self._points = points.detach().clone()
        self._options = k, bridges, neighbors
        self._place = torch.empty_like(self._labels, dtype=torch.long)  # of points in their class
        self._lengths: dict[int, Any] = {}
        self._from: dict[tuple[int, int], np.ndarray] = {}  # by class and place

    def __call__(self, pairs: Int[Tensor, "2 m"]) -> Float[Tensor, " m"]:
        """Return the distance of each pair of points, as `geodesic_distances` does."""
        pairs = _check_pairs(pairs, self._labels)
        found = np.empty(pairs.shape[1], at_least_float32(self._points[:0]).cpu().numpy().dtype)
        classes = self._labels[pairs[0]]
        for label in classes.unique().tolist():
            lengths = self._class_lengths(label)
            own = (classes == label).nonzero().squeeze(1)
            first, second = self._place[pairs[:, own]].cpu().numpy()
            new = [p for p in np.unique(first).tolist() if (label, p) not in self._from]
            if new:
                table = np.asarray(csgraph.dijkstra(lengths, directed=False, indices=new))
                rows = table.astype(found.dtype)
                self._from |= {(label, p): row for p, row in zip(new, rows, strict=True)}
            at = [self._from[label, p][q] for p, q in zip(first, second, strict=True)]
            found[own.cpu().numpy()] = at
        return torch.from_numpy(found).to(self._points)

    def _class_lengths(self, label: int) -> Any:
        if label not in self._lengths:
            members = (self._labels == label).nonzero().squeeze(1)
            self._place[members] = torch.arange(len(members), device=members.device)
            points = at_least_float32(self._points[members])
            self._lengths[label] = _length_matrix(points, *self._options)
        return self._lengths[label]


@on_values
def _distances(
    points: Tensor, pairs: Tensor, labels: Tensor, k: int, bridges: bool, neighbors: Neighbors
) -> Tensor:
    """Go through the classes that have pairs; in each, search from the fewer ends."""
    found = points.new_zeros(pairs.shape[1], dtype=torch.float64)
    place = torch.empty(len(points), dtype=torch.long, device=points.device)
    for label in labels[pairs[0]].unique():
        members = (labels == label).nonzero().squeeze(1)
        place[members] = torch.arange(len(members), device=points.device)
        own = (labels[pairs[0]] == label).nonzero().squeeze(1)
        lengths = _length_matrix(at_least_float32(points[members]), k, bridges, neighbors)
        ends = place[pairs[:, own]].cpu().numpy()
        found[own] = torch.from_numpy(_search(lengths, ends)).to(found.device)
    return found.to(points.dtype)


def _length_matrix(points: Tensor, k: int, bridges: bool, neighbors: Neighbors) -> Any:
    """Return the edges' lengths, each edge once; an edge of length zero is kept."""
    edges = knn_graph(points, k, neighbors=neighbors).edges
    points = points.double()
    part = connected_components(edges, len(points)) if bridges else edges.new_zeros(len(points))
    while part.max() > 0:
        # Two parts may both have found the bridge between them: once is enough.
        i, j = torch.cat([edges, _shortest_bridges(points, part)], dim=1)
        edges = unique_edges(i, j, len(points))[0]
        part = connected_components(edges, len(points))
    length = squared_distances(points, edges).sqrt().cpu().numpy()
    i, j = edges.cpu().numpy()
    return sparse.coo_array((length, (i, j)), (len(points), len(points))).tocsr()


def _shortest_bridges(points: Float[Tensor, "n d"], part: Int[Tensor, " n"]) -> Int[Tensor, "2 b"]:
    """Return, for every part but the largest, the shortest segment that leaves it.

    All of these are in the minimum spanning tree of the parts (Boruvka), and the number of parts
    at least halves.
    """
    count = torch.bincount(part)
    rows = (part != count.argmax()).nonzero().squeeze(1)
    gaps, nearest = points.new_empty(len(rows)), torch.empty_like(rows)
    at = 0
    for some in rows.split(max(1, _BLOCK // len(points))):
        apart = torch.cdist(points[some], points, compute_mode="donot_use_mm_for_euclid_dist")
        apart.masked_fill_(part[some, None] == part, torch.inf)
        gaps[at : at + len(some)], nearest[at : at + len(some)] = apart.min(1)
        at += len(some)
    order = gaps.argsort(stable=True)
    order = order[part[rows[order]].argsort(stable=True)]  # by part; in it, the shortest first
    own = part[rows[order]]
    first = order[torch.cat([own.new_ones(1, dtype=torch.bool), own[1:] != own[:-1]])]
    return torch.stack([rows[first], nearest[first]])


def _search(lengths: Any, ends: np.ndarray) -> np.ndarray:
    """Return the distance of each pair of ends, searching from the side with fewer nodes."""
    fewer = min((0, 1), key=lambda side: len(np.unique(ends[side])))
    sources, row = np.unique(ends[fewer], return_inverse=True)
    targets = ends[1 - fewer]
    found = np.empty(ends.shape[1])
    step = max(1, _BLOCK // lengths.shape[0])
    for start in range(0, len(sources), step):
        block = sources[start : start + step]
        table = np.asarray(csgraph.dijkstra(lengths, directed=False, indices=block))
        here = (start <= row) & (row < start + step)
        found[here] = table[row[here] - start, targets[here]]
    return found


def _check_points(points: Tensor, labels: Tensor | None) -> Int[Tensor, " n"]:
    """Return the labels: where there are none, one class of all points."""
    check_floating("points", points, "n d")
    check_finite("points", points.detach())
    if labels is None:
        return torch.zeros(len(points), dtype=torch.long, device=points.device)
    _check_indices("labels", labels, (len(points),))
    return labels


def _check_pairs(pairs: Tensor, labels: Int[Tensor, " n"]) -> Int[Tensor, "2 m"]:
    _check_indices("pairs", pairs, (2, -1))
    pairs = pairs.long()  # torch takes unsigned bytes for a mask
    if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < len(labels):
        raise ValueError(
            f"`pairs` must hold rows 0..{len(labels) - 1} of `points`, got {int(pairs.min())} to "
            f"{int(pairs.max())}: count from zero."
        )
    across = (labels[pairs[0]] != labels[pairs[1]]) | (labels[pairs[0]] < 0)
    if across.any():
        i, j = pairs[:, across][:, 0].tolist()
        raise ValueError(
            f"`pairs` must join points of one class, got {i} and {j} of classes {int(labels[i])} "
            f"and {int(labels[j])}: drop the pair, or leave `labels` out for paths over all points."
        )
    return pairs


def _check_indices(name: str, indices: Tensor, shape: tuple[int, ...]) -> None:
    fits = isinstance(indices, Tensor) and len(indices.shape) == len(shape)
    fits = fits and all(want in (-1, came) for want, came in zip(shape, indices.shape, strict=True))
    if not fits or indices.is_floating_point() or indices.dtype == torch.bool:
        came = type(indices).__name__
        if isinstance(indices, Tensor):
            came = f"{indices.dtype} of shape {tuple(indices.shape)}"
        wanted = ", ".join("m" if size < 0 else str(size) for size in shape)
        raise ValueError(f"`{name}` must hold integers in shape ({wanted}), got {came}.")

"""Approximate nearest neighbours by a library's index, for large sets, and how good they are.

Memory beyond the index and the answer is one block of rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft._check import on_values
from weft.graph._neighbors import check_search, smallest_entries

_BLOCK = 2**16
"""Rows that are converted and searched at once."""

_TRAINING = 40
"""Rows per cell that cells and principal components are found from; the library wants 39."""

_CHECKED = 2**12
"""Rows that the rows of a check are compared with at once: their distances stay in cache."""

_CANDIDATES = 3
"""Candidates per neighbour that are found by principal components and compared in full."""

_ROWS_PER_COLUMN = 20
"""Rows per column that principal components are found from: more move none that matters."""

_CELL = 250
"""Rows of a cell in sets above a million: a search reads as many then, however many there are."""

_FLAT = 4096
"""Cells above which they lie in cells themselves, so that no row is compared with all of them."""


@dataclass(frozen=True)
class FaissNeighbors:
    """Approximate neighbours by an inverted-file index of the FAISS library, for large sets.

    Needs the extra `weft[ann]`. Searches on the CPU in float32; half precision is searched as
    it is given, converted block by block. Wide features are searched by their principal
    components; three times as many candidates as neighbours are then compared in full. Above
    4,096 cells, these lie in cells themselves, of which as many are probed. How many
    true neighbours are found depends on the data: from nearly all on low-dimensional features to
    60 % on isotropic ones, so demand a `least_recall`, or measure with `recall`.

    Args:
        cells: number of cells the space is cut into; `None` takes 4 sqrt(n), and n / 250 above a
            million rows.
        probes: number of cells searched for each row; more is slower and more exact.
        components: number of principal components to search by; features that are no wider are
            searched as they are.
        least_recall: share of true neighbours that must be found among those of 500 rows, in
            [0, 1]. They are searched again, exactly: 500 n d operations more.

    Raises:
        ValueError: when called, a recall below `least_recall`.
    """

    cells: int | None = None
    probes: int = 16
    components: int = 64
    least_recall: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.least_recall <= 1:
            raise ValueError(f"`least_recall` must lie in [0, 1], got {self.least_recall}.")
        if min(self.probes, self.components, self.cells or 1) < 1 or self.cells == 0:
            raise ValueError(
                "`cells`, `probes` and `components` must be positive, got "
                f"{self.cells}, {self.probes} and {self.components}."
            )

    @on_values
    def __call__(self, features: Float[Tensor, "n d"], k: int) -> Int[Tensor, "n k"]:
        """Return indices of k near other rows, nearest first, by float32 distance."""
        check_search(features, k)
        try:
            import faiss
        except ImportError as error:
            raise ImportError(
                "FaissNeighbors needs the FAISS library, which is not installed: "
                "pip install 'weft[ann]', or use ExactNeighbors()."
            ) from error
        points = features.detach().cpu()
        count, dim = points.shape
        cells = self.cells or int(max(4 * count**0.5, count / _CELL))
        cells = max(1, min(cells, count // _TRAINING))
        spread = torch.linspace(0, count - 1, min(count, _TRAINING * cells), dtype=torch.float64)
        sample = _float32(points[spread.long()])
        narrow, project = min(dim, self.components), None
        if narrow < dim:
            project = faiss.PCAMatrix(dim, narrow)
            project.max_points_per_d = _ROWS_PER_COLUMN
            project.train(sample)
            sample = project.apply(sample)
        coarse = _two_level(faiss, sample, cells) if cells > _FLAT else faiss.IndexFlatL2(narrow)
        cells = coarse.ntotal or cells
        lists = index = faiss.IndexIVFFlat(coarse, narrow, cells)
        lists.train(sample)
        del sample
        if project:
            index = faiss.IndexRefineFlat(faiss.IndexPreTransform(project, lists))
            index.k_factor = _CANDIDATES
        blocks = range(0, count, _BLOCK)
        _probe(lists, coarse, self.probes)
        for at in blocks:
            index.add(_float32(points[at : at + _BLOCK]))
        found = torch.empty(count, k, dtype=torch.long)
        for at in blocks:
            part = _float32(points[at : at + _BLOCK])
            _probe(lists, coarse, self.probes)
            near = torch.from_numpy(index.search(part, k + 1)[1])
            probes = self.probes
            while (short := (near < 0).any(1).nonzero().squeeze(1)).numel() and probes < cells:
                probes = min(cells, 8 * probes)  # cells that are too small: into more of them
                _probe(lists, coarse, probes)
                near[short] = torch.from_numpy(index.search(part[short.numpy()], k + 1)[1])
            found[at : at + _BLOCK] = _drop_self(near, first=at)
        if self.least_recall:
            self._check_recall(found, points)
        return found.to(features.device)

    def _check_recall(self, found: Tensor, points: Tensor) -> None:
        reached = recall(found, points, generator=torch.Generator().manual_seed(0))
        if reached < self.least_recall:
            raise ValueError(
                f"`least_recall` asks for {self.least_recall:.3f} of the true neighbours, but "
                f"{reached:.3f} were found with probes = {self.probes}: raise `probes`, or use "
                "ExactNeighbors()."
            )


def recall(
    found: Int[Tensor, "n k"],
    features: Float[Tensor, "n d"],
    *,
    sample: int = 500,
    generator: torch.Generator | None = None,
) -> float:
    """Return the share of true neighbours among those found, measured on a sample of rows.

    One of several points at the k-th distance is as true as the others.

    Args:
        found: neighbours by any search.
        features: what was searched.
        sample: number of rows whose neighbours are searched again, exactly.
        generator: draws the sample; the first rows are taken without one.
    """
    count, k = found.shape
    order = torch.randperm(count, generator=generator) if generator else torch.arange(count)
    rows, points = order[:sample].to(found.device), features.detach()
    centre = points[:_CHECKED].double().mean(0)  # smaller norms, smaller rounding errors
    queries = points[rows].double() - centre
    own = queries.square().sum(1, keepdim=True)
    nearest, largest = own.new_full((len(rows), k), torch.inf), own.max()
    for at in range(0, count, _CHECKED):
        part = points[at : at + _CHECKED] - centre  # in float64, as the centre is
        norms = torch.linalg.vecdot(part, part)
        distances = torch.addmm(norms, queries, part.T, alpha=-2).add_(own)
        inside = (at <= rows) & (rows < at + len(part))
        distances[inside, rows[inside] - at] = torch.inf
        smallest = smallest_entries(distances, min(k, len(part)))[0]
        nearest = torch.cat([nearest, smallest], dim=1).topk(k, largest=False).values
        largest = torch.maximum(largest, norms.max())
    # What products round off, as in ExactNeighbors.
    error = (points.shape[1] + 4) * torch.finfo(torch.float64).eps * (own + 2 * largest)
    reached = (points[found[rows]].double() - centre - queries[:, None]).square().sum(2)
    reached[found[rows] == rows[:, None]] = torch.inf  # no row is its own neighbour
    return (reached <= nearest[:, -1:] + 2 * error).double().mean().item()


def _probe(lists: Any, coarse: Any, probes: int) -> None:
    """Search so many cells, and among as many cells of cells where there are any."""
    lists.nprobe = min(lists.nlist, probes)
    if hasattr(coarse, "nprobe"):
        coarse.nprobe = min(coarse.nlist, probes)


def _two_level(faiss: Any, sample: np.ndarray, cells: int) -> Any:
    """Find about so many cells, as an inverted file whose own cells are found first.

    The work is the sample times twice the root of the cells, in training and in every search.
    """
    groups = round(cells**0.5)
    coarse = faiss.Kmeans(sample.shape[1], groups, niter=10)
    coarse.train(sample)
    group = coarse.assign(sample)[1]
    centres = []
    for rows in np.split(group.argsort(kind="stable"), np.bincount(group).cumsum()[:-1]):
        inner = faiss.Kmeans(
            sample.shape[1],
            max(1, round(cells * len(rows) / len(sample))),
            niter=10,
            min_points_per_centroid=1,
        )
        if len(rows):
            inner.train(sample[rows])
            centres.append(inner.centroids)
    quantizer = faiss.IndexFlatL2(sample.shape[1])
    index = faiss.IndexIVFFlat(quantizer, sample.shape[1], groups)
    quantizer.add(coarse.centroids)
    index.is_trained = True
    index.add(np.concatenate(centres))
    return index


def _float32(points: Tensor) -> np.ndarray:
    return points.float().contiguous().numpy()


def _drop_self(found: Int[Tensor, "r k+1"], first: int = 0) -> Int[Tensor, "r k"]:
    """Remove each row's own index, or its last neighbour where the row did not find itself."""
    own: Bool[Tensor, "r k+1"] = found == first + torch.arange(len(found))[:, None]
    own[:, -1] |= ~own.any(1)
    return found[~own].view(len(found), -1)

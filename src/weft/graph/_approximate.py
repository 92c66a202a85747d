"""Approximate nearest neighbours by a library's index, for large sets, and how good they are.

Memory beyond the index and the answer is one block of rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft._check import on_values
from weft.graph._neighbors import check_search

_BLOCK = 2**16
"""Rows that are converted and searched at once."""


@dataclass(frozen=True)
class FaissNeighbors:
    """Approximate neighbours by an inverted-file index of the FAISS library, for large sets.

    Needs the extra `weft[ann]`. Searches on the CPU in float32; half precision is searched as
    it is given, converted block by block. How many true neighbours are found depends on the
    data: from nearly all on low-dimensional features to 60 % on isotropic ones, so demand a
    `least_recall`, or measure with `recall`.

    Args:
        cells: number of cells the space is cut into; `None` takes 4 sqrt(n).
        probes: number of cells searched for each row; more is slower and more exact.
        least_recall: share of true neighbours that must be found among those of 500 rows, in
            [0, 1]. They are searched again, exactly: 500 n d operations more.

    Raises:
        ValueError: when called, a recall below `least_recall`.
    """

    cells: int | None = None
    probes: int = 16
    least_recall: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.least_recall <= 1:
            raise ValueError(f"`least_recall` must lie in [0, 1], got {self.least_recall}.")
        if self.probes < 1 or (self.cells is not None and self.cells < 1):
            raise ValueError(
                f"`cells` and `probes` must be positive, got {self.cells} and {self.probes}."
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
        cells = max(1, min(self.cells or int(4 * count**0.5), count // 40))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells)
        index.train(_float32(points[:: max(1, count // (64 * cells))]))
        blocks = range(0, count, _BLOCK)
        for at in blocks:
            index.add(_float32(points[at : at + _BLOCK]))
        index.nprobe = min(cells, self.probes)
        found = torch.empty(count, k, dtype=torch.long)
        for at in blocks:
            part = _float32(points[at : at + _BLOCK])
            near = torch.from_numpy(index.search(part, k + 1)[1])
            # A cell that is too small yields fewer than k; such a row is searched everywhere.
            short = (near < 0).any(1).nonzero().squeeze(1)
            if len(short):
                index.nprobe = cells
                near[short] = torch.from_numpy(index.search(part[short.numpy()], k + 1)[1])
                index.nprobe = min(cells, self.probes)
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
    hits = []
    for part in rows.split(max(1, 2**25 // count)):  # 256 MiB of distances at once
        distances = torch.cat(
            [_direct_distances(points[part], block) for block in points.split(_BLOCK)], dim=1
        )
        distances.scatter_(1, part[:, None], torch.inf)
        furthest = distances.kthvalue(k, dim=1, keepdim=True).values
        hits.append((distances.gather(1, found[part]) <= furthest).double())
    return torch.cat(hits).mean().item()


def _direct_distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _float32(points: Tensor) -> np.ndarray:
    return points.float().contiguous().numpy()


def _drop_self(found: Int[Tensor, "r k+1"], first: int = 0) -> Int[Tensor, "r k"]:
    """Remove each row's own index, or its last neighbour where the row did not find itself."""
    own: Bool[Tensor, "r k+1"] = found == first + torch.arange(len(found))[:, None]
    own[:, -1] |= ~own.any(1)
    return found[~own].view(len(found), -1)

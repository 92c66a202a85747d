"""The cheapest path through a grid of costs, for a whole batch at once on the costs' device.

All cells are relaxed together, sweep by sweep, which on a CPU already is faster than one heap per
grid up to about 150 cells a side, and on a GPU the only way that leaves nothing on the host.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.discrete._solver import Solver

_CHECK_EVERY = 4  # sweeps; to look costs as much as a third of one, and on a GPU a wait
_STEPS = {
    4: ((-1, 0), (0, -1), (0, 1), (1, 0)),
    8: ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
}


@dataclass(frozen=True)
class GridPath(Solver):
    """The cells of the cheapest path from one cell of a grid to another, both included.

    Costs (height, width) are paid where the path goes, and are not negative. With a mask, other
    cells are walls. Of equally cheap ways back from the end, the path takes the first in reading
    order, and where costs are zero one without detours.

    Args:
        start: (row, column) of the start; by default the first cell in reading order, or the first
            inside the mask.
        end: the same for the end; by default the last.
        neighbors: 8, or 4 for no diagonal steps.

    Source: Bellman, 1958; Ford, 1956. The vertex-cost form is that of Vlastelica et al., ICLR 2020.
    """

    start: tuple[int, int] | None = None
    end: tuple[int, int] | None = None
    neighbors: int = 8

    item_dims = 2
    nonnegative = True

    def __post_init__(self) -> None:
        if self.neighbors not in _STEPS:
            raise ValueError(f"`neighbors` must be 4 or 8, got {self.neighbors}: choose one.")

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Sweep until no distance falls, then walk back from the end."""
        batch, height, width = costs.shape
        cells = costs.double().permute(1, 2, 0).contiguous()  # long rows, also of small grids
        if mask is not None:
            cells = cells.masked_fill(~mask.permute(1, 2, 0), torch.inf)
        start, end = self._ends(costs, mask)
        # A way back by distances alone is sure where no cost is lost in a sum of all of them.
        rounding = costs.amax() * (height * width * torch.finfo(cells.dtype).eps)
        distances, hops = self._sweep(cells, start, count_hops=bool(cells.amin() <= rounding))
        padded = width + 2
        steps = (*_STEPS[self.neighbors], (0, 0))
        offsets = torch.tensor([padded * down + right for down, right in steps]).to(costs.device)
        start, end = ((cell // width + 1) * padded + cell % width + 1 for cell in (start, end))
        unreached = distances.gather(0, end[None])[0].isinf()
        if unreached.any():
            raise ValueError(
                f"`mask` must leave a path from start to end, and instance "
                f"{int(unreached.nonzero()[0])} of the batch has none: open more cells."
            )
        trail = _walk_back(distances, hops, start, end, offsets)
        path = torch.zeros_like(distances, dtype=torch.bool).scatter_(0, trail, True)
        return path.view(height + 2, padded, batch)[1:-1, 1:-1].permute(2, 0, 1)

    def _ends(self, costs: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Return the flat index of start and end in each instance."""
        batch, height, width = costs.shape
        last = height * width - 1
        cells = torch.arange(height * width, device=costs.device).expand(batch, -1)
        first_open, last_open = cells[:, 0], cells[:, -1]
        if mask is not None:
            first_open = cells.where(mask.flatten(1), last).amin(1)
            last_open = cells.where(mask.flatten(1), 0).amax(1)
        ends = []
        for name, cell, default in (
            ("start", self.start, first_open),
            ("end", self.end, last_open),
        ):
            if cell is not None and not (0 <= cell[0] < height and 0 <= cell[1] < width):
                raise ValueError(
                    f"`{name}` must be a cell of the grid, {height} by {width}, got {cell}: "
                    "count rows and columns from 0."
                )
            ends.append(default if cell is None else cells[:, cell[0] * width + cell[1]])
        return ends

    def _sweep(
        self, cells: Tensor, start: Tensor, *, count_hops: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return distances from the start, (cells with a border of infinity, batch).

        And, if asked for, after how many sweeps each was found.
        """
        height, width, batch = cells.shape
        border = cells.new_full((height + 2, width + 2, batch), torch.inf)
        row, column = start // width, start % width
        instance = torch.arange(batch, device=cells.device)
        border[row + 1, column + 1, instance] = cells[row, column, instance]
        hops = torch.zeros_like(border, dtype=torch.int32) if count_hops else None
        # After k sweeps only cells within k steps of a start have a distance: look no farther.
        top, bottom, left, right = (
            int(bound) for bound in torch.stack([*row.aminmax(), *column.aminmax()])
        )
        sweep = 0
        while True:
            top, bottom = max(top - _CHECK_EVERY, 0), min(bottom + _CHECK_EVERY, height - 1)
            left, right = max(left - _CHECK_EVERY, 0), min(right + _CHECK_EVERY, width - 1)
            found, best, steps = self._relaxation(border[top : bottom + 3, left : right + 3])
            own = cells[top : bottom + 1, left : right + 1]
            for _ in range(_CHECK_EVERY):
                sweep += 1
                for one, other, out in steps:
                    torch.minimum(one, other, out=out)
                best += own
                if hops is not None:
                    hops[top + 1 : bottom + 2, left + 1 : right + 2][best < found] = sweep
                if sweep % _CHECK_EVERY == 0 and not (best < found).any():
                    return border.flatten(0, 1), hops if hops is None else hops.flatten(0, 1)
                torch.minimum(found, best, out=found)

    def _relaxation(
        self, near: Tensor
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """Return the inner cells, where the least distance around each goes, and how it is found.

        By steps (one, other, out), each an elementwise minimum. A cell's own distance may count,
        being no less.
        """
        up, down, inner = near[:-2, 1:-1], near[2:, 1:-1], near[1:-1, 1:-1]
        best = torch.empty_like(inner)
        if self.neighbors == 4:
            left, right = near[1:-1, :-2], near[1:-1, 2:]
            return inner, best, [(up, down, best), (best, left, best), (best, right, best)]
        rows = torch.empty_like(near[:, 1:-1])
        above, below, level = rows[:-2], rows[2:], rows[1:-1]
        beside = [(near[:, :-2], near[:, 2:], rows), (rows, near[:, 1:-1], rows)]
        return inner, best, [*beside, (above, below, best), (best, level, best)]


def _walk_back(
    distances: Tensor, hops: Tensor | None, start: Tensor, end: Tensor, offsets: Tensor
) -> Tensor:
    """Return the cells from end to start, (steps, batch); instances that arrived stay.

    Each step goes to the cell of least distance, and of those to one that was found first.
    (distance, sweep) falls at each step, so no walk runs in circles: a distance d comes from a
    neighbour that had d or less one sweep before. Only the start has none better than itself.
    """
    trail = [end]
    while len(trail) % _CHECK_EVERY or (trail[-1] != start).any():
        around = trail[-1] + offsets[:, None]
        least = distances.gather(0, around)
        if hops is not None:
            farther = least > least.amin(0)
            least = hops.gather(0, around).masked_fill(farther, torch.iinfo(hops.dtype).max)
        trail.append(around.gather(0, least.argmin(0, keepdim=True))[0])
    return torch.stack(trail)

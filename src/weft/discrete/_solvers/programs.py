"""Integer programs: any, by HiGHS; and the knapsack, by dynamic programming on the device."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from weft._check import check_finite
from weft.discrete._solver import Solver
from weft.discrete._solvers.host import for_each


@dataclass(frozen=True, eq=False)
class IntegerProgram(Solver):
    """The cheapest integers with lower <= y <= upper and least <= matrix y <= most.

    Exact to 1e-6 of the largest cost. Ties fall as HiGHS breaks them, the same each time. With a
    mask, entries outside are zero.

    Args:
        matrix: one row for each constraint, finite.
        least: of each row, -inf for none. A row with `least` and `most` equal is an equality,
            which projections know of.
        most: of each row, inf for none.
        lower: of each integer.
        upper: of each integer; both finite.

    Source: branch and cut by HiGHS, as scipy.optimize.milp.
    """

    matrix: Float[Tensor, "r n"]
    least: Float[Tensor, " r"]
    most: Float[Tensor, " r"]
    lower: int = 0
    upper: int = 1

    def __post_init__(self) -> None:
        sides = (tuple(self.least.shape), tuple(self.most.shape))
        if self.matrix.ndim != 2 or {*sides} != {tuple(self.matrix.shape[:1])}:
            raise ValueError(
                "`matrix` must have a row for each entry of `least` and `most`, got shapes "
                f"{tuple(self.matrix.shape)}, {sides[0]} and {sides[1]}: one row per constraint."
            )
        check_finite("matrix", self.matrix)
        if (self.least.isnan() | self.most.isnan()).any():
            raise ValueError("`least` and `most` must not be NaN, got one: use inf for no bound.")

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Solve each instance in double precision, on all threads."""
        self._check_count(costs.shape[1])
        rows, least, most = (
            side.double().numpy(force=True) for side in (self.matrix, self.least, self.most)
        )
        inside = np.ones(costs.shape, bool) if mask is None else mask.numpy(force=True)
        numbers = costs.double().numpy(force=True)
        solution = np.zeros(costs.shape)

        def one(instance: int) -> None:
            own = inside[instance]
            found = solve_program(
                numbers[instance], self.lower * own, self.upper * own, rows, least, most
            )
            if found is None:
                raise ValueError(
                    f"`least` and `most` must leave a solution, and instance {instance} of the "
                    "batch has none: relax a constraint, or look at the mask."
                )
            solution[instance] = found

        for_each(one, len(numbers))
        return torch.from_numpy(solution)

    def equalities(self, item: torch.Size) -> Float[Tensor, "r n"] | None:
        """Return the rows with `least` and `most` equal."""
        self._check_count(item.numel())
        fixed = self.least == self.most
        return self.matrix[fixed].double() if fixed.any() else None

    def _check_count(self, num_costs: int) -> None:
        if num_costs != self.matrix.shape[1]:
            raise ValueError(
                f"`costs` must have one entry for each of the {self.matrix.shape[1]} columns of "
                f"`matrix`, got {num_costs}: pass (*batch, columns)."
            )


def solve_program(
    costs: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    matrix: object,
    least: np.ndarray,
    most: np.ndarray,
) -> np.ndarray | None:
    """Return the cheapest integers within bounds and constraints, or None where there are none."""
    found = milp(
        costs / (np.abs(costs).max() or 1.0),  # HiGHS stops within 1e-6 of the best
        integrality=np.ones(len(costs)),
        bounds=Bounds(lower, upper),  # pyright: ignore[reportArgumentType]
        constraints=LinearConstraint(matrix, least, most),  # pyright: ignore[reportArgumentType]
        options={"mip_rel_gap": 0.0},
    )
    return None if found.x is None else found.x.round()


@dataclass(frozen=True, eq=False)
class Knapsack(Solver):
    """The items of least total cost that weigh no more than the capacity together.

    Costs are values with the sign turned: use `maximize=True` in `solve_discrete` for values. An
    item without value is left out; ties fall the same way each time.

    Args:
        weights: of the items, whole numbers of zero or more.
        capacity: the most that all taken may weigh.

    Source: Bellman, 1957; time and memory grow with items times capacity.
    """

    weights: Int[Tensor, " n"]
    capacity: int

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Tensor) or self.weights.dtype != torch.long:
            came = getattr(self.weights, "dtype", type(self.weights).__name__)
            raise TypeError(
                f"`weights` must be a tensor of whole numbers, got {came}: scale and .long() them."
            )
        if self.weights.ndim != 1 or not len(self.weights) or self.weights.min() < 0:
            raise ValueError(
                f"`weights` must be one or more, none negative, got {self.weights.tolist()}: "
                "an item of negative weight can be turned round, and its cost with it."
            )
        if self.capacity < 0:
            raise ValueError(
                f"`capacity` must not be negative, got {self.capacity}: nothing at all weighs 0."
            )

    def solve(self, costs: Tensor, mask: Tensor | None) -> Tensor:
        """Fill a table of the least cost for each capacity, item by item, and read it backward."""
        if costs.shape[1] != len(self.weights):
            raise ValueError(
                f"`costs` must have one entry for each of the {len(self.weights)} items, got "
                f"{costs.shape[1]}: pass (*batch, items)."
            )
        costs = costs.double()
        table = costs.new_zeros(len(costs), self.capacity + 1)
        taken = []
        for item, weight in enumerate(self.weights.tolist()):
            moved = table[:, : max(0, self.capacity + 1 - weight)] + costs[:, item, None]
            kept = table[:, min(weight, self.capacity + 1) :]
            taken.append(moved < kept)  # outside a mask costs are zero: never less
            table = torch.cat(
                [table[:, : self.capacity + 1 - moved.shape[1]], moved.minimum(kept)], 1
            )
        return self._read(taken)

    def _read(self, taken: list[Tensor]) -> Tensor:
        """Go back from the full capacity: take the items that led there."""
        room = torch.full((len(taken[0]), 1), self.capacity, device=taken[0].device)
        solution = []
        for weight, choice in zip(reversed(self.weights.tolist()), reversed(taken), strict=True):
            fits = room >= weight
            if choice.shape[1]:
                fits = fits & choice.gather(1, (room - weight).clamp_min(0))
            room = room - weight * fits
            solution.append(fits)
        return torch.cat(solution[::-1], 1)

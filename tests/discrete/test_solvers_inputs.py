"""What every solver does with bad input, with nothing, and with what it cannot read."""

import pytest
import torch

from weft.discrete import (
    Assignment,
    GraphMatching,
    GraphPath,
    GridPath,
    IntegerProgram,
    Knapsack,
    MinimumCut,
    PerfectMatching,
    Ranking,
    SpanningTree,
    TopK,
    Tour,
)

SQUARE = torch.tensor([[0, 0, 1, 2], [1, 3, 2, 3]])
ONE = torch.ones(1)
SOLVERS = {
    "top-k": (TopK(2), (4,)),
    "ranking": (Ranking(), (4,)),
    "assignment": (Assignment(), (3, 4)),
    "grid path": (GridPath(), (3, 4)),
    "graph path": (GraphPath(SQUARE, 0, 3), (4,)),
    "spanning tree": (SpanningTree(SQUARE), (4,)),
    "perfect matching": (PerfectMatching(SQUARE), (4,)),
    "knapsack": (Knapsack(torch.tensor([1, 2, 3]), 4), (3,)),
    "program": (IntegerProgram(torch.ones(1, 3), ONE, 2 * ONE), (3,)),
    "cut": (MinimumCut(SQUARE, 4), (8,)),
    "graph matching": (GraphMatching(SQUARE, SQUARE, 4, 4), (32,)),
    "tour": (Tour(), (6,)),
}
EACH = pytest.mark.parametrize(("solver", "item"), SOLVERS.values(), ids=SOLVERS)


@EACH
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_costs_that_are_not_finite_are_refused_by_place(solver, item, bad):
    costs = torch.ones(3, *item)
    costs[2].view(-1)[1] = bad
    with pytest.raises(
        ValueError, match="`costs` must be finite, got NaN or infinity first in row 2"
    ):
        solver(costs)


@EACH
def test_costs_that_a_mask_leaves_out_are_not_read(solver, item):
    costs, mask = torch.ones(2, *item), torch.ones(2, *item, dtype=torch.bool)
    costs[1].view(-1)[1], mask[1].view(-1)[1] = torch.nan, False
    solution = solver(costs, mask)
    assert solution.isfinite().all()
    assert not solution[~mask].any()


@EACH
def test_integer_costs_are_refused(solver, item):
    with pytest.raises(TypeError, match=r"must be a floating-point tensor, got torch\.int64: call"):
        solver(torch.ones(2, *item).long())


@EACH
def test_costs_without_the_dimensions_of_an_instance_are_refused(solver, item):
    message = f"`costs` must end in {len(item)} non-empty dimensions for one instance, got shape"
    with pytest.raises(ValueError, match=message):
        solver(torch.tensor(1.0))
    with pytest.raises(ValueError, match=message):
        solver(torch.ones(2, *item[:-1], 0))


@EACH
def test_an_empty_batch_has_an_empty_solution(solver, item):
    for shape in ((0,), (2, 0), (0, 3)):
        assert solver(torch.ones(*shape, *item)).shape == (*shape, *item)


@EACH
def test_the_costs_are_left_as_they_were(solver, item):
    costs = torch.rand(3, *item, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, *item, dtype=torch.bool)
    before = costs.clone()
    solver(costs)
    solver(costs, mask)
    assert torch.equal(costs, before)
    assert mask.all()


@EACH
def test_a_mask_of_everything_changes_nothing(solver, item):
    costs = torch.rand(3, *item, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(item, dtype=torch.bool)
    assert torch.equal(solver(costs, mask), solver(costs))
    torch.testing.assert_close(solver.project(costs, mask), solver.project(costs))


@EACH
def test_half_precision_costs_are_solved_and_stay_half(solver, item):
    costs = torch.rand(3, *item, generator=torch.Generator().manual_seed(2)).bfloat16()
    solution = solver(costs)
    assert solution.dtype == torch.bfloat16
    assert torch.equal(solution.double(), solver(costs.double()))


@EACH
def test_costs_in_any_memory_order_have_the_same_solution(solver, item):
    costs = torch.rand(3, *item, generator=torch.Generator().manual_seed(3))
    order = tuple(reversed(range(costs.ndim)))
    assert torch.equal(solver(costs.permute(order).contiguous().permute(order)), solver(costs))

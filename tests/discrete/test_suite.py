"""The suite passes the room's solvers, and finds each way in which one can be wrong."""

from itertools import combinations, permutations, product

import pytest
import torch

from weft.discrete import (
    Assignment,
    FunctionSolver,
    GraphMatching,
    GraphPath,
    GridPath,
    IntegerProgram,
    Knapsack,
    PerfectMatching,
    Ranking,
    Solver,
    SpanningTree,
    TopK,
    Tour,
    check_solver,
)

SUBSETS = torch.tensor(
    [[1.0 * (i in chosen) for i in range(5)] for chosen in combinations(range(5), 2)]
)
TWO = TopK(2)
ALL_PAIRS = torch.combinations(torch.arange(5)).T
TWO_SIDES = torch.cartesian_prod(torch.arange(3), torch.arange(3, 6)).T
WAYS = torch.tensor([[0, 0, 1, 1, 2, 3, 2], [1, 2, 2, 3, 3, 4, 4]])
CHAIN = torch.tensor([[0, 1], [1, 2]])
SOLVERS = [  # MinimumCut is not here: it takes negative costs of edges for zero
    (TWO, (5,)),
    (Ranking(), (5,)),
    (Assignment(), (4, 4)),
    (Assignment(), (3, 5)),
    (GridPath(), (4, 5)),
    (GridPath(neighbors=4), (5, 4)),
    (GraphPath(WAYS, 0, 4), (7,)),
    (SpanningTree(ALL_PAIRS), (10,)),
    (PerfectMatching(TWO_SIDES), (9,)),
    (Tour(), (10,)),
    (Knapsack(torch.tensor([3, 1, 4, 1, 5]), 6), (5,)),
    (IntegerProgram(torch.ones(1, 5), torch.tensor([2.0]), torch.tensor([2.0])), (5,)),
    (GraphMatching(CHAIN, CHAIN, 3, 3), (13,)),
]


def check(solver, shape=(5,), **options):
    check_solver(solver, shape, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize(
    ("solver", "shape"), SOLVERS, ids=[type(solver).__name__ for solver, _ in SOLVERS]
)
def test_solvers_of_the_room_pass(solver, shape):
    check(solver, shape)


def test_solvers_pass_against_the_list_of_their_set():
    check(TWO, solutions=SUBSETS)
    check(FunctionSolver(TWO, equalities=torch.ones(1, 5)), solutions=SUBSETS)
    check(
        lambda costs: 1.0 * (costs < 0),
        (4,),
        solutions=torch.tensor(list(product([0.0, 1], repeat=4))),
    )
    ranks = torch.tensor(list(permutations([1.0, 2, 3, 4])))
    check(Ranking(), (4,), solutions=ranks)


class Random(Solver):
    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def solve(self, costs, mask):
        return TWO(torch.rand(costs.shape, generator=self.generator))


class Greedy(Solver):
    """Right by its rows, wrong in its choice."""

    def solve(self, costs, mask):
        return TWO(costs.abs())


class Heuristic(Greedy):
    exact = False


class Oblique(Solver):
    def solve(self, costs, mask):
        return TWO(costs)

    def project(self, costs, mask=None):
        first = torch.zeros(costs.shape[-1], dtype=costs.dtype)
        first[0] = 1
        return costs - costs.sum(-1, keepdim=True) * first  # the sum goes, from one entry


class Doubled(Oblique):
    def project(self, costs, mask=None):
        return costs + costs.mean(-1, keepdim=True)


class Timid(Oblique):
    """Projects less than its equalities say."""

    def equalities(self, item):
        return torch.ones(1, item.numel(), dtype=torch.float64)

    def project(self, costs, mask=None):
        return costs


def scribbles(costs):
    solution = TWO(costs)
    costs[..., 0] = 0
    return solution


def by_threshold(costs):
    """At least the two cheapest: more where they tie."""
    return 1.0 * (costs <= costs.sort(-1).values[..., 1:2])


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (scribbles, "leave the costs as they were"),
        (Random(), "solve the same costs the same way each time"),
        (lambda costs: TWO(costs - costs.mean(0)), "solve a batch as its instances one by one"),
        (lambda costs: TWO((costs - 0.1).abs()), "as good a solution for costs times 0.001"),
        (FunctionSolver(by_threshold, equalities=torch.ones(1, 5)), "keep its equalities, ties"),
        (
            FunctionSolver(TWO, equalities=torch.tensor([[1.0, 1, 0, 0, 0]])),
            "keep its equalities, ties included",
        ),
        (Doubled(), "project twice as once"),
        (Oblique(), "project orthogonally"),
        (Timid(), "project by its equalities"),
        (Greedy(), "return the cheapest solution: for costs .* and another"),
    ],
)
def test_a_solver_that_is_wrong_is_found(solver, message):
    with pytest.raises(ValueError, match=message):
        check(solver)


def test_solutions_outside_the_list_and_cheaper_ones_in_it_are_found():
    with pytest.raises(ValueError, match="return members of `solutions`, ties included"):
        check(by_threshold, solutions=SUBSETS)
    never_first = FunctionSolver(
        lambda costs: torch.cat([torch.zeros(len(costs), 1), TWO(costs[:, 1:])], 1)
    )
    check(never_first)  # consistent with itself
    with pytest.raises(ValueError, match="return the cheapest solution"):
        check(never_first, solutions=SUBSETS)


def test_a_heuristic_need_not_be_optimal():
    check(Heuristic())


def test_the_shape_must_be_that_of_one_instance():
    with pytest.raises(ValueError, match="`shape` must have the solver's 2 dimensions, got"):
        check(Assignment(), (4,))

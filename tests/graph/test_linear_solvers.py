"""The linear solvers agree with a dense solve, and say honestly how well they did."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from weft._check import ConvergenceError
from weft.graph import Cholesky, ConjugateGradient, LinearSolver
from weft.graph._linear_solvers import default_solver

SOLVERS = [Cholesky(), ConjugateGradient(rtol=1e-13)]


def solve(solver: LinearSolver, graph, diagonal, rhs, num_graphs=1):
    factor = solver.factor(graph.edges, graph.weights, diagonal, num_graphs)
    return solver.solve(factor, rhs)


def true_residual(matrix, solution, rhs):
    return (rhs - matrix @ solution).norm(dim=0) / rhs.norm(dim=0)


@pytest.fixture
def system(random_graph, dense_system, generator):
    graph = random_graph(30, 60)
    diagonal = torch.rand(30, generator=generator, dtype=torch.float64) * 0.2
    rhs = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    return graph, diagonal, rhs, dense_system(graph.weights, diagonal, graph.edges)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_solution_is_that_of_a_dense_solve(system, solver):
    graph, diagonal, rhs, matrix = system
    solution, _ = solve(solver, graph, diagonal, rhs)
    assert_close(solution, torch.linalg.solve(matrix, rhs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_solution_has_the_dtype_and_device_of_the_right_hand_side(system, solver, device):
    graph, diagonal, rhs, matrix = system
    solver = solver if isinstance(solver, Cholesky) else ConjugateGradient()
    graph = graph.__class__(graph.edges.to(device), graph.weights.float().to(device), 30)
    solution, residual = solve(solver, graph, diagonal.float().to(device), rhs.float().to(device))
    assert (solution.dtype, solution.device.type) == (torch.float32, device.type)
    assert residual.dtype == torch.float32
    assert_close(solution.cpu().double(), torch.linalg.solve(matrix, rhs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_equal_graphs_side_by_side_are_solved_as_each_alone(random_graph, generator, solver):
    alone = random_graph(9, 12)
    stacked = alone.__class__(
        torch.cat([alone.edges, alone.edges + 9, alone.edges + 18], dim=1),
        alone.weights.repeat(3)
        * torch.tensor([1.0, 2.0, 5.0]).repeat_interleave(len(alone.weights)),
        27,
        3,
    )
    diagonal = torch.rand(27, generator=generator, dtype=torch.float64) + 0.1
    rhs = torch.randn(27, 2, generator=generator, dtype=torch.float64)
    together, _ = solve(solver, stacked, diagonal, rhs, num_graphs=3)
    for block, factor in enumerate((1.0, 2.0, 5.0)):
        rows = slice(9 * block, 9 * block + 9)
        expected, _ = solve(
            solver, alone.with_weights(factor * alone.weights), diagonal[rows], rhs[rows]
        )
        assert_close(together[rows], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_right_hand_side_is_left_as_it_was(system, solver):
    graph, diagonal, rhs, _ = system
    before = rhs.clone()
    solve(solver, graph, diagonal, rhs)
    assert torch.equal(rhs, before)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_factor_serves_any_number_of_solves(system, solver):
    graph, diagonal, rhs, matrix = system
    factor = solver.factor(graph.edges, graph.weights, diagonal, 1)
    for scale in (1.0, -3.0):
        solution, _ = solver.solve(factor, scale * rhs)
        assert_close(solution, torch.linalg.solve(matrix, scale * rhs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_single_node_is_a_division(solver):
    edges, weights = torch.empty(2, 0, dtype=torch.long), torch.empty(0, dtype=torch.float64)
    diagonal, rhs = torch.tensor([4.0]).double(), torch.tensor([[2.0, 6.0]]).double()
    solution, _ = solver.solve(solver.factor(edges, weights, diagonal, 1), rhs)
    assert_close(solution, torch.tensor([[0.5, 1.5]]).double())


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-10])
def test_the_reported_residual_is_the_true_one_and_meets_the_tolerance(system, rtol):
    graph, diagonal, rhs, matrix = system
    solution, residual = solve(ConjugateGradient(rtol), graph, diagonal, rhs)
    assert_close(residual, true_residual(matrix, solution, rhs), rtol=1e-2, atol=1e-15)
    assert residual.max() <= rtol


def test_a_float32_residual_is_certified_below_float32_rounding(system):
    graph, diagonal, rhs, _ = system
    graph = graph.with_weights(graph.weights.float())
    _, residual = solve(ConjugateGradient(1e-10), graph, diagonal.float(), rhs.float())
    assert residual.max() <= 1e-10


def test_zero_columns_stay_zero_and_spoil_no_others(system):
    graph, diagonal, rhs, matrix = system
    rhs = rhs.clone()
    rhs[:, [0, 2]] = 0
    solution, residual = solve(ConjugateGradient(rtol=1e-13), graph, diagonal, rhs)
    assert not solution[:, [0, 2]].any()
    assert not residual[[0, 2]].any()
    assert_close(solution, torch.linalg.solve(matrix, rhs), rtol=0, atol=1e-12)


def test_columns_of_zeros_only_take_no_step(system):
    graph, diagonal, rhs, _ = system
    solution, _ = solve(ConjugateGradient(max_iterations=1), graph, diagonal, torch.zeros_like(rhs))
    assert not solution.any()


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
def test_columns_whose_squares_overflow_or_vanish_are_solved(system, scale):
    graph, diagonal, rhs, matrix = system
    solution, residual = solve(ConjugateGradient(rtol=1e-13), graph, diagonal, scale * rhs)
    expected = torch.linalg.solve(matrix, rhs)
    assert_close(solution / scale, expected, rtol=0, atol=1e-12)
    assert residual.max() <= 1e-13


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_column_that_is_not_finite_stays_so_and_spoils_no_others(system, solver, bad):
    graph, diagonal, rhs, matrix = system
    expected = torch.linalg.solve(matrix, rhs)
    rhs = rhs.clone()
    rhs[3, 1] = bad
    solution, _ = solve(solver, graph, diagonal, rhs)
    assert not solution[:, 1].isfinite().all()
    assert_close(solution[:, [0, 2, 3]], expected[:, [0, 2, 3]], rtol=0, atol=1e-12)


def test_too_few_iterations_raise_with_steps_and_residual(system):
    graph, diagonal, rhs, _ = system
    solver = ConjugateGradient(rtol=1e-10, max_iterations=3)
    with pytest.raises(ConvergenceError, match=r"1e-10, got \d\.\d\de-\d\d after 3 steps: raise"):
        solve(solver, graph, diagonal, rhs)


def test_a_tolerance_beyond_the_dtype_raises(system):
    graph, diagonal, rhs, _ = system
    with pytest.raises(ConvergenceError, match="relative residual of 1e-18"):
        solve(ConjugateGradient(rtol=1e-18), graph, diagonal, rhs)


def test_a_singular_system_without_solution_raises(random_graph, generator):
    graph = random_graph(20, 20)
    rhs = torch.rand(20, 2, generator=generator, dtype=torch.float64)  # not orthogonal to ones
    zeros = torch.zeros(20, dtype=torch.float64)
    with pytest.raises(ConvergenceError, match="relative residual"):
        solve(ConjugateGradient(max_iterations=200), graph, zeros, rhs)
    for diagonal in (zeros, zeros - 1e-9):
        with pytest.raises(ValueError, match=r"must be positive definite.*label one of its nodes"):
            solve(Cholesky(), graph, diagonal, rhs)


@pytest.mark.parametrize("seed", range(20))
def test_a_singular_matrix_is_refused_whatever_its_last_pivot_rounds_to(random_graph, seed):
    graph = random_graph(40, 120, seed)
    with pytest.raises(ValueError, match="must be positive definite"):
        Cholesky().factor(graph.edges, graph.weights, torch.zeros(40).double(), 1)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_node_with_neither_edge_nor_diagonal_is_refused(system, solver):
    graph, diagonal, rhs, _ = system
    diagonal, weights = diagonal.clone(), graph.weights.clone()
    diagonal[5] = 0
    weights[(graph.edges == 5).any(0)] = 0
    with pytest.raises(ValueError, match="must be positive definite"):
        solve(solver, graph.with_weights(weights), diagonal, rhs)


def test_float32_cholesky_resolves_a_cluster_that_hangs_on_a_thin_edge():
    # Two complete graphs of 40 nodes and one edge of weight 1e-4 between them; one node grounded.
    i, j = torch.combinations(torch.arange(40)).T
    edges = torch.cat(
        [torch.stack([i, j]), torch.tensor([[39], [40]]), torch.stack([i, j]) + 40], 1
    )
    weights = torch.ones(edges.shape[1])
    weights[len(i)] = 1e-4
    diagonal = torch.zeros(80)
    diagonal[0] = 1.0
    rhs = diagonal[:, None].clone()  # the solution is one everywhere
    factor = Cholesky().factor(edges, weights, diagonal, 1)
    solution, _ = Cholesky().solve(factor, rhs)
    assert_close(solution, torch.ones(80, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rtol", [0.0, 1.0, -1e-3, float("nan")])
def test_refuses_a_tolerance_outside_zero_to_one(rtol):
    with pytest.raises(ValueError, match="`rtol` must lie between 0 and 1, got"):
        ConjugateGradient(rtol=rtol)


def test_refuses_no_iterations():
    with pytest.raises(ValueError, match="`max_iterations` must be positive, got 0"):
        ConjugateGradient(max_iterations=0)


def test_the_default_is_dense_for_small_blocks_and_iterative_above():
    assert default_solver(500, 1) == Cholesky()
    assert default_solver(501, 1) == ConjugateGradient()
    assert default_solver(5000, 10) == Cholesky()


def test_weights_over_six_decades_meet_the_tolerance(random_graph, dense_system, generator):
    graph = random_graph(30, 40)
    exponent = 6 * torch.rand(len(graph.weights), generator=generator, dtype=torch.float64) - 3
    graph = graph.with_weights(10**exponent)
    diagonal = torch.full((30,), 1e-3, dtype=torch.float64)
    rhs = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    matrix = dense_system(graph.weights, diagonal, graph.edges)
    solution, residual = solve(ConjugateGradient(), graph, diagonal, rhs)
    assert residual.max() <= 1e-10
    assert true_residual(matrix, solution, rhs).max() <= 2e-10
    exact, _ = solve(Cholesky(), graph, diagonal, rhs)
    assert_close(exact, torch.linalg.solve(matrix, rhs), rtol=1e-8, atol=0)


def test_weights_over_twelve_decades_raise_rather_than_be_wrong(random_graph, generator):
    graph = random_graph(30, 40)
    exponent = 12 * torch.rand(len(graph.weights), generator=generator, dtype=torch.float64) - 6
    rhs = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    diagonal = torch.full((30,), 1e-3, dtype=torch.float64)
    with pytest.raises(ConvergenceError, match="relative residual of 1e-10"):
        solve(ConjugateGradient(), graph.with_weights(10**exponent), diagonal, rhs)


def test_a_first_solve_does_not_import_the_compiler():
    program = """
import sys
import torch
from weft.graph import Cholesky, ConjugateGradient, solve_laplacian

edges, weights = torch.tensor([[0], [1]]), torch.ones(1)
for solver in (Cholesky(), ConjugateGradient()):
    solve_laplacian(weights, torch.ones(2), torch.eye(2), edges, solver=solver)
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)

"""On a large graph, order and precision change the way to the solution, not the solution."""

import pytest
import torch
from torch.testing import assert_close

from weft.graph import ConjugateGradient, Graph, SolveLog, solve_laplacian
from weft.graph import _conjugate_gradient as module


@pytest.fixture
def large(monkeypatch):
    """Take graphs of three nodes for large ones."""
    monkeypatch.setattr(module, "LARGE", 2)


def problem(random_graph, generator, dtype):
    graph = random_graph(60, 150)
    weights = graph.weights.to(dtype)
    diagonal = torch.rand(60, generator=generator, dtype=dtype) * 0.1 + 1e-3
    rhs = torch.randn(60, 3, generator=generator, dtype=dtype)
    return weights, diagonal, rhs, graph.edges


@pytest.mark.parametrize("rtol", [1e-4, 1e-8, 1e-12])
def test_the_tolerance_holds_beyond_float32_although_steps_run_in_it(
    large, random_graph, dense_system, generator, rtol
):
    weights, diagonal, rhs, edges = problem(random_graph, generator, torch.float64)
    solver = ConjugateGradient(rtol=rtol)
    factor = solver.factor(edges, weights, diagonal, 1)
    assert factor[3].dtype == torch.float32
    solution, residual = solver.solve(factor, rhs)
    matrix = dense_system(weights, diagonal, edges)
    true = (rhs - matrix @ solution).norm(dim=0) / rhs.norm(dim=0)
    assert (true <= 1.01 * rtol).all()
    assert_close(true, residual, rtol=1e-2, atol=1e-15)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("every_size", [False, True])
def test_gradients_are_within_twenty_tolerances(
    request, random_graph, dense_system, generator, rtol, every_size
):
    if every_size:
        request.getfixturevalue("large")
    inputs = problem(random_graph, generator, torch.float64)
    edges = inputs[3]
    leaves = [part.clone().requires_grad_() for part in inputs[:3]]
    log = SolveLog()
    probe = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    solution = solve_laplacian(*leaves, edges, solver=ConjugateGradient(rtol=rtol), log=log)
    found = torch.autograd.grad((solution * probe).sum(), leaves)
    exact = torch.linalg.inv(dense_system(leaves[0], leaves[1], edges)) @ leaves[2]
    oracle = torch.autograd.grad((exact * probe).sum(), leaves)
    assert len(log.residuals) == 2
    assert max(log.residuals) <= rtol
    for mine, true in zip(found, oracle, strict=True):
        assert (mine - true).norm() <= 20 * rtol * true.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heavy_rows_do_not_hide_the_errors_of_the_others(random_graph, dense_system, dtype):
    graph = random_graph(60, 150)  # three labels pull 1e7 times as hard as an edge
    heavy = torch.where(torch.arange(60) < 3, 1e7, 1e-3).to(dtype)
    rhs = torch.where(torch.arange(60) < 3, 1e7, 0.0).to(dtype)[:, None]
    weights = graph.weights.to(dtype)
    solver = ConjugateGradient(rtol=1e-6)
    solution = solve_laplacian(weights, heavy, rhs, graph.edges, solver=solver)
    exact = torch.linalg.solve(dense_system(weights, heavy, graph.edges).double(), rhs.double())
    assert_close(solution.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_of_the_nodes_is_undone(large, random_graph, dense_system, generator, dtype):
    weights, diagonal, rhs, edges = problem(random_graph, generator, dtype)
    solution = solve_laplacian(weights, diagonal, rhs, edges, solver=ConjugateGradient())
    matrix = dense_system(weights.double(), diagonal.double(), edges)
    assert solution.dtype == dtype
    assert_close(solution.double(), torch.linalg.solve(matrix, rhs.double()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_residual_in_blocks_of_rows_is_that_of_one(random_graph, generator, monkeypatch, dtype):
    weights, diagonal, rhs, edges = problem(random_graph, generator, dtype)
    solver = ConjugateGradient()
    factor = solver.factor(edges, weights, diagonal, 1)
    whole = solver.solve(factor, rhs)
    monkeypatch.setattr(module, "_ROWS", 7)
    assert_close(solver.solve(factor, rhs), whole, rtol=0, atol=0)


def test_neighbours_on_a_shuffled_path_get_near_numbers(generator):
    shuffled = torch.randperm(500, generator=generator)
    path = Graph.from_edge_index(torch.stack([shuffled[:-1], shuffled[1:]]))
    pattern = module.csr_pattern(path.edges, 500)[:2]
    order = module._cuthill_mckee(*pattern)
    row_start, columns, _ = module._permuted(*pattern, order)
    row = torch.arange(500).repeat_interleave(row_start.diff())
    assert (row - columns).abs().max() == 1
    assert order.sort().values.tolist() == list(range(500))


def test_a_graph_beyond_the_threshold_is_ordered_and_solved(generator):
    num_nodes = module.LARGE + 5
    ends = torch.randint(num_nodes, (2, 4 * num_nodes), generator=generator)
    graph = Graph.from_edge_index(ends, num_nodes=num_nodes)
    rhs = torch.randn(num_nodes, 2, generator=generator)
    diagonal = torch.full((num_nodes,), 0.5)
    solution = solve_laplacian(graph.weights, diagonal, rhs, graph.edges)
    image = graph.laplacian_csr() @ solution + 0.5 * solution
    assert ((image - rhs).norm(dim=0) <= 1e-5 * rhs.norm(dim=0)).all()

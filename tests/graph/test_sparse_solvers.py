"""The libraries' solvers do what the others do, and say so when they cannot."""

import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from weft._check import ConvergenceError
from weft.graph import AlgebraicMultigrid, SolveLog, SparseLU, laplace_learning, solve_laplacian


@pytest.fixture(params=["lu", "amg"])
def solver(request):
    if request.param == "lu":
        return SparseLU()
    pytest.importorskip("pyamg")
    return AlgebraicMultigrid(rtol=1e-12)


@pytest.fixture
def system(random_graph, generator):
    graph = random_graph(40, 90)
    diagonal = torch.rand(40, generator=generator, dtype=torch.float64) * 0.1 + 1e-3
    rhs = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    rhs[:, 1] = 0  # a column of zeros rests
    return graph, diagonal, rhs


def test_solution_and_gradients_are_those_of_a_dense_solve(system, solver, dense_system, generator):
    graph, diagonal, rhs = system
    leaves = [part.clone().requires_grad_() for part in (graph.weights, diagonal, rhs)]
    probe = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    log = SolveLog()
    solution = solve_laplacian(*leaves, graph.edges, solver=solver, log=log)
    exact = torch.linalg.inv(dense_system(leaves[0], leaves[1], graph.edges)) @ leaves[2]
    assert_close(solution, exact, rtol=0, atol=1e-9)
    found = torch.autograd.grad((solution * probe).sum(), leaves)
    oracle = torch.autograd.grad((exact * probe).sum(), leaves)
    assert_close(found, oracle, rtol=1e-8, atol=1e-7)
    assert log.factorizations == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_equations_take_them(system, solver, dtype):
    graph, _, _ = system
    graph = graph.with_weights(graph.weights.to(dtype))
    known = torch.arange(40) < 5
    labels = torch.eye(5, dtype=dtype)[torch.arange(40) % 5]
    kind = solver if isinstance(solver, SparseLU) else AlgebraicMultigrid()
    scores = laplace_learning(graph, labels, known, tau=0.01, solver=kind)
    assert scores.dtype == dtype
    assert_close(scores, laplace_learning(graph, labels, known, tau=0.01), rtol=1e-3, atol=1e-5)


def test_heavy_rows_do_not_hide_the_errors_of_the_others(random_graph, solver, dense_system):
    graph = random_graph(40, 90)
    heavy = torch.where(torch.arange(40) < 3, 1e7, 1e-3).double()
    rhs = torch.where(torch.arange(40) < 3, 1e7, 0.0).double()[:, None]
    kind = solver if isinstance(solver, SparseLU) else AlgebraicMultigrid(rtol=1e-6)
    solution = solve_laplacian(graph.weights, heavy, rhs, graph.edges, solver=kind)
    exact = torch.linalg.solve(dense_system(graph.weights, heavy, graph.edges), rhs)
    assert_close(solution, exact, rtol=1e-4, atol=0)


def test_a_node_with_neither_edge_nor_diagonal_is_refused(solver):
    edges = torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="the system must be positive definite"):
        solve_laplacian(
            torch.ones(1), torch.tensor([1.0, 1.0, 0.0]), torch.ones(3, 1), edges, solver=solver
        )


def test_a_singular_component_is_refused_by_the_factorisation():
    edges = torch.tensor([[0, 2], [1, 3]])
    diagonal = torch.tensor([1.0, 0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="positive definite"):
        solve_laplacian(torch.ones(2), diagonal, torch.ones(4, 1), edges, solver=SparseLU())


def test_multigrid_says_how_far_it_came(system):
    pytest.importorskip("pyamg")
    graph, diagonal, rhs = system
    with pytest.raises(ConvergenceError, match=r"residual of 1e-15, got \S+ after 1 steps: raise"):
        solve_laplacian(
            graph.weights,
            diagonal,
            rhs,
            graph.edges,
            solver=AlgebraicMultigrid(rtol=1e-15, max_iterations=1),
        )


def test_multigrid_leaves_numpys_generator_alone(system):
    pytest.importorskip("pyamg")
    graph, diagonal, rhs = system
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    solve_laplacian(graph.weights, diagonal, rhs, graph.edges, solver=AlgebraicMultigrid())
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_multigrid_without_its_library_says_what_to_install(system, monkeypatch):
    graph, diagonal, rhs = system
    monkeypatch.setitem(sys.modules, "pyamg", None)
    with pytest.raises(ImportError, match=r"pip install 'weft\[amg\]'"):
        solve_laplacian(graph.weights, diagonal, rhs, graph.edges, solver=AlgebraicMultigrid())


@pytest.mark.parametrize("settings", [{"rtol": 2.0}, {"max_iterations": 0}])
def test_refuses_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must"):
        AlgebraicMultigrid(**settings)

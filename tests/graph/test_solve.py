"""One solve, one adjoint: every derivative of every transform is that of a dense solve."""

import gc
import weakref

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from weft._check import ConvergenceError
from weft.graph import Cholesky, ConjugateGradient, SolveLog, solve_laplacian

SOLVERS = [Cholesky(), ConjugateGradient(rtol=1e-13)]
NUM_NODES = 8


@pytest.fixture(params=SOLVERS, ids=["cholesky", "cg"])
def solver(request):
    return request.param


@pytest.fixture
def edges(random_graph):
    return random_graph(NUM_NODES, 8).edges


@pytest.fixture
def problem(edges, generator):
    """Weights, diagonal and right-hand sides."""
    return (
        torch.rand(edges.shape[1], generator=generator, dtype=torch.float64) + 0.1,
        torch.rand(NUM_NODES, generator=generator, dtype=torch.float64) + 0.1,
        torch.randn(NUM_NODES, 3, generator=generator, dtype=torch.float64),
    )


@pytest.fixture
def ours(edges, solver):
    return lambda *problem: solve_laplacian(*problem, edges, solver=solver)


@pytest.fixture
def theirs(edges, dense_system):
    # Not torch.linalg.solve: reverse mode over its forward mode loses terms, and vmap of it NaNs.
    def solve(weights, diagonal, rhs):
        return torch.linalg.inv(dense_system(weights, diagonal, edges)) @ rhs

    return solve


def batched(problem, places, count, generator):
    """Replace some of the arguments by batches of `count`, on the first axis."""
    return tuple(
        part * (1 + torch.rand(count, *([1] * part.ndim), generator=generator).double())
        if place in places
        else part
        for place, part in enumerate(problem)
    )


def in_dims(places):
    return tuple(0 if place in places else None for place in range(3))


def close(actual, expected):
    assert_close(actual, expected, rtol=1e-9, atol=1e-10)


def test_the_solution_is_the_dense_one(problem, ours, theirs):
    assert_close(ours(*problem), theirs(*problem), rtol=0, atol=1e-12)


def test_derivatives_match_finite_differences_twice(problem, ours):
    inputs = tuple(part.clone().requires_grad_() for part in problem)
    assert gradcheck(ours, inputs, check_forward_ad=True)
    assert gradgradcheck(ours, inputs)


@pytest.mark.parametrize("argnum", [0, 1, 2])
def test_each_argument_may_be_differentiated_alone(problem, ours, theirs, argnum):
    def gradient(solve):
        inputs = [
            part.clone().requires_grad_(place == argnum) for place, part in enumerate(problem)
        ]
        return torch.autograd.grad(solve(*inputs).sin().sum(), inputs[argnum])[0]

    close(gradient(ours), gradient(theirs))


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
@pytest.mark.parametrize("argnum", [0, 1, 2])
def test_jacobians_and_hessians_are_the_dense_ones(problem, ours, theirs, transform, argnum):
    def loss(solve):
        return lambda *problem: solve(*problem).square().sum(0)

    close(transform(loss(ours), argnum)(*problem), transform(loss(theirs), argnum)(*problem))


def test_mixed_second_derivatives_are_the_dense_ones(problem, ours, theirs):
    def mixed(solve):
        return jacfwd(jacrev(lambda *problem: solve(*problem).sin().sum(), 0), (1, 2))(*problem)

    close(mixed(ours), mixed(theirs))


def reverse(function, direction):
    return lambda weights: grad(function)(weights) @ direction


def forward(function, direction):
    return lambda weights: jvp(function, (weights,), (direction,))[1]


@pytest.mark.parametrize(
    "modes",
    [
        (reverse, reverse), (forward, reverse), (reverse, forward),
        (reverse, reverse, reverse), (forward, reverse, reverse), (reverse, forward, reverse),
        (reverse, reverse, forward),
    ],
    ids=lambda modes: "-".join(mode.__name__ for mode in modes),
)  # fmt: skip
def test_higher_derivatives_are_the_dense_ones_in_any_order_of_modes(problem, ours, theirs, modes):
    weights, diagonal, rhs = problem

    def derivative(solve):
        function = lambda weights: solve(weights, diagonal, rhs).square().sum()  # noqa: E731
        for end, mode in enumerate(modes):
            function = mode(function, torch.linspace(-1, end, len(weights)).double())
        return function(weights)

    close(derivative(ours), derivative(theirs))


def test_refuses_forward_mode_inside_forward_mode_rather_than_be_wrong(problem, ours):
    weights, diagonal, rhs = problem

    def along(weights):
        return jvp(lambda w: ours(w, diagonal, rhs), (weights,), (weights,))[1]

    with pytest.raises(NotImplementedError, match="forward mode cannot be nested"):
        jvp(along, (weights,), (weights,))
    with pytest.raises(NotImplementedError, match="use reverse mode for all but one"):
        jacfwd(jacfwd(lambda w: ours(w, diagonal, rhs)))(weights)


def test_forward_mode_is_the_dense_one(problem, ours, theirs, generator):
    tangents = tuple(torch.randn(p.shape, generator=generator).double() for p in problem)
    for ours_part, theirs_part in zip(
        jvp(ours, problem, tangents), jvp(theirs, problem, tangents), strict=True
    ):
        close(ours_part, theirs_part)


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1), (0, 1, 2)])
def test_vmap_is_a_loop(problem, ours, theirs, places, generator):
    batch = batched(problem, places, 4, generator)
    close(vmap(ours, in_dims(places))(*batch), vmap(theirs, in_dims(places))(*batch))


@pytest.mark.parametrize("places", [(0,), (2,), (0, 1, 2)])
def test_vmap_of_a_gradient_is_a_loop(problem, ours, theirs, places, generator):
    batch = batched(problem, places, 4, generator)

    def gradient(solve):
        inner = grad(lambda *problem: solve(*problem).sin().sum(), (0, 1, 2))
        return vmap(inner, in_dims(places))(*batch)

    for ours_part, theirs_part in zip(gradient(ours), gradient(theirs), strict=True):
        close(ours_part, theirs_part)


def test_gradient_of_a_vmap_is_that_of_a_loop(problem, ours, theirs, generator):
    batch = batched(problem, (0, 2), 4, generator)

    def gradient(solve):
        run = vmap(solve, (0, None, 0))
        return grad(lambda *problem: run(*problem).sin().sum(), (0, 1, 2))(*batch)

    for ours_part, theirs_part in zip(gradient(ours), gradient(theirs), strict=True):
        close(ours_part, theirs_part)


@pytest.mark.parametrize("other", [(0,), (1,), (2,), (1, 2)])
def test_nested_batches_of_one_size_do_not_mix(problem, ours, theirs, other, generator):
    # Batches of three inside batches of three: a factor must not serve the wrong level.
    batch = batched(problem, (0, 2), 3, generator)
    batch = tuple(
        part[:, None]
        * torch.rand(3, *([1] * (part.ndim - 1)), generator=generator).add(0.5).double()
        if place in other and place in (0, 2)
        else part[None] * torch.rand(3, 1, generator=generator).add(0.5).double()
        if place in other
        else part
        for place, part in enumerate(batch)
    )
    outer = tuple((1 if place in (0, 2) else 0) if place in other else None for place in range(3))

    def run(solve):
        loss = lambda *problem: solve(*problem).square().sum()  # noqa: E731
        inner = vmap(grad(loss, (0, 1, 2)), (0, None, 0))
        return vmap(inner, outer)(*batch)

    for ours_part, theirs_part in zip(run(ours), run(theirs), strict=True):
        close(ours_part, theirs_part)


def test_a_batch_of_cotangents_and_one_of_systems_of_the_same_size_do_not_mix(
    problem, ours, theirs, generator
):
    batch = batched(problem, (0, 1, 2), 3, generator)
    cotangents = torch.randn(3, 3, NUM_NODES, 3, generator=generator, dtype=torch.float64)

    def run(solve):
        _, pull = vjp(vmap(solve), *batch)
        return vmap(pull)(cotangents)

    for ours_part, theirs_part in zip(run(ours), run(theirs), strict=True):
        close(ours_part, theirs_part)


def test_vmap_in_chunks_of_one_size_is_a_loop(problem, ours, theirs, generator):
    batch = batched(problem, (0, 1, 2), 6, generator)
    close(vmap(ours, chunk_size=2)(*batch), vmap(theirs)(*batch))


def test_hessians_of_batches_are_the_dense_ones(problem, ours, theirs, generator):
    batch = batched(problem, (0,), 3, generator)

    def run(solve):
        loss = lambda *problem: solve(*problem).square().sum()  # noqa: E731
        return vmap(hessian(loss), in_dims((0,)))(*batch)

    close(run(ours), run(theirs))


def test_two_pullbacks_of_one_solve_are_independent(problem, ours, theirs):
    inputs = tuple(part.clone().requires_grad_() for part in problem)
    solution = ours(*inputs)
    first = torch.autograd.grad(solution.sum(), inputs, retain_graph=True)
    second = torch.autograd.grad(solution.square().sum(), inputs)
    expected = theirs(*inputs)
    for gradient, loss in ((first, expected.sum()), (second, expected.square().sum())):
        for ours_part, theirs_part in zip(
            gradient, torch.autograd.grad(loss, inputs, retain_graph=True), strict=True
        ):
            close(ours_part, theirs_part)


def test_arguments_that_are_not_contiguous_are_read_right(problem, ours, theirs):
    weights, diagonal, rhs = problem
    odd = (
        torch.stack([weights, -weights], 1)[:, 0],
        torch.stack([diagonal, -diagonal], 1)[:, 0],
        rhs.T.contiguous().T,
    )
    assert not any(part.is_contiguous() for part in odd)
    inputs = tuple(part.detach().requires_grad_() for part in odd)
    solution = ours(*inputs)
    close(solution, theirs(*problem))
    expanded = torch.ones((), dtype=torch.float64).expand_as(solution)
    gradients = torch.autograd.grad(solution, inputs, expanded)
    close(gradients[2], theirs(*problem[:2], torch.ones_like(rhs)))


def test_arguments_and_results_do_not_share_memory(problem, ours):
    before = tuple(part.clone() for part in problem)
    solution = ours(*problem)
    solution.fill_(7.0)
    assert all(torch.equal(part, old) for part, old in zip(problem, before, strict=True))


def test_changing_an_argument_after_the_solve_is_noticed(problem, ours):
    inputs = tuple(part.clone().requires_grad_() for part in problem)
    weights = inputs[0] * 1
    solution = ours(weights, *inputs[1:])
    with torch.no_grad():
        weights.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        solution.sum().backward()


@pytest.mark.parametrize("columns", [0, 1])
def test_few_or_no_columns_are_solved(problem, ours, theirs, columns):
    few = (*problem[:2], problem[2][:, :columns])
    assert_close(ours(*few), theirs(*few))


def test_no_edges_leave_a_division(solver):
    edges = torch.empty(2, 0, dtype=torch.long)
    diagonal, rhs = torch.tensor([2.0, 4.0]), torch.tensor([[2.0], [2.0]])
    solution = solve_laplacian(torch.empty(0), diagonal, rhs, edges, solver=type(solver)())
    assert solution.tolist() == [[1.0], [0.5]]


def test_no_nodes_have_an_empty_solution(solver):
    none = torch.empty(2, 0, dtype=torch.long)
    solution = solve_laplacian(
        torch.empty(0), torch.empty(0), torch.empty(0, 3), none, solver=solver
    )
    assert solution.shape == (0, 3)


def test_one_factorisation_serves_forward_backward_and_double_backward(problem, edges, solver):
    log = SolveLog()
    inputs = tuple(part.clone().requires_grad_() for part in problem)
    solution = solve_laplacian(*inputs, edges, solver=solver, log=log)
    assert (log.factorizations, len(log.residuals)) == (1, 1)
    gradients = torch.autograd.grad(solution.square().sum(), inputs, create_graph=True)
    assert (log.factorizations, len(log.residuals)) == (1, 2)
    sum(part.square().sum() for part in gradients).backward()
    assert log.factorizations == 1
    assert len(log.residuals) > 2


def test_one_factorisation_serves_a_jacobian_and_a_hessian(problem, edges, solver):
    log = SolveLog()

    def loss(weights):
        return solve_laplacian(weights, *problem[1:], edges, solver=solver, log=log).square().sum()

    jacfwd(loss)(problem[0])
    assert log.factorizations == 1
    hessian(loss)(problem[0])
    assert log.factorizations == 2


def test_one_factorisation_serves_a_batch_of_systems_and_its_gradient(
    problem, edges, solver, generator
):
    log = SolveLog()
    batch = batched(problem, (0, 2), 4, generator)

    def loss(*problem):
        return solve_laplacian(*problem, edges, solver=solver, log=log).square().sum()

    vmap(grad(loss), (0, None, 0))(*batch)
    assert log.factorizations == 1


def test_residuals_of_forward_and_adjoint_are_honest(problem, edges, dense_system):
    log = SolveLog()
    solver = ConjugateGradient(rtol=1e-4)
    weights, diagonal, rhs = (part.clone() for part in problem)
    rhs.requires_grad_()
    solution = solve_laplacian(weights, diagonal, rhs, edges, solver=solver, log=log)
    cotangent = solution.detach().sin()
    (adjoint,) = torch.autograd.grad(solution, rhs, cotangent)
    matrix = dense_system(weights, diagonal, edges)
    for logged, u, b in zip(log.residuals, (solution, adjoint), (rhs, cotangent), strict=True):
        true = ((b - matrix @ u).norm(dim=0) / b.norm(dim=0)).max().item()
        assert logged == pytest.approx(true, rel=1e-2)
        assert true <= 1e-4


def test_residuals_of_a_direct_solve_are_zero(problem, edges):
    log = SolveLog()
    solve_laplacian(*problem, edges, solver=Cholesky(), log=log)
    assert log.residuals == [0.0]


def test_too_few_iterations_raise_forward_and_backward(problem, edges):
    weak = ConjugateGradient(rtol=1e-12, max_iterations=2)
    with pytest.raises(ConvergenceError, match="after 2 steps"):
        solve_laplacian(*problem, edges, solver=weak)
    weights, diagonal, rhs = problem
    zeros = torch.zeros_like(rhs, requires_grad=True)  # takes no step, but its cotangent does
    easy = solve_laplacian(weights, diagonal, zeros, edges, solver=weak)
    with pytest.raises(ConvergenceError, match="after 2 steps"):
        torch.autograd.grad(easy, zeros, rhs)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
def test_the_gradient_is_as_exact_as_the_tolerance(random_graph, generator, rtol):
    graph = random_graph(300, 1500)
    diagonal = torch.rand(300, generator=generator, dtype=torch.float64) * 0.2
    rhs = torch.rand(300, 10, generator=generator, dtype=torch.float64)

    def gradient(solver):
        inputs = tuple(part.clone().requires_grad_() for part in (graph.weights, diagonal, rhs))
        solution = solve_laplacian(*inputs, graph.edges, solver=solver)
        parts = torch.autograd.grad(solution.sin().sum(), inputs)
        return torch.cat([part.flatten() for part in parts])

    exact = gradient(Cholesky())
    error = (gradient(ConjugateGradient(rtol=rtol)) - exact).norm() / exact.norm()
    assert error <= 20 * rtol


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_passed_on_and_raises_nothing(problem, ours, bad):
    inputs = tuple(part.clone().requires_grad_() for part in problem)
    cotangent = torch.zeros_like(problem[2])
    cotangent[2, 1] = bad
    gradients = torch.autograd.grad(ours(*inputs), inputs, cotangent)
    assert not gradients[0].isfinite().all()
    assert not gradients[2][:, 1].isfinite().all()
    assert not gradients[2][:, [0, 2]].any()


def compiled(edges, solver):
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(weights, diagonal, rhs):
        return solve_laplacian(weights, diagonal, rhs.exp(), edges, solver=solver).sin()

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_code_has_the_values_and_gradients_of_eager_code(problem, edges, solver, dtype):
    solver = type(solver)() if dtype == torch.float32 else solver

    def value_and_gradients(run):
        inputs = tuple(part.to(dtype).requires_grad_() for part in problem)
        value = run(*inputs)
        return value, *torch.autograd.grad(value.square().sum(), inputs)

    def eager(weights, diagonal, rhs):
        return solve_laplacian(weights, diagonal, rhs.exp(), edges, solver=solver).sin()

    actual = value_and_gradients(compiled(edges, solver))
    for ours, theirs in zip(actual, value_and_gradients(eager), strict=True):
        assert ours.dtype == dtype
        assert_close(ours, theirs)


def test_compiled_code_refuses_a_second_derivative_rather_than_be_wrong(problem, edges, solver):
    inputs = tuple(part.clone().requires_grad_() for part in problem)
    value = compiled(edges, solver)(*inputs).sum()
    with pytest.raises(RuntimeError, match=r"double backward|create_graph=False"):
        torch.autograd.grad(value, inputs[0], create_graph=True)[0].square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_solution_nor_gradient(problem, edges, solver, dtype, device):
    solver = type(solver)()
    edges = edges.to(device)
    inputs = tuple(part.float().to(device).requires_grad_() for part in problem)
    plain = solve_laplacian(*inputs, edges, solver=solver)
    gradients = torch.autograd.grad(plain.sin().sum(), inputs)
    with torch.autocast(device.type, dtype):
        solution = solve_laplacian(*inputs, edges, solver=solver)
        inside = torch.autograd.grad(solution.sin().sum(), inputs, create_graph=True)
        torch.autograd.grad(inside[0].sum(), inputs)
    assert torch.equal(solution, plain)
    for part, expected in zip(inside, gradients, strict=True):
        assert torch.equal(part, expected)


def test_the_factor_is_freed_with_the_graph_of_derivatives(problem, edges):
    class Watched(Cholesky):
        def factor(self, *arguments):
            factor = super().factor(*arguments)
            watched.append(weakref.ref(factor[0]))
            return factor

    watched = []
    inputs = tuple(part.clone().requires_grad_() for part in problem)
    solution = solve_laplacian(*inputs, edges, solver=Watched())
    solution.sum().backward()
    del solution
    gc.collect()
    assert watched[0]() is None


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_numbers_that_are_not_finite(problem, edges, place, bad):
    problem[place][1] = bad
    name = ("weights", "diagonal", "rhs")[place]
    with pytest.raises(ValueError, match=f"`{name}` must be finite, got .* first in row 1"):
        solve_laplacian(*problem, edges)


def test_refuses_shapes_that_do_not_fit(problem, edges):
    weights, diagonal, rhs = problem
    for wrong, message in [
        ((weights[1:], diagonal, rhs), "must describe one system, got shapes"),
        ((weights, diagonal[1:], rhs), "must describe one system, got shapes"),
        ((weights, diagonal, rhs[:, 0]), r"`rhs` must have 2 axes \(n, c\), got shape \(8,\)"),
        ((weights, diagonal[None], rhs), r"`diagonal` must have 1 axes \(n\), got shape \(1, 8\)"),
        ((weights[None], diagonal, rhs), r"`weights` must have 1 axes \(e\), got shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            solve_laplacian(*wrong, edges)


def test_refuses_dtypes_that_differ_or_are_too_coarse(problem, edges):
    weights, diagonal, rhs = problem
    for wrong, message in [
        ((weights.float(), diagonal, rhs), "must all be float32 or all be float64, got torch.fl"),
        ((weights.half(), diagonal.half(), rhs.half()), "must all be float32 or all be float64"),
        ((weights.long(), diagonal, rhs), "`weights` must be a floating-point tensor, got torch"),
        ((weights, diagonal, [[1.0]]), "`rhs` must be a floating-point tensor, got list"),
    ]:
        with pytest.raises(TypeError, match=message):
            solve_laplacian(*wrong, edges)


def test_refuses_edges_that_name_no_node_or_the_wrong_order(problem, edges):
    for wrong in (edges + 1, edges - 1, edges.flip(0), edges.flip(1)):
        with pytest.raises(ValueError, match=r"`edges` must be pairs i < j of nodes 0..7, sorted"):
            solve_laplacian(*problem, wrong)


def test_refuses_a_number_of_graphs_that_does_not_divide_the_nodes(problem, edges):
    with pytest.raises(ValueError, match="`num_graphs` must divide"):
        solve_laplacian(*problem, edges, num_graphs=3)

"""One layer for all: signs, shapes, masks, transforms and counts are right for every rule."""

import numpy as np
import pytest
import torch
from torch.func import grad, jvp, vmap
from torch.testing import assert_close

from weft.discrete import (
    IMLE,
    AdaptiveIMLE,
    Assignment,
    Blackbox,
    FunctionSolver,
    GridPath,
    Identity,
    Perturbed,
    PerturbedMultiplicative,
    Projection,
    Ranking,
    Solver,
    SolverLog,
    StraightThrough,
    TopK,
    soft_argmin,
    solve_discrete,
)
from weft.discrete._layer import _fold


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rules(device="cpu"):
    """Each rule afresh: some hold a generator or a state."""
    seeded = lambda: torch.Generator(device).manual_seed(0)  # noqa: E731
    return {
        "identity": Identity(),
        "blackbox": Blackbox(2.0),
        "two-sided": Blackbox(2.0, two_sided=True),
        "perturbed": Perturbed(0.5, 3, generator=seeded()),
        "multiplicative": PerturbedMultiplicative(0.5, 3, generator=seeded()),
        "imle": IMLE(2.0, generator=seeded()),
        "adaptive": AdaptiveIMLE(generator=seeded()),
        "straight-through": StraightThrough(soft_argmin),
    }


NAMES = list(rules())
NOISELESS = ["identity", "blackbox", "two-sided", "straight-through"]
each_rule = pytest.mark.parametrize("name", NAMES)
each_noiseless = pytest.mark.parametrize("name", NOISELESS)


def gradient(costs, weight, name, solver=TopK(2), **options):  # noqa: B008
    costs = costs.clone().requires_grad_()
    solution = solve_discrete(costs, solver, rules(costs.device)[name], **options)
    (solution * weight).sum().backward()
    return solution.detach(), costs.grad


def numpy_top_two(costs):
    """A solver that cannot read the tensors of a transform."""
    order = np.argsort(costs.numpy(), axis=-1, kind="stable")
    solution = np.zeros(costs.shape)
    np.put_along_axis(solution, order[:, :2], 1.0, axis=-1)
    return torch.from_numpy(solution)


@each_rule
def test_a_gradient_step_against_a_solution_makes_it_dearer(name):
    # The loss rises with the entries chosen, so their costs must rise against the others'.
    costs = 0.1 * normal(0, 200, 5)
    solution, returned = gradient(costs, 1.0 * (costs == costs.amin(1, keepdim=True)), name)
    first = costs.argmin(1, keepdim=True)
    assert returned.gather(1, first).mean() < 0 < -returned.gather(1, first).mean()
    assert solution.shape == returned.shape == costs.shape


@each_rule
def test_maximising_is_minimising_the_negative(name):
    costs, weight = normal(0, 6, 5), normal(1, 6, 5)
    low, down = gradient(-costs, weight, name)
    high, up = gradient(costs, weight, name, maximize=True)
    assert_close(high, low)
    assert_close(up, -down)


def test_identity_is_minus_the_gradient_for_costs_and_plus_for_scores():
    costs, weight = normal(0, 6, 5).requires_grad_(), normal(1, 6, 5)
    for maximize, sign in ((False, -1), (True, 1)):
        solution = solve_discrete(costs, TopK(2), Identity(Projection.NONE), maximize=maximize)
        (returned,) = torch.autograd.grad((solution * weight).sum(), costs)
        assert_close(returned, sign * weight)


@each_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (2, 3), (0,), (2, 0)])
def test_shape_dtype_and_device_are_kept(name, batch, dtype, device):
    costs = torch.rand(*batch, 5, device=device, dtype=dtype)
    solution, returned = gradient(costs, torch.ones_like(costs), name)
    for tensor in (solution, returned):
        assert (tensor.shape, tensor.dtype, tensor.device) == (
            costs.shape,
            costs.dtype,
            costs.device,
        )


@each_noiseless
def test_a_batch_is_a_loop(name):
    costs, weight = normal(0, 2, 3, 5), normal(1, 2, 3, 5)
    solution, returned = gradient(costs, weight, name)
    for place in np.ndindex(2, 3):
        alone = gradient(costs[place], weight[place], name)
        assert_close((solution[place], returned[place]), alone)


@each_noiseless
def test_a_masked_batch_is_a_loop_over_smaller_instances(name):
    def relaxation(costs, mask=None):
        return soft_argmin(costs if mask is None else costs.where(mask, 1e9))

    rule = StraightThrough(relaxation) if name == "straight-through" else rules()[name]
    costs, weight = normal(0, 4, 6), normal(1, 4, 6)
    sizes = [6, 4, 3, 2]
    mask = torch.arange(6) < torch.tensor(sizes)[:, None]
    costs[~mask] = torch.nan
    costs.requires_grad_()
    solution = solve_discrete(costs, TopK(2), rule, mask=mask)
    (returned,) = torch.autograd.grad((solution * weight).sum(), costs)
    assert not solution[~mask].any()
    assert not returned[~mask].any()
    for row, size in enumerate(sizes):
        alone = costs[row, :size].detach().requires_grad_()
        chosen = solve_discrete(alone, TopK(2), rule)
        (expected,) = torch.autograd.grad((chosen * weight[row, :size]).sum(), alone)
        assert_close(solution[row, :size], chosen)
        assert_close(returned[row, :size], expected)


@each_rule
def test_with_noise_too_entries_outside_the_mask_stay_zero(name):
    if name == "straight-through":
        pytest.skip("its relaxation decides")
    mask = torch.arange(5) < torch.tensor([[5], [4], [3]])
    costs = normal(0, 3, 5).where(mask, torch.inf).requires_grad_()
    solution = solve_discrete(costs, TopK(2), rules()[name], mask=mask)
    (solution * normal(1, 3, 5)).sum().backward()
    assert_close(solution.sum(1), torch.full((3,), 2.0).double())
    assert not solution[~mask].any()
    assert not costs.grad[~mask].any()
    assert costs.grad.isfinite().all()


def test_a_gradient_outside_the_mask_does_not_reach_the_rule():
    # The adaptive rule divides by the gradient's norm.
    mask = torch.arange(5) < 4
    inside = normal(1, 3, 5).where(mask, 0.0)
    outside = inside.where(mask, 1e6)
    near, far = (
        gradient(normal(0, 3, 5), part, "adaptive", mask=mask) for part in (inside, outside)
    )
    assert near[1].any()
    assert_close(far, near)


@each_noiseless
@pytest.mark.parametrize("solver", [numpy_top_two, TopK(2)], ids=["numpy", "torch"])
def test_grad_and_vmap_of_torch_func_agree_with_autograd(name, solver):
    costs, weight = normal(0, 2, 3, 5), normal(1, 2, 3, 5)
    rule = rules()[name]
    _, expected = gradient(costs, weight, name, solver)

    def loss(costs, weight):
        return (solve_discrete(costs, solver, rule) * weight).sum()

    assert_close(grad(loss)(costs, weight), expected)
    assert_close(vmap(grad(loss))(costs, weight), expected)
    assert_close(vmap(vmap(grad(loss)))(costs, weight), expected)
    assert_close(grad(lambda costs: vmap(loss)(costs, weight).sum())(costs), expected)
    turned = vmap(grad(loss), in_dims=1, out_dims=1)(costs, weight)
    assert_close(turned, expected)
    shared = vmap(grad(loss), (None, 0))(costs, torch.stack([weight, 2 * weight]))
    assert_close(shared[0], expected)


def test_an_axis_that_is_mapped_joins_the_batch_from_any_place():
    costs, mask = normal(0, 2, 3, 5), normal(1, 2, 5) > 0
    folded = _fold(3, (1, None, None), costs, mask, None)
    assert_close(folded[0], costs.transpose(0, 1).reshape(6, 5))
    assert_close(folded[1], mask.repeat(3, 1))
    assert folded[2] is None


def test_vmap_maps_masks_and_calls_the_solver_once():
    costs, log = normal(0, 4, 3, 5), SolverLog()
    mask = torch.arange(5) < torch.tensor([2, 3, 4, 5])[:, None, None]
    mask = mask.expand(4, 3, 5)

    def run(costs, mask):
        return solve_discrete(costs, TopK(2), mask=mask, log=log)

    solution = vmap(run)(costs, mask)
    assert log == SolverLog(calls=1, instances=12)
    assert_close(solution, TopK(2)(costs, mask))
    shared = vmap(run, (0, None))(costs, mask[0])
    assert_close(shared, TopK(2)(costs, mask[0]))


@each_rule
@pytest.mark.parametrize("transform", ["autograd", "torch.func"])
def test_a_second_derivative_is_refused(name, transform):
    costs, weight = normal(0, 3, 5).requires_grad_(), normal(1, 3, 5)
    rule = rules()[name]

    def loss(costs):
        return (solve_discrete(costs, TopK(2), rule) * weight).square().sum()

    def by_autograd(costs):
        (returned,) = torch.autograd.grad(loss(costs), costs, create_graph=True)
        returned.square().sum().backward()

    by_func = grad(lambda costs: grad(loss)(costs).square().sum())
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        by_autograd(costs) if transform == "autograd" else by_func(costs.detach())


def test_forward_mode_is_refused():
    costs = normal(0, 3, 5)
    with pytest.raises(NotImplementedError, match="jvp"):
        jvp(lambda costs: solve_discrete(costs, TopK(2)), (costs,), (costs,))


@each_rule
def test_no_call_of_the_solver_goes_uncounted(name):
    class Counting(Solver):
        calls = instances = 0

        def solve(self, costs, mask):
            self.calls += 1
            self.instances += len(costs)
            return TopK(2).solve(costs, mask)

    solver, log = Counting(), SolverLog()
    gradient(normal(0, 2, 3, 5), 1.0, name, solver, log=log)
    assert (log.calls, log.instances) == (solver.calls, solver.instances)


def test_identity_needs_half_the_calls_of_blackbox():
    logs = {}
    for name in ("identity", "blackbox"):
        logs[name] = log = SolverLog()
        for step in range(5):
            gradient(normal(step, 7, 5), 1.0, name, log=log)
    assert logs["identity"] == SolverLog(calls=5, instances=35)
    assert logs["blackbox"] == SolverLog(calls=10, instances=70)


def test_a_bare_function_is_a_solver_of_vectors():
    costs = normal(0, 2, 3, 5).requires_grad_()
    solution = solve_discrete(costs, numpy_top_two)
    solution.square().sum().backward()
    assert_close(solution, TopK(2)(costs))
    norm = solve_discrete(
        other := costs.detach().requires_grad_(), TopK(2), Identity(Projection.NORM)
    )
    norm.square().sum().backward()
    assert_close(costs.grad, other.grad)  # nothing is known but that it has no scale


def test_the_solver_sees_costs_as_they_are_whatever_the_projection():
    costs = normal(0, 2, 4, 4).abs().requires_grad_()  # centred, they would be refused
    for projection in Projection:
        path = solve_discrete(costs, GridPath(), Identity(projection))
        path.sum().backward()
        assert_close(path, GridPath()(costs))


def test_moved_costs_are_cut_at_zero_where_the_solver_wants_none_negative():
    costs = normal(0, 2, 4, 4).abs().requires_grad_()
    seeded = torch.Generator().manual_seed(0)
    for rule in (Blackbox(50.0), IMLE(50.0, generator=seeded), Perturbed(5.0, 2, generator=seeded)):
        path = solve_discrete(costs, GridPath(), rule)
        (path * normal(1, 2, 4, 4)).sum().backward()
    assert costs.grad.isfinite().all()
    with pytest.raises(ValueError, match="must not be negative"):
        solve_discrete(costs - 1, GridPath(), Blackbox(50.0))


def test_costs_without_gradient_are_solved_and_nothing_more():
    log = SolverLog()
    solution = solve_discrete(normal(0, 3, 5), TopK(2), Blackbox(1.0), log=log)
    assert not solution.requires_grad
    assert log.calls == 1


@pytest.mark.parametrize("solver", [TopK(2), Ranking(), Assignment()])
def test_solvers_of_the_room_pass_through(solver):
    costs = normal(0, 3, 4, 4).requires_grad_()
    (solve_discrete(costs, solver) * normal(1, 3, 4, 4)).sum().backward()
    assert_close(solver.project(costs.grad), costs.grad)


def test_bad_input_is_refused_at_the_entrance():
    with pytest.raises(TypeError, match="`costs` must be a floating-point tensor"):
        solve_discrete(torch.arange(4), TopK(2))
    with pytest.raises(ValueError, match=r"`costs` must be finite, .* row 1"):
        solve_discrete(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), TopK(1))
    with pytest.raises(ValueError, match="must return a tensor of the shape"):
        solve_discrete(torch.rand(2, 4), lambda costs: costs[:, :2])
    with pytest.raises(ValueError, match="`mask` must expand"):
        solve_discrete(torch.rand(2, 4), TopK(1), mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match="must be a function or a `Solver`"):
        solve_discrete(torch.rand(2, 4), "top-k")  # pyright: ignore
    for rule in ("identity", Identity):
        with pytest.raises(TypeError, match="`rule` must be an object with `forward` and"):
            solve_discrete(torch.rand(2, 4), TopK(1), rule)  # pyright: ignore
    with pytest.raises(ValueError, match="2 non-empty dimensions"):
        solve_discrete(torch.rand(4), FunctionSolver(lambda costs: costs, item_dims=2))


def test_compiled_code_breaks_its_graph_here_and_is_right():
    costs, weight = normal(0, 3, 5), normal(1, 3, 5)

    def loss(costs):
        return (solve_discrete(costs.exp(), TopK(2), Blackbox(2.0)) * weight).sum()

    compiled = torch.compile(loss, backend="eager")
    expected = torch.autograd.grad(loss(x := costs.clone().requires_grad_()), x)[0]
    actual = torch.autograd.grad(compiled(y := costs.clone().requires_grad_()), y)[0]
    assert_close(actual, expected)

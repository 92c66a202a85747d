"""The known answers that a solver of your own must give: run them once, in its test."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from weft.discrete._guards import check_projection, random_costs
from weft.discrete._projections import Projection
from weft.discrete._solver import Solver, as_solver


def check_solver(
    solver: Solver | Callable[..., Tensor],
    shape: tuple[int, ...],
    *,
    generator: torch.Generator,
    samples: int = 32,
    solutions: Float[Tensor, "m *item"] | None = None,
) -> None:
    """Refuse a solver that breaks the contract of `Solver`, saying where.

    Checked, on random costs:

    - shape, dtype and device of the solution are those of the costs, in float32 and float64, with
      none, one and two batch dimensions, and for an empty batch;
    - a batch is solved as its instances are one by one, the same way each time, also under ties,
      and the costs are left as they were;
    - the equalities hold: <a, y> is the same for all solutions, ties included;
    - `project` is an orthogonal projection, removes the same from all solutions, and is that of
      the equalities where these are known;
    - scaling costs does not change the solution;
    - if `exact`, no solution found for other costs is cheaper, and none in `solutions` is.

    Args:
        solver: a solver, or a function of vectors.
        shape: of one instance that always has a solution.
        generator: of the random costs; they and the checks are on its device.
        samples: how many random costs.
        solutions: all of the finite set, if it can be listed: solutions must then belong to it.

    Raises:
        ValueError: the first check that fails.
    """
    solver = as_solver(solver)
    if len(shape) != solver.item_dims:
        raise ValueError(
            f"`shape` must have the solver's {solver.item_dims} dimensions, got {tuple(shape)}: "
            "pass the shape of one instance."
        )
    costs = random_costs(solver, (samples, *shape), generator)
    found = _check_calls(solver, costs)
    tied = solver(torch.ones_like(costs[:2]))
    _expect(torch.equal(tied[0], tied[1]), "solve instances under ties the same way each time")
    _check_set(solver, torch.cat([found, tied[:1]]), solutions)
    check_projection(solver, Projection.AFFINE, shape, generator=generator, samples=samples)
    _check_project(solver, costs)
    if solver.exact:
        _check_optimal(solver, costs, found, solutions)


def _check_calls(solver: Solver, costs: Tensor) -> Tensor:
    """Solve the costs in many ways, which must agree, and return the solutions."""
    before = costs.clone()
    found = solver(costs)
    _expect(torch.equal(costs, before), "leave the costs as they were")
    _expect(torch.equal(solver(costs), found), "solve the same costs the same way each time")
    alone = torch.stack([solver(row) for row in costs])
    _expect(torch.equal(alone, found), "solve a batch as its instances one by one")
    twice = solver(torch.stack([costs, costs]))
    _expect(torch.equal(twice, torch.stack([found, found])), "take two batch dimensions")
    single = solver(costs.float())
    _expect(single.dtype == torch.float32, "return float32 for float32")
    _expect(solver(costs[:0]).shape == costs[:0].shape, "take an empty batch")
    values = _inner(costs, found)
    for scale in (1e-3, 1e3):
        scaled = _inner(costs, solver(scale * costs))
        _expect(_close(scaled, values), f"return as good a solution for costs times {scale:g}")
    return found


def _check_set(solver: Solver, found: Tensor, solutions: Tensor | None) -> None:
    rows = solver.equalities(found.shape[1:])
    if rows is not None:
        held = found.flatten(1) @ rows.to(found).T
        _expect(_close(held, held[:1].expand_as(held)), "keep its equalities, ties included")
    if solutions is not None:
        listed = solutions.to(found).flatten(1)
        apart = torch.cdist(found.flatten(1), listed).amin(1)
        _expect(bool((apart < 1e-6).all()), "return members of `solutions`, ties included")


def _check_project(solver: Solver, costs: Tensor) -> None:
    once = solver.project(costs)
    _expect(_close(solver.project(once), once), "project twice as once")
    turned = costs.flip(0)
    left, right = _inner(once, turned), _inner(costs, solver.project(turned))
    _expect(_close(left, right), "project orthogonally: <project(x), z> = <x, project(z)>")
    if solver.equalities(costs.shape[1:]) is not None:
        _expect(_close(once, Solver.project(solver, costs)), "project by its equalities")


def _check_optimal(solver: Solver, costs: Tensor, found: Tensor, solutions: Tensor | None) -> None:
    pool = found if solutions is None else torch.cat([found, solutions.to(found)])
    values = costs.flatten(1) @ pool.flatten(1).T
    own, best = _inner(costs, found), values.amin(1)
    worst = int((own - best).argmax())
    _expect(
        _close(own, best),
        f"return the cheapest solution: for costs {costs[worst].tolist()} it costs "
        f"{own[worst].item():.6g}, and another {best[worst].item():.6g}; set `exact = False` "
        "for a heuristic",
    )


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(1).sum(1)


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-6, atol=1e-8)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"a solver must {what}, and this one does not: look at its `solve`.")

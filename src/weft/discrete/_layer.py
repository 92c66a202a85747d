"""The layer: solve a batch, and differentiate by a rule. The room's one way through autograd.

Rules see plain tensors with one batch axis, whatever transform of torch.func is at work: mapped
axes are folded into the batch, so a solver is called once for all.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weft.discrete._problem import Problem, Rule, SolverLog
from weft.discrete._rules import Identity
from weft.discrete._solver import Solver, as_solver, check_costs


def solve_discrete(
    costs: Float[Tensor, "*b"],
    solver: Solver | Callable[..., Tensor],
    rule: Rule = Identity(),  # noqa: B008, frozen
    *,
    maximize: bool = False,
    mask: Bool[Tensor, "*b"] | None = None,
    log: SolverLog | None = None,
) -> Float[Tensor, "*b"]:
    """Solve a combinatorial problem for each instance, and let a rule stand for the gradient.

    The solution is piecewise constant in the costs, so its derivative is zero or undefined; `rule`
    says what to return instead. Differentiable once in `costs`, in reverse mode; a second
    derivative is refused. Works under `torch.func.grad` and `torch.func.vmap`, with one solver call
    for all that is mapped. Under `torch.compile` the graph breaks here.

    Args:
        costs: (*batch, *item), any number of batch dimensions; how many make an item, the solver
            says.
        solver: a `Solver`, or a function of costs (b, n) to solutions (b, n).
        rule: how to differentiate.
        maximize: whether to find the largest <costs, y>. `rule` then sees -costs.
        mask: which entries belong to their instance, for instances of different sizes. Other
            costs are not read, their solution and gradient are zero.
        log: counts the calls of the solver, backward included.

    Returns:
        The solutions, with the shape, dtype and device of `costs`.

    Raises:
        TypeError: `costs` is not floating-point, `mask` not boolean, or `rule` no rule.
        ValueError: shapes do not fit, or NaN, infinite, infeasible or forbidden costs.
        RuntimeError: a second derivative is asked for.

    Source: the interface of Sahoo et al., arXiv 2205.15213, for any rule.
    """
    solver = as_solver(solver)
    if isinstance(rule, type) or not (hasattr(rule, "forward") and hasattr(rule, "backward")):
        raise TypeError(
            f"`rule` must be an object with `forward` and `backward`, got {rule!r}: pass one, "
            "such as Identity()."
        )
    check_costs(costs, mask, solver.item_dims)
    item = costs.shape[costs.ndim - solver.item_dims :]
    batched = costs.ndim == solver.item_dims + 1  # then autograd is spared two views
    flat = costs if batched else costs.reshape(-1 if costs.numel() else 0, *item)
    if mask is not None:
        mask = mask.expand(costs.shape).reshape(flat.shape)
        # No rule reads what lies outside, and no gradient goes there.
        flat = flat.where(mask, 0.0)
    call = _Call(solver, rule, log if log is not None else SolverLog())
    solution = _Discrete.apply(-flat if maximize else flat, mask, call)[0]  # pyright: ignore
    return solution if batched else solution.reshape(costs.shape)


@dataclass(frozen=True)
class _Call:
    """What is fixed in a call of the layer."""

    solver: Solver
    rule: Rule
    log: SolverLog

    def problem(self, mask: Tensor | None) -> Problem:
        return Problem(self.solver, mask, self.log)


class _Discrete(torch.autograd.Function):
    """The rule's forward; what it keeps for its backward are outputs without gradient."""

    @staticmethod
    def forward(costs: Tensor, mask: Tensor | None, call: _Call) -> tuple[Tensor, ...]:
        return call.rule.forward(call.problem(mask), costs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        costs, mask, ctx.call = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(mask, costs, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        mask, *saved = ctx.saved_tensors
        return _Pull.apply(mask, ctx.call, grad, *saved), None, None  # pyright: ignore

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], costs: Tensor, mask: Tensor | None, call: _Call
    ) -> Any:
        costs, mask = _fold(info.batch_size, in_dims[:2], costs, mask)
        outputs: Any = _Discrete.apply(costs, mask, call)
        return tuple(part.unflatten(0, (info.batch_size, -1)) for part in outputs), 0


class _Pull(torch.autograd.Function):
    """The rule's backward: of its own, so that it too sees plain tensors under `vmap`."""

    @staticmethod
    def forward(
        mask: Tensor | None, call: _Call, grad: Tensor, costs: Tensor, *outputs: Tensor
    ) -> Tensor:
        if mask is not None:
            grad = grad.where(mask, 0.0)
        return call.rule.backward(call.problem(mask), grad, costs, outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "a discrete solution can be differentiated once, and a second derivative was asked "
            "for: what a rule returns is no function's gradient, so there is none; detach it."
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], mask: Tensor | None, call: _Call, *tensors: Tensor
    ) -> Any:
        dims = (in_dims[0], *in_dims[2:])
        mask, *tensors = _fold(info.batch_size, dims, mask, *tensors)  # pyright: ignore
        pulled: Any = _Pull.apply(mask, call, *tensors)
        return pulled.unflatten(0, (info.batch_size, -1)), 0


for _function in (_Discrete, _Pull):
    # torch binds the arguments of every call, and reads the signature anew if it is not kept.
    _function.forward.__signature__ = inspect.signature(_function.forward)  # pyright: ignore


def _fold(count: int, dims: tuple[int | None, ...], *tensors: Tensor | None) -> list[Any]:
    """Join the axis that is mapped with the batch, which comes first; repeat what has none."""
    return [
        tensor
        if tensor is None
        else (
            tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        ).flatten(0, 1)
        for dim, tensor in zip(dims, tensors, strict=True)
    ]

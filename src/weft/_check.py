"""One voice for what can go wrong: argument checks, warnings and errors.

Knows torch and nothing of weft. A message says what is needed, what came, and what to do.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor

P = ParamSpec("P")
R = TypeVar("R")


class ConvergenceError(RuntimeError):
    """An iterative solver stopped before it reached its tolerance."""


class WeftWarning(UserWarning):
    """Something weft did is allowed but probably not meant."""


def check_floating(name: str, tensor: Tensor, shape: str) -> None:
    """Refuse anything but a floating-point tensor with as many axes as `shape` names.

    Args:
        name: what the caller calls the argument.
        tensor: what came.
        shape: the axes wanted, separated by spaces, such as `"n d"`.

    Raises:
        TypeError: `tensor` is not a floating-point tensor.
        ValueError: the number of axes differs.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        came = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"`{name}` must be a floating-point tensor, got {came}: call .float().")
    axes = shape.split()
    if tensor.ndim != len(axes):
        raise ValueError(
            f"`{name}` must have {len(axes)} axes ({', '.join(axes)}), "
            f"got shape {tuple(tensor.shape)}: reshape it."
        )


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinite entries, naming the first row that has one."""
    if tensor.sum().isfinite():  # then every term is, at a tenth of the cost
        return
    finite = torch.isfinite(tensor)
    if not finite.all():
        row = int((~finite).nonzero()[0, 0]) if tensor.ndim else 0
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinity first in row {row}: "
            "look at the learning rate, the input scale or the precision that produced it."
        )


def check_mask(name: str, mask: Tensor, shape: torch.Size) -> None:
    """Refuse anything but a boolean tensor of the given shape."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        came = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`{name}` must be a boolean mask, got {came}: compare, do not cast.")
    if mask.shape != shape:
        raise ValueError(
            f"`{name}` must have shape {tuple(shape)}, got {tuple(mask.shape)}: one entry per node."
        )


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half-precision tensors as float32 and all others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def on_values(search: Callable[P, R]) -> Callable[P, R]:
    """Run a search on the values of its tensors alone, also inside `torch.func.grad` and jvp.

    It sees plain tensors without gradient, which NumPy and SciPy can read, and returns such. Under
    `torch.func.vmap`, where there is not one value, it raises NotImplementedError.
    """

    @functools.wraps(search)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        plain: Any = [values_of(arg) if isinstance(arg, Tensor) else arg for arg in args]
        with torch.no_grad(), torch._C._DisableFuncTorch():
            return search(*plain, **kwargs)

    return run


def values_of(tensor: Tensor) -> Tensor:
    """Return a tensor's values alone, without gradient and outside `torch.func` transforms."""
    tensor = tensor.detach()
    while is_functorch_wrapped_tensor(tensor):
        if is_batchedtensor(tensor):
            raise NotImplementedError(
                "a graph cannot be searched under torch.func.vmap, where each item of the batch "
                "would have its own: pass features of shape (b, n, d), or map only solve_laplacian."
            )
        tensor = get_unwrapped(tensor)
    return tensor

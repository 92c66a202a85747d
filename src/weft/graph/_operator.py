"""Register a function on tensors as one operation, which compiled code calls whole.

`torch.library.custom_op` does the same, but its first call imports the compiler: a second of a
program that may never compile.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

_LIBRARY = torch.library.Library("weft", "FRAGMENT")

_R = TypeVar("_R")


def operator(name: str) -> Callable[[Callable[..., _R]], Callable[..., _R]]:
    """Turn a function, which changes none of its arguments, into the operation `weft::name`."""

    def register(function: Callable[..., _R]) -> Callable[..., _R]:
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        return getattr(torch.ops.weft, name).default

    return register

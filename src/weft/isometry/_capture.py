"""Take what layers of a model return, by hooks, from a model whose code stays as it is.

Knows torch modules; computes nothing itself.
"""

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.isometry._distances import flat_rows


def flattened(output: Float[Tensor, "n *shape"]) -> Float[Tensor, "n d"]:
    """Return maps as rows of all their numbers: where something is counts."""
    return output.flatten(1)


def pooled(output: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c"]:
    """Return the mean of each channel over its map: where something is does not count."""
    return output.flatten(2).mean(2) if output.ndim > 2 else output


class Capture:
    """Hooks that keep the input and the layers' outputs of the last call with gradient.

    Args:
        model: what is called.
        layers: names as in `model.named_modules()`.
        read: makes rows (n, d) of what a layer returns; `None` where it returns such.

    Raises:
        ValueError: no layer, or one that is not there.
    """

    def __init__(
        self, model: nn.Module, layers: Iterable[str], read: Callable[[Any], Tensor] | None
    ) -> None:
        self._model, self._read = model, read
        self._running = self._called = False
        self._inputs: Tensor | None = None
        self._version = 0
        self._modules = _find(model, list(layers))
        self._outputs: dict[str, list[Tensor]] = {}
        start = model.register_forward_pre_hook(_Hook(self._start))
        taken = [
            module.register_forward_hook(_Hook(partial(self._take, name)))
            for name, module in self._modules.items()
        ]
        # Last, because the model itself may be one of the layers.
        stop = model.register_forward_hook(_Hook(self._stop), always_call=True)
        self._handles = [start, *taken, stop]

    def close(self) -> None:
        """Take the hooks away; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self.forget()

    def forget(self) -> None:
        """Let go of the last call."""
        self._inputs, self._outputs, self._called = None, {}, False

    def features(self) -> dict[str, Float[Tensor, "n d"]]:
        """Return what each layer returned in the last call with gradient."""
        if not self._called:
            raise ValueError(
                "a call of the model with gradient must come first, got none since the last loss: "
                "call the model once per loss, not under no_grad, and before the hooks are closed."
            )
        for name in self._modules:
            times = len(self._outputs.get(name, []))
            if times != 1:
                raise ValueError(
                    f"{_words(name)} must run once with gradient in each call of the model, got "
                    f"{times} times: choose another layer; checkpoint with use_reentrant=False."
                )
        return {
            name: flat_rows(f"layer {name}".strip(), self._outputs[name][0])
            for name in self._modules
        }

    def num_rows(self) -> int:
        """Return how many rows the model was called with, or else how many a layer returned."""
        if self._inputs is not None and self._inputs.ndim:
            return len(self._inputs)
        return len(next(iter(self.features().values())))

    def inputs(self) -> Float[Tensor, "n *shape"]:
        """Return what the model was called with."""
        if self._inputs is None:
            raise ValueError(
                "`inputs` are needed where the model's first argument is no tensor, got None: "
                "pass them with the labels."
            )
        if _version(self._inputs) != self._version:
            raise ValueError(
                "`inputs` must be as the model saw them, got a tensor that was changed in place: "
                "pass a copy with the labels."
            )
        return self._inputs.detach()

    def _start(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if model is not self._model:
            raise NotImplementedError(
                "isometry needs the whole batch in one place, got a replica of the model with a "
                "part of it: use DistributedDataParallel in place of DataParallel."
            )
        if torch.is_grad_enabled():
            self.forget()
            self._running = True
            if args and isinstance(args[0], Tensor):
                self._inputs, self._version = args[0], _version(args[0])

    def _take(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # A checkpointed layer runs again in the backward, outside of the model's call, and must
        # then do the same: so everything but the last line is done in any case.
        rows = output if self._read is None else self._read(output)
        if not isinstance(rows, Tensor) or rows.ndim != 2:
            came = f"shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(
                f"{_words(name)} must return rows (n, d), got {came}: pass read=flattened or "
                "read=pooled for maps, or a function that picks from what it returns."
            )
        rows = rows.clone()  # the next layer may work in place
        if self._running and torch.is_grad_enabled():
            self._outputs.setdefault(name, []).append(rows)

    def _stop(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._running and output is None:  # an error was raised: this call does not count
            self.forget()
        elif self._running:
            self._called = True
        self._running = False


class _Hook:
    """A hook that stays with its model: copies and pickles of the model have one without effect."""

    def __init__(self, action: Callable[..., None] | None = None) -> None:
        self.action = action

    def __call__(self, *args: Any) -> None:
        if self.action is not None:
            self.action(*args)

    def __reduce__(self) -> tuple[type["_Hook"], tuple[()]]:
        return _Hook, ()


def _words(name: str) -> str:
    return f"layer `{name}`" if name else "the model's output"


def _find(model: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    if not names:
        raise ValueError('`layers` must name at least one layer, got none: "" is the output.')
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3, cutoff=0.4) or list(modules)[1:9]
            raise ValueError(
                f"`layers` must be names of the model's modules, got `{name}`: did you mean "
                f"{', '.join(f'`{other}`' for other in near)}?"
            )
    return {name: modules[name] for name in names}


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

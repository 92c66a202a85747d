"""Look at a model in evaluation mode, and leave it as it was. Knows torch."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode; afterwards, also on an error, give each module its own back.

    `model.train(mode)` would not do: it wakes layers that were frozen on purpose.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

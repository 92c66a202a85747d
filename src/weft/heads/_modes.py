"""Look at a model in evaluation mode, and leave it as it was. Knows torch."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; after it, also after an error, each module's own mode again.

    `model.train(mode)` would not do: it wakes layers that were frozen on purpose.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

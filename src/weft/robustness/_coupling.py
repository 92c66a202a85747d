"""Whether a model's answer to one input depends on the inputs beside it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weft._check import check_finite
from weft.robustness._attack import check_images, check_model
from weft.robustness._ball import draw_uniform
from weft.robustness._search import Predict

_FACTOR = 50


@dataclass(frozen=True)
class Coupling:
    """How far logits move when only the company changes.

    Args:
        largest: the largest change of a logit, over all companies tried.
        company: the one that did it.
        changed: share of rows that some company gave another class.
        tolerance: what rounding alone explains: 50 times what the logits change when every pixel
            is rounded anew in its last place, or a unit in the last place of the largest logit
            if that is more. Products of matrices add in an order that depends on the size of the
            batch, which is a rounding of the same size in each layer; 50 allows for the depth.
            Coupling below it is not seen: ask in float64.
        random: the same question was answered in two ways, further apart than rounding, so that
            nothing can be said.
    """

    largest: float
    company: str
    changed: float
    tolerance: float
    random: bool

    @property
    def coupled(self) -> bool:
        """Whether company changes answers by more than rounding does."""
        return self.largest > self.tolerance and not self.random


@torch.no_grad()
def coupling(
    predict: Predict,
    inputs: Float[Tensor, "n *shape"],
    *,
    generator: torch.Generator | None = None,
) -> Coupling:
    """Ask a model about the same inputs in other company, and compare.

    The first half of the inputs is asked about in front of the second half, of noise, of inverted
    images, in smaller batches, one at a time and in another order.

    Args:
        predict: inputs to logits; a module in evaluation mode.
        inputs: pixels in [0, 1]; two or more, of several classes if possible.
        generator: for noise; by default a new one with seed 0.

    Raises:
        ValueError: fewer than two inputs, pixels outside [0, 1], a module in training mode.
    """
    check_model(predict)
    check_images("inputs", inputs)
    if len(inputs) < 2:
        raise ValueError(f"`inputs` must be 2 or more, got {len(inputs)}: one has no company.")
    generator = generator or torch.Generator().manual_seed(0)
    half = (len(inputs) + 1) // 2
    asked, mates = inputs[:half], inputs[half:]
    usual = predict(inputs)[:half]
    check_finite("logits", usual)
    noise = draw_uniform(mates, generator)
    companies = {
        "noise": predict(torch.cat([asked, noise]))[:half],
        "inverted mates": predict(torch.cat([asked, 1 - mates]))[:half],
        "more mates": predict(torch.cat([asked, mates, noise]))[:half],
        "no mates": predict(asked),
        "one at a time": torch.cat([predict(one) for one in asked.split(1)]),
        "another order": predict(inputs.flip(0)).flip(0)[:half],
    }
    unit = torch.finfo(inputs.dtype).eps
    rounded = inputs * (1 + unit * (2 * draw_uniform(inputs, generator) - 1).sign())
    own = (predict(rounded.clamp(0, 1))[:half] - usual).abs().max().item()
    least = unit * usual.abs().max().item()
    tolerance = _FACTOR * max(own, least)
    again = (predict(inputs)[:half] - usual).abs().max().item()
    moves = {name: (logits - usual).abs().max().item() for name, logits in companies.items()}
    company = max(moves, key=moves.__getitem__)
    others = torch.stack([logits.argmax(1) != usual.argmax(1) for logits in companies.values()])
    return Coupling(
        largest=moves[company],
        company=company,
        changed=others.any(0).double().mean().item(),
        tolerance=tolerance,
        random=again > _FACTOR * least,  # a random answer would make `own` large too
    )

"""How `weft attack` spends its time. Importing this module does not import torch."""

import dataclasses
from dataclasses import dataclass

from weft.lab._fields import field


@dataclass(frozen=True)
class AttackSettings:
    """Radii, images and budgets. Each field says in its `help` what it means.

    Raises:
        ValueError: a value is no radius, or too small a number.
    """

    epsilon: str = field(
        "0.1,0.2,0.3", "L-infinity radii for pixels in [0, 1], with commas between"
    )
    images: int = field(1000, "test images, drawn at random", least=2)
    batch: int = field(250, "images in one graph; 0 = all of them", least=0)
    steps: int = field(20, "gradients of an attack", least=1)
    queries: int = field(50, "questions of the attack without gradient", least=1)
    victims: int = field(
        10, "images attacked one at a time; 0 = no threat but joint batches", least=0
    )
    autoattack: bool = field(False, "run AutoAttack too")
    seed: int = field(0, "seed of images, company and starts", least=0)

    def __post_init__(self) -> None:
        if not all(0 < epsilon <= 1 for epsilon in self.epsilons):
            raise ValueError(
                f"`epsilon` must lie in (0, 1], got {self.epsilon}: radii are in pixels."
            )
        for each in dataclasses.fields(self):
            least, value = each.metadata["least"], getattr(self, each.name)
            if least is not None and value < least:
                raise ValueError(f"`{each.name}` must be {least} or more, got {value}.")

    @property
    def epsilons(self) -> tuple[float, ...]:
        """The radii, from small to large."""
        try:
            return tuple(sorted({float(word) for word in self.epsilon.split(",")}))
        except ValueError:
            raise ValueError(
                f"`epsilon` must be numbers with commas between them, got {self.epsilon!r}: "
                "give for example 0.05,0.1."
            ) from None

    @property
    def first(self) -> float:
        """The smallest radius, at which masking and the other threat models are looked at."""
        return self.epsilons[0]

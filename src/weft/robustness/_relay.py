"""Begin where other attacks ended."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from weft.robustness._gradient import check_count
from weft.robustness._losses import Loss, margin, name_of
from weft.robustness._search import Search


@dataclass(frozen=True, eq=False)
class Relay:
    """Climb on from given points, with steps that shrink from a tenth of epsilon to nothing.

    Where rows depend on each other, give each row's worst point over several attacks: glued
    together they make a batch that nobody has seen, which is a good place to begin and nothing
    more. What counts is what the model says on the way.

    Args:
        starts: a point for each input given to `attack`; brought into ball and box.
        steps: gradients.
        loss: what to climb.
    """

    starts: Float[Tensor, "n *shape"]
    steps: int = 40
    loss: Loss = margin

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    def __str__(self) -> str:
        return f"relay-{self.steps} ({name_of(self.loss)})"

    def __call__(self, search: Search) -> None:
        """Climb."""
        rows = search.scene.rows
        if len(search.clean) != len(rows) or int(rows.max()) >= len(self.starts):
            raise ValueError(
                f"`starts` must have a point for each input that moves and counts, got "
                f"{len(self.starts)}: use it where the rows that count are those that move."
            )
        points = search.project(self.starts[rows].to(search.clean))
        for step in range(self.steps):
            if search.finished:
                return
            _, gradient = search.gradient(points, self.loss)
            length = 0.1 * search.ball.epsilon * (1 - step / self.steps)
            points = search.project(points + length * search.ball.ascent(gradient))
        search.offer(points)

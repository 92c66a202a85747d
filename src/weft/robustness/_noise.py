"""The attack that any other must beat: random signs."""

from dataclasses import dataclass

from weft.robustness._ball import draw_uniform
from weft.robustness._gradient import check_count
from weft.robustness._search import Search


@dataclass(frozen=True)
class Noise:
    """Random corners of the ball, the best of some draws; it needs no gradient and learns nothing.

    Args:
        draws: points tried.
    """

    draws: int = 100

    def __post_init__(self) -> None:
        check_count("draws", self.draws)

    def __str__(self) -> str:
        return f"noise-{self.draws}"

    def __call__(self, search: Search) -> None:
        """Draw and offer."""
        for _ in range(self.draws):
            if search.finished:
                return
            way = search.ball.ascent(2 * draw_uniform(search.clean, search.generator) - 1)
            search.offer(search.project(search.clean + search.ball.epsilon * way))

"""Attack the models that a defence could become, not the one that it happens to be."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.robustness._gradient import Method, check_count
from weft.robustness._search import Predict, Search, UnderAttack, View

Defence = Callable[[Predict, Tensor], Predict]
"""(model, context) to the model that the defence makes of these unlabelled inputs."""


def beside(predict: Predict, context: Tensor) -> Predict:
    """Return the model that sees its inputs in one batch with a context that stays.

    What a head does that ties its batch together and is not trained anew on it.
    """
    return lambda inputs: predict(torch.cat([context, inputs]))[len(context) :]


@dataclass(frozen=True)
class ModelSpace:
    """Greedy attack on the space of models: craft against all models seen, add the one it leads to.

    Every round climbs the losses under the deployed model and under the models that the defence
    would be if it had seen the clean rows or those of an earlier round. The best set of all
    rounds counts, judged by the deployed model.

    Args:
        inner: the attack of one round, such as `PGD()`.
        rounds: how many models join the list.
        least: climb, row by row, the smallest loss of the list (GMSA-MIN) instead of the mean
            (GMSA-AVG).
        defend: what the defence becomes in sight of a context, such as a head that is trained on
            it; by default a head in one batch with it.

    Source: Chen, Wu, Guo, Liang, Jha, ICLR 2022, algorithm 1; ours adds the deployed model, through
        which a head that is not trained anew can be differentiated exactly.
    """

    inner: Method
    rounds: int = 5
    least: bool = False
    defend: Defence = beside

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)

    def __str__(self) -> str:
        return f"GMSA-{'MIN' if self.least else 'AVG'}-{self.rounds} of {self.inner}"

    def __call__(self, search: Search) -> None:
        """Craft, add the model, and begin again."""
        contexts = [search.clean]
        for _ in range(self.rounds):
            view = self._over(search.scene.craft, list(contexts))
            scene = replace(search.scene, craft=view, judge=view, least=self.least)
            inner = Search(search.predict, scene, search.ball, search.generator)
            self.inner(inner)
            search.offer(inner.best)
            if search.finished:
                return
            contexts.append(inner.best)

    def _over(self, craft: View, contexts: list[Tensor]) -> View:
        def view(model: Predict, moved: Tensor) -> Tensor:
            if not isinstance(model, UnderAttack):  # a surrogate stays itself
                return craft(model, moved)
            models = [model.become(self.defend(model.predict, context)) for context in contexts]
            return torch.cat([craft(one, moved) for one in [model, *models]])

        return view

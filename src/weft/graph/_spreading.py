"""Label spreading and personalised PageRank: walks that start anew, at every node.

Both are D - alpha W between two powers of D, and so a Laplacian plus a diagonal. Knows graphs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weft.graph._equation import Equation, Problem, check_between


@dataclass(frozen=True)
class Spreading(Equation):
    """Label spreading, (1 - alpha) (I - alpha S)^-1 Y with S = D^-1/2 W D^-1/2.

    Labels are pulled at, not kept, and every node without label is pulled towards zero: scores lie
    in [0, 1] times the root of a ratio of degrees, and their rows do not sum to one. Without
    singular cases; a component without label has zeros. Differentiable to any order in weights,
    labels and `alpha`.

    Args:
        alpha: how much neighbours count against the node's own label, strictly between 0 and 1;
            a number or a tensor of one.

    Source: Zhou, Bousquet, Lal, Weston, Schoelkopf, NeurIPS 2003. Up to the factor 1 - alpha, the
        lazy random walks of Zhou and Schoelkopf, 2004.
    """

    alpha: float | Tensor = 0.99

    def __post_init__(self) -> None:
        check_between("alpha", self.alpha, 0, 1)

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Solve, with F = D^1/2 V, (D - alpha W) V = (1 - alpha) D^1/2 Y."""
        root = _degrees(problem).sqrt()[:, None]
        return root * _restart(problem, self.alpha, root * problem.labels)


@dataclass(frozen=True)
class PageRank(Equation):
    """Personalised PageRank, (1 - alpha) (I - alpha W D^-1)^-1 V, one column per class.

    A walk starts at a labelled node of the class, each of them as likely, and starts anew with
    probability 1 - alpha; the score of a node is the share of time spent there, so that a
    column sums to one and hubs score high. Differentiable to any order in weights, labels and
    `alpha`.

    Args:
        alpha: probability to walk on, strictly between 0 and 1; a number or a tensor of one.

    Source: Page, Brin, Motwani, Winograd, 1999; Haveliwala, WWW 2002.
    """

    alpha: float | Tensor = 0.85

    def __post_init__(self) -> None:
        check_between("alpha", self.alpha, 0, 1)

    def solve(self, problem: Problem) -> Float[Tensor, "n c"]:
        """Solve, with U = D X, (D - alpha W) X = (1 - alpha) V."""
        labels = problem.labels
        blocks = labels.view(problem.graph.num_graphs, -1, labels.shape[1])
        total = blocks.sum(1, keepdim=True)
        starts = (blocks / torch.where(total != 0, total, 1.0)).view(labels.shape)
        return _degrees(problem)[:, None] * _restart(problem, self.alpha, starts)


def _restart(problem: Problem, alpha: float | Tensor, rhs: Tensor) -> Tensor:
    """Solve (D - alpha W) X = (1 - alpha) rhs, divided by alpha: L + (D / alpha - D)."""
    weights = problem.graph.weights
    alpha = torch.as_tensor(alpha, dtype=weights.dtype, device=weights.device).reshape(())
    diagonal = _degrees(problem) / alpha - problem.graph.degrees()
    return problem.solve(weights, diagonal, (1 / alpha - 1) * rhs)


def _degrees(problem: Problem) -> Tensor:
    """Return the degrees; an isolated node has one, which leaves it (1 - alpha) times its label."""
    degrees = problem.graph.degrees()
    return torch.where(degrees > 0, degrees, 1.0)

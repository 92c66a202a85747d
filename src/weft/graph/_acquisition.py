"""Which node to label next: how unsure scores are, and how much a label would change.

An acquisition function gives each node a number; the largest is asked first. Knows posteriors.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft._check import check_mask
from weft.graph._graph import Graph
from weft.graph._posterior import LabelPosterior

Acquisition = Callable[[LabelPosterior], Float[Tensor, " n"]]
"""What a label of each node would be worth; the nodes with the largest are labelled first."""
Uncertainty = Callable[[Float[Tensor, "n c"]], Float[Tensor, " n"]]
"""How unsure each row of scores is."""


def smallest_margin(scores: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Return one less the lead of the first class over the second. Differentiable off ties."""
    first, second = scores.topk(2, dim=1).values.unbind(1)
    return 1 - (first - second)


def least_confidence(scores: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Return one less the largest score. Differentiable off ties."""
    return 1 - scores.amax(1)


def entropy(scores: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Return the entropy of a row, in nats; what is missing to one counts as one more class.

    Differentiable to any order where scores lie inside (0, 1).
    """
    scores = scores.clamp_min(0)
    missing = (1 - scores.sum(1, keepdim=True)).clamp_min(0)
    return torch.special.entr(torch.cat([scores, missing], 1)).sum(1)


def distance_to_label(scores: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Return the Euclidean distance of a row to the nearest one-hot label.

    Differentiable off ties and where it is not zero.
    """
    nearest = torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1])
    return torch.linalg.vector_norm(scores - nearest.to(scores.dtype), dim=1)


def variance_optimality(posterior: LabelPosterior) -> Float[Tensor, " n"]:
    """Return by how much a label of each node lowers the sum of all variances (VOpt).

    With g the node's column of the covariance, |g|^2 / (g_node + noise): exactly the trace that an
    update takes away. It needs no label, so that a whole batch can be chosen in advance.

    Source: Ji and Han, AISTATS 2012.
    """
    return posterior.column_norms().square() / _precision(posterior)


def sigma_optimality(posterior: LabelPosterior) -> Float[Tensor, " n"]:
    """Return by how much a label of each node lowers the variance of the mean score (SOpt).

    (sum of g)^2 / (g_node + noise): what an update takes away from the sum of all entries of the
    covariance. It needs no label either.

    Source: Ma, Garnett, Schneider, NeurIPS 2013.
    """
    return posterior.column_sums().square() / _precision(posterior)


def model_change(
    posterior: LabelPosterior, uncertainty: Uncertainty = distance_to_label
) -> Float[Tensor, " n"]:
    """Return by how much the scores of all nodes would change with a label of each node (MC).

    |g| / (g_node + noise) times the uncertainty. With `distance_to_label` it is exactly the
    Frobenius norm of the change of all scores, were the label the one that the scores favour: the
    least change that any label would cause.

    Source: Miller and Bertozzi, arXiv 2110.07739.
    """
    return posterior.column_norms() / _precision(posterior) * uncertainty(posterior.scores)


def model_change_variance(
    posterior: LabelPosterior, uncertainty: Uncertainty = distance_to_label
) -> Float[Tensor, " n"]:
    """Return variance optimality times the uncertainty (MCVOpt).

    Source: Miller, Mauro, Setiadi, Baca, Shi, Calder, Bertozzi, arXiv 2204.00005.
    """
    return variance_optimality(posterior) * uncertainty(posterior.scores)


def choose_top(
    values: Float[Tensor, " n"], candidates: Bool[Tensor, " n"], count: int
) -> Int[Tensor, " b"]:
    """Return the candidates of the largest values, the largest first, ties by lower number.

    Args:
        values: of an acquisition function.
        candidates: which nodes may be chosen; usually `~known`.
        count: how many; fewer come back where there are fewer.
    """
    _check_choice(candidates, values.shape, count)
    nodes = candidates.nonzero().squeeze(1)
    order = values[nodes].sort(descending=True, stable=True).indices
    return nodes[order[:count]]


def choose_local_maxima(
    graph: Graph, values: Float[Tensor, " n"], candidates: Bool[Tensor, " n"], count: int
) -> Int[Tensor, " b"]:
    """Return the largest of the candidates that no neighbouring candidate exceeds.

    A batch of near nodes would ask the same question many times; on the graph, no two of these are
    neighbours. There may be fewer than `count`.

    Args:
        graph: whose edges of positive weight make neighbours.
        values: of an acquisition function.
        candidates: which nodes may be chosen.
        count: how many at most.

    Source: local maxima as a batch, Chapman, Chen, Tan, Calder, Miller, Bertozzi, SPIE 2023.
    """
    _check_choice(candidates, values.shape, count)
    rank = torch.empty_like(values, dtype=torch.long)  # distinct, so that ties have one winner
    order = choose_top(values, torch.ones_like(candidates), len(values))
    rank[order] = torch.arange(len(values), 0, -1, device=values.device)
    rank = torch.where(candidates, rank, 0)
    i, j = graph.edges[:, graph.weights > 0]
    nearby = torch.zeros_like(rank)
    nearby = nearby.scatter_reduce(0, i, rank[j], "amax").scatter_reduce(0, j, rank[i], "amax")
    return choose_top(values, candidates & (rank > nearby), count)


def choose_sequentially(
    posterior: LabelPosterior,
    acquisition: Acquisition,
    candidates: Bool[Tensor, " n"],
    count: int,
) -> Int[Tensor, " b"]:
    """Choose one after another, each as if the ones before were labelled as the scores expect.

    Covariances do not depend on labels, so for variance and Sigma optimality this is what asking
    one at a time would choose. For the others the expected label stands in for the true one.

    Args:
        posterior: the labels so far.
        acquisition: such as `variance_optimality`.
        candidates: which nodes may be chosen.
        count: how many; fewer come back where there are fewer.
    """
    _check_choice(candidates, posterior.known.shape, count)
    chosen, left = [], candidates.clone()
    for _ in range(min(count, int(left.sum()))):
        node = int(choose_top(acquisition(posterior), left, 1))
        chosen.append(node)
        left[node] = False
        expected = torch.zeros_like(posterior.scores[node])
        expected[posterior.scores[node].argmax()] = 1
        posterior = posterior.with_label(node, expected)
    return torch.tensor(chosen, dtype=torch.long, device=candidates.device)


def _precision(posterior: LabelPosterior) -> Float[Tensor, " n"]:
    """Return variance + noise; where both are zero, infinity: a label there tells nothing."""
    spread = posterior.variance() + posterior.noise
    return torch.where(spread > 0, spread, torch.inf)


def _check_choice(candidates: Tensor, shape: torch.Size, count: int) -> None:
    check_mask("candidates", candidates, shape)
    if count < 0:
        raise ValueError(f"`count` must not be negative, got {count}: how many nodes to label.")

"""Methods with a network: an MLP on words, a GCN, and edge weights learned through the solve."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from scipy import sparse
from setting import Method, Task
from torch import Tensor, nn

from weft.graph import ConjugateGradient, Graph, Laplace, Laplacian

EPOCHS = 100
HIDDEN = 64
SOLVER = ConjugateGradient(rtol=1e-5)  # of training steps; halves their time


class TwoLayers(nn.Module):
    """Words to classes by two layers, each followed by `mix`: nothing in an MLP, edges in a GCN."""

    def __init__(self, words: Tensor, num_classes: int, dropout: float, mix: Callable) -> None:
        super().__init__()
        self.words, self.dropout, self.mix = words.to_sparse(), dropout, mix
        self.first = nn.Linear(words.shape[1], HIDDEN)
        self.second = nn.Linear(HIDDEN, num_classes)

    def forward(self) -> Tensor:
        """Return the logits of all papers."""
        values = F.dropout(self.words.values(), self.dropout, self.training)
        words = torch.sparse_coo_tensor(
            self.words.indices(),
            values,
            self.words.shape,
            is_coalesced=True,
            check_invariants=False,
        )
        hidden = self.mix(torch.sparse.mm(words, self.first.weight.T)) + self.first.bias
        hidden = F.dropout(hidden.relu(), self.dropout, self.training)
        return self.mix(hidden @ self.second.weight.T) + self.second.bias


def two_layers(
    task: Task, mix: Callable, seed: int, dropout: float, decay: float, rate: float
) -> Tensor:
    torch.manual_seed(seed)
    model = TwoLayers(task.words, task.data.num_classes, dropout, mix)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=decay)
    train = task.data.train
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        F.cross_entropy(model()[train], task.data.labels[train]).backward()
        optimizer.step()
    with torch.no_grad():
        return model.eval()().softmax(1)


def mlp(task: Task, graph: None, seed: int, **options: float) -> Tensor:
    return two_layers(task, nn.Identity(), seed, **options)


def gcn(task: Task, graph: Graph, seed: int, **options: float) -> Tensor:
    """Run a GCN with loops of weight one: its matrix is I - R L R, R = (degree + 1)^-1/2.

    Source: Kipf, Welling, ICLR 2017.
    """
    laplacian, root = graph.laplacian_csr(), (graph.degrees() + 1).rsqrt()[:, None]
    return two_layers(task, lambda x: x - root * (laplacian @ (root * x)), seed, **options)


class EdgeWeights(nn.Module):
    """Edge weights by what is known of each edge; the first ones are those of the plain graph.

    Known are: whether it is a citation, the cosine of the words, how often both ends are cited, and
    how many papers are joined with both. With `width`, also how the projections of both papers'
    words on that many directions agree. A weight changes by a factor of 20 at most.
    """

    def __init__(self, task: Task, graph: Graph, width: int) -> None:
        super().__init__()
        given, (i, j), n = task.data.graph, graph.edges, graph.num_nodes
        cited, joined = torch.isin(i * n + j, given.edges[0] * n + given.edges[1]), given.to_scipy()
        common = torch.from_numpy((joined @ joined)[i.tolist(), j.tolist()]).log1p()
        rows = sparse.csr_array(task.words.numpy())
        cosine = torch.from_numpy((rows[i.tolist()] * rows[j.tolist()]).sum(1))
        degrees = given.degrees().log1p()
        known = torch.stack([cited.float(), cosine, degrees[i] + degrees[j], common.float()], 1)
        self.graph, self.words = graph, task.words.to_sparse()
        self.known = (known - known.mean(0)) / known.std(0).clamp_min(1e-6)
        self.project = nn.Linear(task.words.shape[1], width, bias=False) if width else None
        self.hidden, self.last = nn.Linear(4 + width, 16), nn.Linear(16, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self) -> Graph:
        """Return the graph with its weights as learned so far."""
        i, j = self.graph.edges
        known = self.known
        if self.project is not None:
            place = torch.sparse.mm(self.words, self.project.weight.T)
            known = torch.cat([known, place[i] * place[j]], 1)
        factor = (3 * self.last(self.hidden(known).relu()).squeeze(1).tanh()).exp()
        return self.graph.with_weights(self.graph.weights * factor)


def learned(
    task: Task,
    graph: Graph,
    seed: int,
    *,
    width: int,
    steps: int,
    rate: float,
    decay: float,
    laplacian: Laplacian,
) -> Tensor:
    """Laplace learning on learned weights: half of the training labels predict the other half.

    No validation label is read: those only choose the options.
    """
    torch.manual_seed(seed)
    model, log_tau = EdgeWeights(task, graph, width), nn.Parameter(torch.tensor(-3.0))
    optimizer = torch.optim.AdamW([*model.parameters(), log_tau], lr=rate, weight_decay=decay)
    targets = task.data.labels
    for _ in range(steps):
        asked = task.known & (torch.rand(len(targets)) < 0.5)
        optimizer.zero_grad()
        shown = task.known & ~asked
        equation = Laplace(log_tau.exp(), laplacian=laplacian)
        scores = equation(model(), task.labels, shown, solver=SOLVER)
        F.nll_loss(scores[asked].clamp_min(1e-6).log(), targets[asked]).backward()
        optimizer.step()
    with torch.no_grad():
        return Laplace(log_tau.exp(), laplacian=laplacian)(model(), task.labels, task.known)


TWO_LAYERS = {"dropout": (0.0, 0.5, 0.8), "decay": (0.0, 5e-4, 5e-3), "rate": (0.01, 0.03, 0.1)}
LEARNED = {
    "steps": (20, 40),
    "rate": (0.003, 0.01, 0.03),
    "decay": (0.0, 1.0),
    "laplacian": (Laplacian.COMBINATORIAL, Laplacian.SYMMETRIC),
}
METHODS = {
    "MLP": Method(mlp, TWO_LAYERS, graphs=("none",), seeded=True),
    "GCN": Method(gcn, TWO_LAYERS, graphs=("given", "both"), seeded=True),
    "learned weights": Method(
        partial(learned, width=0), LEARNED, graphs=("given", "both"), seeded=True
    ),
    "learned weights, with words": Method(
        partial(learned, width=16), LEARNED, graphs=("both",), seeded=True
    ),
}

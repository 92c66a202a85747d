"""Data, pretraining, losses and graphs of the digits experiment; `run.py` puts them together."""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from weft.graph import ExactNeighbors, Graph, knn_graph, laplace_learning
from weft.heads import choose_anchors
from weft.lab.augment import Augmentation
from weft.lab.backbones import build_backbone
from weft.lab.data import load_data, split_labels
from weft.lab.pretrain import contrastive_loss

NUM_CLASSES, FEATURES, K, PIXEL_WEIGHT = 10, 64, 10, 0.5
AUGMENT = Augmentation(shift=0.1, rotate=15, scale=0.15, elastic=0.03)
BATCH = 50  # test samples at once in the context of small batches
Results = dict[tuple[str, str], float]  # (method, context) -> accuracy


class Task:
    """Training samples, labelled ones first, and samples to test on.

    Args:
        num_labelled: labels that may be seen; the others are -1.
        seed: of the split, and of all that is trained on it.
        tuning: take the samples to test on from the training part.
    """

    def __init__(self, num_labelled: int, seed: int, *, tuning: bool) -> None:
        data = load_data("digits")
        inputs, labels = data.train_inputs, data.train_labels
        self.test_inputs, self.test_labels = data.test_inputs, data.test_labels
        if tuning:
            order = torch.randperm(len(inputs), generator=Generator().manual_seed(seed))
            test, train = order.split([297, len(order) - 297])
            self.test_inputs, self.test_labels = inputs[test], labels[test]
            inputs, labels = inputs[train], labels[train]
        split = split_labels(labels, num_labelled, 0.0, seed)
        rows = torch.cat([split.labelled, split.unlabelled])
        self.num_labelled, self.seed, self.tuning = num_labelled, seed, tuning
        self.inputs = inputs[rows]
        self.nearest = ExactNeighbors()(self.inputs.flatten(1), 3)
        self.labels = labels[rows].where(torch.arange(len(rows)) < num_labelled, -1)

    def accuracy(self, found: Int[Tensor, " n"]) -> float:
        """Return the share of the test samples whose class was found."""
        return (found == self.test_labels).double().mean().item()


def build(name: str, task: Task) -> nn.Module:
    """Return a backbone: `mlp`, `cnn`, or a CNN pretrained on `views` or on `neighbours`."""
    if name in ("mlp", "cnn"):
        return build_backbone(name, (1, 8, 8), FEATURES, seed=task.seed)
    backbone = build("cnn", task)
    backbone.load_state_dict(pretrained(name, task.seed, task.tuning))
    return backbone


@lru_cache(maxsize=2)  # it sees no label, so all label counts of a seed share it
def pretrained(name: str, seed: int, tuning: bool) -> dict[str, Tensor]:
    task = Task(50, seed, tuning=tuning)
    backbone = build("cnn", task)
    share = 0.5 if name == "neighbours" else 0.0
    train(backbone, partial(pair_loss, backbone, task, share), seed, steps=240, rate=2e-3)
    return backbone.state_dict()


def train(
    model: nn.Module, loss: Callable[[Generator], Tensor], seed: int, *, steps: int, rate: float
) -> None:
    """Minimise a loss of random batches, by AdamW on a one-cycle schedule."""
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, cycle_momentum=False
    )
    model.train()
    for _ in range(steps):
        value = loss(generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def pair_loss(backbone: nn.Module, task: Task, share: float, generator: Generator) -> Tensor:
    """Contrast two views of each sample; for a `share` of them, the second is of a near one."""
    rows = torch.randperm(len(task.inputs), generator=generator)[:256]
    near = task.nearest[rows, torch.randint(3, rows.shape, generator=generator)]
    others = near.where(torch.rand(rows.shape, generator=generator) < share, rows)
    views = AUGMENT(task.inputs[torch.cat([rows, others])], generator)
    return contrastive_loss(*backbone(views).chunk(2))


def softmax_loss(model: nn.Module, task: Task, augment: bool, generator: Generator) -> Tensor:
    rows = torch.randperm(task.num_labelled, generator=generator)[:200]
    inputs = AUGMENT(task.inputs[rows], generator) if augment else task.inputs[rows]
    return F.cross_entropy(model(inputs), task.labels[rows])


def graph_loss(
    backbone: nn.Module,
    task: Task,
    augment: bool,
    unlabelled: int,
    pixels: bool,
    generator: Generator,
) -> Tensor:
    """Ask about one half of the labels; the other half answers, through the graph of all."""
    order = torch.randperm(task.num_labelled, generator=generator)
    per_class = min(10, task.num_labelled // (2 * NUM_CLASSES))
    anchors = order[choose_anchors(task.labels[order], per_class, generator=generator)]
    queries = order[~torch.isin(order, anchors)][:100]
    others = torch.randperm(len(task.labels) - task.num_labelled, generator=generator)
    rows = torch.cat([anchors, queries, others[:unlabelled] + task.num_labelled])
    inputs = AUGMENT(task.inputs[rows], generator) if augment else task.inputs[rows]
    graph = join(F.normalize(backbone(inputs)), task.inputs[rows] if pixels else None)
    scores = spread(graph, task.labels[anchors])[len(anchors) :][: len(queries)]
    return F.nll_loss((scores + 1e-6).log(), task.labels[queries])


def join(
    features: Float[Tensor, "n d"], inputs: Float[Tensor, "n *shape"] | None, k: int = K
) -> Graph:
    """Join samples of near features; with `inputs`, samples of near inputs too."""
    graph = knn_graph(features, k)
    if inputs is None:
        return graph
    pixel_graph, count = knn_graph(inputs.flatten(1), k), len(inputs)
    keys = torch.cat([one.edges[0] * count + one.edges[1] for one in (graph, pixel_graph)])
    keys, place = keys.unique(return_inverse=True)
    weights = torch.cat([graph.weights, PIXEL_WEIGHT * pixel_graph.weights])
    weights = weights.new_zeros(len(keys)).index_add(0, place, weights)
    return Graph(torch.stack([keys // count, keys % count]), weights, count)


def spread(graph: Graph, labels: Int[Tensor, " m"]) -> Float[Tensor, "n c"]:
    """Return the scores of all nodes; the first ones are labelled."""
    rows = F.one_hot(labels, NUM_CLASSES).to(graph.weights)
    rows = F.pad(rows, (0, 0, 0, graph.num_nodes - len(labels)))
    return laplace_learning(graph, rows, torch.arange(len(rows)) < len(labels))


@torch.no_grad()
def laplace(name: str, task: Task, backbone: nn.Module, *, pixels: bool, k: int = K) -> Results:
    """Classify the test samples on one graph with all training samples, and in small batches."""
    inputs = torch.cat([task.inputs, task.test_inputs])
    features, known = backbone(inputs), task.labels[: task.num_labelled]
    if not isinstance(backbone, nn.Flatten):
        features = F.normalize(features)
    results = {}
    train_rows, test_rows = torch.arange(len(inputs)).tensor_split([len(task.inputs)])
    for context, size in (("whole", len(test_rows)), (f"batches of {BATCH}", BATCH)):
        found = []
        for part in test_rows.split(size):
            rows = torch.cat([train_rows, part])
            graph = join(features[rows], inputs[rows] if pixels else None, k)
            found.append(spread(graph, known)[len(train_rows) :].argmax(1))
        results[name, context] = task.accuracy(torch.cat(found))
    return results

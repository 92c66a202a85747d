"""Models to borrow gradients from, and what an attacker of anchors needs, for a trained run."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from weft.graph import Constant, Gaussian, Laplace
from weft.heads import GraphClassifier, GraphHead, choose_anchors
from weft.lab._trained import Trained, encode
from weft.lab.backbones import build_backbone
from weft.robustness import FeatureDistance

_SEEN = 5000  # labelled samples that a probe or a twin sees
_STEPS, _BATCH = 300, 128


def features_of(model: GraphClassifier) -> Callable[[Tensor], Tensor]:
    """Return inputs to features as the graph sees them."""
    return lambda inputs: model.head.prepare(model.backbone(inputs))


@torch.no_grad()
def away_from_anchors(model: GraphClassifier) -> FeatureDistance:
    """Return the loss that draws features from anchors of their class to anchors of others."""
    anchors = model.head.prepare(model.anchor_features())
    return FeatureDistance(anchors, model.anchor_labels, temperature=0.05)


@torch.no_grad()
def softer(model: GraphClassifier, *, wide: bool) -> GraphClassifier:
    """Return the model with a head whose gradients reach further.

    Args:
        model: in evaluation mode; the copy shares its backbone and anchors.
        wide: a kernel as wide as the anchors are spread, over twice the neighbours; otherwise
            plain Laplace learning whose labels fade fast, so that near ones count most.
    """
    old = model.head
    anchors = old.prepare(model.anchor_features())
    spread = max(anchors.var(0, unbiased=False).sum().sqrt().item(), 1e-3)
    head = GraphHead(
        old.num_classes,
        2 * old.k if wide else old.k,
        kernel=Gaussian(1.0) if wide else old.kernel,
        bandwidth=Constant(spread) if wide else old.bandwidth,
        equation=old.equation if wide else Laplace(1.0),
        normalize=old.normalize,
        normalization=None,
        input_edges=old.input_edges,
    )
    return GraphClassifier(model.backbone, head, model.anchor_inputs, model.anchor_labels).eval()


def probe(trained: Trained) -> nn.Module:
    """Train a softmax on the features that the run's backbone makes: the head's softmax twin."""
    rows = _some_labelled(trained)
    features = encode(trained.model, trained.data.train_inputs[rows])
    labels = trained.data.train_labels[rows].to(features.device)
    scale = features.std(0).clamp_min(1e-6)
    scaled = (features - features.mean(0)) / scale
    layer = nn.Linear(features.shape[1], trained.data.num_classes).to(features)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    _train(layer, scaled, labels, rate=0.05)
    with torch.no_grad():  # what was scaled goes into the layer
        layer.weight.div_(scale)
        layer.bias.sub_(layer.weight @ features.mean(0))
    return nn.Sequential(trained.model.get_submodule("backbone"), layer).eval()


def twin(trained: Trained) -> nn.Module:
    """Train a small network of its own on the run's labelled samples: it shares no weight."""
    rows, data = _some_labelled(trained), trained.data
    shape = data.image_shape or data.train_inputs.shape[1]
    seed = trained.run.recipe.seed + 1
    body = build_backbone("mlp", shape, 64, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = nn.Sequential(body, nn.ReLU(), nn.Linear(64, data.num_classes))
    device = trained.run.recipe.torch_device()
    model = model.to(device)
    _train(model, data.train_inputs[rows].to(device), data.train_labels[rows].to(device), rate=2e-3)
    return model.eval()


def with_anchors(model: GraphClassifier) -> Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]:
    """Return (anchor inputs, labels) to the classifier that leans on them, with gradient in both.

    The model's own anchors are not encoded again.
    """

    def make(inputs: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        own = inputs is model.anchor_inputs

        def predict(queries: Tensor) -> Tensor:
            encoded = model.anchor_features() if own else model.backbone(inputs)
            features = torch.cat([encoded, model.backbone(queries)])
            unknown = labels.new_full((len(queries),), -1)
            beside = torch.cat([inputs, queries]) if model.head.input_edges else None
            logits = model.head(features, torch.cat([labels, unknown]), inputs=beside)
            return logits[len(inputs) :]

        return predict

    return make


def draw_anchors(trained: Trained) -> Callable[[Generator], nn.Module]:
    """Return what draws another model: as many anchors, chosen anew among the labelled samples."""
    model, data, split = trained.model, trained.data, trained.split
    assert isinstance(model, GraphClassifier)
    labels = data.train_labels[split.labelled]
    known = model.anchor_labels[model.anchor_labels >= 0]
    per_class = max(1, int(known.bincount().max()) // 2)  # half: few runs have labels to spare

    def draw(generator: Generator) -> nn.Module:
        rows = split.labelled[choose_anchors(labels, per_class, generator=generator)]
        inputs, classes = (
            part[rows].to(model.anchor_inputs.device)
            for part in (data.train_inputs, data.train_labels)
        )
        return GraphClassifier(model.backbone, model.head, inputs, classes).eval()

    return draw


def _some_labelled(trained: Trained) -> Tensor:
    rows = trained.split.labelled
    order = torch.randperm(len(rows), generator=Generator().manual_seed(trained.run.recipe.seed))
    return rows[order[:_SEEN]]


def _train(
    model: nn.Module, inputs: Float[Tensor, "n *shape"], labels: Tensor, *, rate: float
) -> None:
    """Train by Adam, whose rate falls to zero in a line."""
    generator = Generator().manual_seed(0)
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.01, _STEPS)
    with torch.enable_grad():
        for _ in range(_STEPS):
            rows = torch.randint(len(labels), (min(_BATCH, len(labels)),), generator=generator)
            loss = F.cross_entropy(model(inputs[rows]), labels[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()

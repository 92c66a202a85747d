"""What `weft attack` runs: which attacks, under which threat models, with which budgets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from weft.heads import GraphClassifier
from weft.lab import _surrogates
from weft.lab._attack_settings import AttackSettings
from weft.lab._trained import Trained
from weft.robustness import (
    APGD,
    FGSM,
    PGD,
    AutoAttack,
    IndependentRows,
    JointBatch,
    LInf,
    Method,
    ModelSpace,
    NeighboursOnly,
    PoisonedAnchors,
    RandomCompany,
    Result,
    Search,
    Square,
    SwapIn,
    Threat,
    VictimOnly,
    attack,
    cross_entropy,
    dlr,
    margin,
    poison_labels,
)

_FLIPS = 20  # of anchors' labels
_FEW = 100  # images in the company of a victim, and where each step costs much


@dataclass(frozen=True, eq=False)
class Problem:
    """A model under attack and the images it is attacked on, on its device."""

    trained: Trained
    settings: AttackSettings
    index: Int[Tensor, " n"]
    inputs: Float[Tensor, "n *shape"]
    labels: Int[Tensor, " n"]

    @classmethod
    def of(cls, trained: Trained, settings: AttackSettings) -> "Problem":
        """Draw the images.

        Raises:
            ValueError: the data are not pixels in [0, 1], where radii would mean nothing.
        """
        low, high = trained.data.test_inputs.aminmax()
        if low < 0 or high > 1:
            raise ValueError(
                f"An attack needs inputs in [0, 1], got {low:g} to {high:g} in "
                f"{trained.data.name}: rescale the data, and train on those."
            )
        data, device = trained.data, trained.run.recipe.torch_device()
        order = torch.randperm(
            len(data.test_labels), generator=Generator().manual_seed(settings.seed)
        )
        index = order[: settings.images]
        inputs, labels = data.test_inputs[index].to(device), data.test_labels[index].to(device)
        return cls(trained, settings, index, inputs, labels)

    @property
    def model(self) -> nn.Module:
        """The model under attack."""
        return self.trained.model

    @property
    def graph(self) -> GraphClassifier | None:
        """The model, if its head is a graph."""
        return self.model if isinstance(self.model, GraphClassifier) else None

    @cached_property
    def twin(self) -> nn.Module:
        """A network of its own, trained on the run's labels."""
        return _surrogates.twin(self.trained)

    @cached_property
    def probe(self) -> nn.Module:
        """A softmax on the run's features."""
        return _surrogates.probe(self.trained)

    @property
    def size(self) -> int:
        """Images per batch."""
        return min(self.settings.batch or len(self.index), len(self.index))

    @property
    def parts(self) -> list[slice]:
        """The batches."""
        starts = range(0, len(self.index), self.size)
        return [slice(start, start + self.size) for start in starts]

    @property
    def threat(self) -> Threat:
        """Whole batches where a graph ties them, else each image by itself."""
        whole = self.size == len(self.index)
        return JointBatch() if self.graph and whole else self.in_batches(self.size)

    def in_batches(self, size: int) -> Threat:
        """Return the same with batches of another size."""
        return JointBatch(size) if self.graph else IndependentRows(size)

    def attack(
        self,
        epsilon: float,
        method: Method,
        threat: Threat | None = None,
        part: slice = slice(None),
    ) -> Result:
        """Attack some of the images."""
        return attack(
            self.model,
            self.inputs[part],
            self.labels[part],
            ball=LInf(epsilon),
            method=method,
            threat=threat or self.threat,
            generator=Generator().manual_seed(self.settings.seed),
        )


def methods(problem: Problem) -> list[Method]:
    """Return the attacks on whole batches: the published ones, adaptive ones, one without gradient.

    A model without a graph gets restarts in the place of surrogates.
    """
    settings, graph = problem.settings, problem.graph
    steps = settings.steps
    found: list[Method] = [FGSM(), PGD(steps, random_start=False, loss=cross_entropy)]
    if graph:  # first, since they often leave nothing for the others to do
        away = _surrogates.away_from_anchors(graph)
        found.append(Named("features", APGD(steps, 1, away, _surrogates.features_of(graph))))
        for name, other in (
            ("wide kernel", _surrogates.softer(graph, wide=True)),
            ("large tau", _surrogates.softer(graph, wide=False)),
            ("softmax twin", lambda inputs: problem.probe(inputs)),  # trained when first asked
        ):
            found.append(Named(name, APGD(steps, 1, margin, other)))
    found.append(APGD(steps, restarts=1 if graph else 4, loss=margin))
    found += [PGD(steps, loss=margin), APGD(steps, loss=cross_entropy)]
    if problem.trained.data.num_classes > 2:
        found.append(APGD(steps, loss=dlr))
    found.append(Square(settings.queries))
    if settings.autoattack:
        found.append(AutoAttack())
    return found


@dataclass(frozen=True)
class Named:
    """An attack along a surrogate, whose name says which."""

    name: str
    method: Method

    def __str__(self) -> str:
        return f"{self.method}".split(" (")[0] + f" ({self.name})"

    def __call__(self, search: Search) -> None:
        """Attack."""
        self.method(search)


def threats(problem: Problem) -> dict[str, Callable[[], Result]]:
    """Return the other threat models, each with an attack of its own, at the smallest radius."""
    settings, graph = problem.settings, problem.graph
    if not graph or not settings.victims:
        return {}
    size, victims = min(_FEW, len(problem.index)), settings.victims
    method = APGD(settings.steps)
    few = slice(0, size)
    make = _surrogates.with_anchors(graph)
    anchors = graph.anchor_inputs, graph.anchor_labels
    tenth = max(1, len(graph.anchor_labels) // 10)
    draw = _surrogates.draw_anchors(problem.trained)
    short = APGD(max(1, settings.steps // 2))
    plan: dict[str, tuple[Threat, Method, slice]] = {
        "victim": (VictimOnly(size, victims), method, slice(None)),
        "neighbours": (NeighboursOnly(size, victims), method, slice(None)),
        "swap": (SwapIn(min(25, size)), method, few),
        "mates": (RandomCompany(size, 3, 5, victims), short, slice(None)),
        "anchors": (RandomCompany(size, 3, 5, victims, draw), short, slice(None)),
        "average": (JointBatch(size), ModelSpace(short, 3), few),
        "least": (JointBatch(size), ModelSpace(short, 3, least=True), few),
        "poison": (PoisonedAnchors(make, *anchors, movable=tenth), short, few),
    }
    if problem.size < len(problem.index):
        plan["whole"] = (JointBatch(), method, slice(None))

    def run(threat: Threat, attacked_by: Method, part: slice) -> Callable[[], Result]:
        return lambda: problem.attack(settings.first, attacked_by, threat, part)

    return {name: run(*choice) for name, choice in plan.items()}


def flip_labels(problem: Problem) -> list[float]:
    """Return the accuracy on clean queries after 0, 1, ... flips of anchors' labels."""
    graph = problem.graph
    assert graph is not None
    flips = min(_FLIPS, int((graph.anchor_labels >= 0).sum()))
    found = poison_labels(
        _surrogates.with_anchors(graph),
        graph.anchor_inputs,
        graph.anchor_labels,
        problem.inputs[:_FEW],
        problem.labels[:_FEW],
        flips=flips,
        candidates=problem.settings.steps,
        generator=Generator().manual_seed(problem.settings.seed),
    )
    return list(found.accuracy)


def spread_of(inputs: Float[Tensor, "n *shape"]) -> float:
    """Return the standard deviation of all pixels: what the papers' units are divided by."""
    return inputs.std().item()

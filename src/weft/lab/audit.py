"""Find the labels of a run that are most likely wrong, and the examples that speak against them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from weft.graph import Cholesky, Graph, label_noise, leave_one_out, leave_one_out_weights
from weft.heads import GraphHead
from weft.lab._trained import Trained, encode, load_trained
from weft.lab.company import variation
from weft.lab.data import Split
from weft.lab.explain import Reason
from weft.lab.runs import Run, write_file

PART = 5000  # samples in one graph: it is factored densely
FIDELITY = 0.2  # of a label, as a share of the mean degree: see experiments/audit
NUM_REASONS = 5
DRAWS = 10


@dataclass(frozen=True)
class Doubt:
    """A label that the others speak against.

    Args:
        example: its row in the training part.
        label: the class it is labelled.
        suggested: the class that the others favour.
        noise: the weight of all that speaks for another class, from 0 to 1.
        support: the weight of what speaks for `label`.
        against: the heaviest labels of other classes.
    """

    example: int
    label: str
    suggested: str
    noise: float
    support: float
    against: list[Reason]


@dataclass(frozen=True)
class Company:
    """How far predictions of test samples depend on who is beside them: means over samples.

    Args:
        deviation: the root of the summed variances of the class probabilities.
        changed: the share of draws that do not predict the most frequent class.
        size: samples in a batch.
        draws: how often the mates were drawn.
    """

    deviation: float
    changed: float
    size: int
    draws: int


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        audited: how many labels were looked at.
        outweighed: how many have less weight for them than one other class has.
        doubts: the most doubtful labels, the worst first.
        company: of the run's predictions.
    """

    audited: int
    outweighed: int
    doubts: list[Doubt]
    company: Company

    def lines(self) -> list[str]:
        """Lay out as lines of text."""
        company = self.company
        lines = [
            f"labels {self.audited}  outweighed {self.outweighed}",
            f"batch mates drawn {company.draws} times, {company.size} a batch  "
            f"deviation {company.deviation:.4f}  other class {company.changed:.4f}",
        ]
        for doubt in self.doubts:
            against = ", ".join(
                f"{reason.weight:.3f} {reason.label} (example {reason.example})"
                for reason in doubt.against
            )
            lines.append(
                f"{doubt.noise:.4f}  example {doubt.example}  label {doubt.label}  "
                f"rather {doubt.suggested}  against: {against or 'nothing'}"
            )
        return lines


def audit(run: Run, most: int = 20, output: Path | None = None) -> Audit:
    """Leave out each label that the run has seen, and ask the others about it.

    All labels of the training, those it validated on included, and unlabelled training samples
    share a graph as the head builds it; for a softmax head, on its features. A label is not kept
    exactly but pulled to, so that each may be doubted by all. More than `PART` labels are audited
    in random parts of at most that many. Progress goes to stderr.

    Args:
        run: a trained run, with either head.
        most: how many labels to list.
        output: an HTML page to write, with pictures; it opens from disk and loads nothing else.

    Raises:
        ValueError: the run is not trained, `most` is not positive, or `output` is a directory or
            lies in none.
    """
    if most < 1:
        raise ValueError(f"`most` must be at least 1, got {most}: it is how many labels to list.")
    if output and (output.is_dir() or not output.parent.is_dir()):
        raise ValueError(
            f"`output` must be a file in a directory, got {output}: name one such as audit.html."
        )
    trained = load_trained(run)
    console = Console(stderr=True)
    live = console.is_terminal
    parts = list(_parts(trained.split, run.recipe.seed))
    counts: list[int] = []
    wrong, doubts = 0, []
    for labelled, others in track(
        parts, "leaving labels out", console=console, transient=True, disable=not live
    ):
        outweighed, found = _audit_part(trained, labelled, others, most)
        wrong += outweighed
        doubts = sorted([*doubts, *found], key=lambda doubt: -doubt.noise)[:most]
        counts.append(len(labelled))
        if not live:
            line = f"{run.path}  {sum(counts)} labels left out"
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    found = Audit(sum(counts), wrong, doubts, _company(trained))
    if output:
        from weft.lab._report.audit_page import render_audit

        page = render_audit(found, trained.data, path=str(run.path))
        write_file(output, page.encode())
    return found


def _parts(split: Split, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Share the labelled rows out among graphs; unlabelled ones fill each up to `PART`."""
    generator = torch.Generator().manual_seed(seed)
    labelled = torch.cat([split.labelled, split.valid])
    labelled = labelled[torch.randperm(len(labelled), generator=generator)]
    for part in labelled.tensor_split(math.ceil(len(labelled) / PART)):
        order = torch.randperm(len(split.unlabelled), generator=generator)
        yield part, split.unlabelled[order[: PART - len(part)]]


@torch.no_grad()
def _audit_part(
    trained: Trained, labelled: Tensor, others: Tensor, most: int
) -> tuple[int, list[Doubt]]:
    """Return how many labels another class outweighs, and the most doubtful ones."""
    data = trained.data
    rows = torch.cat([labelled, others])
    graph = _graph(trained, data.train_inputs[rows])
    classes = data.train_labels[labelled].to(graph.weights.device)
    labels = F.one_hot(classes, data.num_classes).to(graph.weights)
    labels = F.pad(labels, (0, 0, 0, len(others)))
    known = torch.arange(len(rows), device=labels.device) < len(labelled)
    settings: dict[str, Any] = {
        "fidelity": FIDELITY * graph.degrees().mean().item(),
        "solver": Cholesky(),
    }
    told = leave_one_out(graph, labels, known, **settings)[: len(labelled)]
    noise = label_noise(told, labels[: len(labelled)])
    support = told.gather(1, classes[:, None]).squeeze(1)
    rival, suggested = told.scatter(1, classes[:, None], -1.0).max(1)
    first = noise.sort(descending=True, stable=True).indices[:most]
    shares = leave_one_out_weights(graph, known, first, **settings)[:, : len(labelled)]
    shares = torch.where(classes == classes[first, None], 0.0, shares)  # of other classes only
    top = shares.topk(min(NUM_REASONS, len(labelled)), dim=1)
    names = data.class_names
    doubts = []
    for place, weights, nodes in zip(first.tolist(), *(x.tolist() for x in top), strict=True):
        against = [
            Reason(weight, names[classes[node]], int(labelled[node]))
            for weight, node in zip(weights, nodes, strict=True)
            if weight > 0
        ]
        doubts.append(
            Doubt(
                example=int(labelled[place]),
                label=names[classes[place]],
                suggested=names[suggested[place]],
                noise=noise[place].item(),
                support=support[place].item(),
                against=against,
            )
        )
    return int((rival > support).sum()), doubts


def _graph(trained: Trained, inputs: Float[Tensor, "n *shape"]) -> Graph:
    """Return the graph that the run's head builds, or would build if it were one."""
    model, recipe = trained.model, trained.run.recipe
    features = encode(model, inputs).double()
    head = model.get_submodule("head")
    if not isinstance(head, GraphHead):
        head = recipe.build_graph_head(trained.data.num_classes)
    return head.graph(features, inputs.to(features.device))


def _company(trained: Trained) -> Company:
    """Draw the mates of some test samples again and again: four batches at a time, for the cost."""
    recipe, inputs = trained.run.recipe, trained.data.test_inputs
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(recipe.seed))
    inputs = inputs[order[: 4 * recipe.batch_size]].to(recipe.torch_device())
    found = variation(trained.model, inputs, size=recipe.batch_size, draws=DRAWS, seed=recipe.seed)
    return Company(
        deviation=found.deviation.mean().item(),
        changed=found.changed.mean().item(),
        size=found.size,
        draws=found.draws,
    )

"""A trained run, ready to predict: its data and its best weights."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weft.lab._model import build_model, restore, serving_anchors
from weft.lab.data import Dataset, Split
from weft.lab.runs import CHECKPOINT, Run

_CHUNK = 512


@dataclass(frozen=True)
class Trained:
    """What `load_trained` finds: the data on the CPU, the model on its device."""

    run: Run
    data: Dataset
    split: Split
    model: nn.Module
    state: dict[str, Any]

    @property
    def examples(self) -> Int[Tensor, " a"]:
        """Rows of the training part: the labelled samples that a graph head leans on.

        In the order of the model's anchors; for a softmax head, those that a graph head of the
        same recipe would lean on.
        """
        rows = serving_anchors(self.run.recipe, self.data, self.split)
        return rows[torch.isin(rows, self.split.labelled)]


@torch.no_grad()
def encode(model: nn.Module, inputs: Float[Tensor, "n *shape"]) -> Float[Tensor, "n d"]:
    """Pass inputs through the backbone of a model in evaluation mode, in chunks."""
    device = next(model.parameters()).device
    backbone = model.get_submodule("backbone")
    return torch.cat([backbone(part.to(device)) for part in inputs.split(_CHUNK)])


def load_trained(run: Run) -> Trained:
    """Load a run with the weights of its best validation, or the last ones without validation.

    Raises:
        ValueError: the run has not finished an epoch.
    """
    state = run.load_checkpoint()
    if state is None or state["epoch"] == 0:
        raise ValueError(
            f"{run.path} must be a trained run, got one without {CHECKPOINT}: "
            f"train it with `weft train {run.path} --resume`."
        )
    if run.recipe.threads:
        torch.set_num_threads(run.recipe.threads)
    data, split = run.recipe.load_data()
    model = build_model(run.recipe, data, split)
    restore(model, state["best"]["model"] if state["best"] else state["model"])
    model.eval()
    return Trained(run, data, split, model, state)

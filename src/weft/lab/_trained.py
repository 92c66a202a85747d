"""A trained run, ready to predict: its data, its best weights, its labelled examples."""

from dataclasses import dataclass
from typing import Any

import torch

from weft.lab._contexts import Anchors, served_anchors
from weft.lab._model import Classifier
from weft.lab.data import Dataset, Split
from weft.lab.runs import CHECKPOINT, Run


@dataclass(frozen=True)
class Trained:
    """What `load_trained` finds: the data on the CPU, model and anchors on the device."""

    run: Run
    data: Dataset
    split: Split
    model: Classifier
    anchors: Anchors
    state: dict[str, Any]


def load_trained(run: Run) -> Trained:
    """Load a run with the weights of its best validation, or the last ones without validation.

    Raises:
        ValueError: the run has not finished an epoch.
    """
    state = run.load_checkpoint()
    if state is None:
        raise ValueError(
            f"{run.path} must be a trained run, got one without {CHECKPOINT}: "
            f"train it with `weft train {run.path} --resume`."
        )
    if run.recipe.threads:
        torch.set_num_threads(run.recipe.threads)
    data, split = run.recipe.load_data()
    model = run.recipe.build_model(data).to(run.recipe.torch_device())
    model.restore(state["best"]["model"] if state["best"] else state["model"])
    anchors = served_anchors(model, run.recipe, data.train_inputs, data.train_labels, split)
    return Trained(run, data, split, model, anchors, state)

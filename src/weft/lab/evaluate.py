"""Test a trained run in three contexts, each named in the results, and keep what it said.

A graph head's answer for one sample depends on the samples beside it: "whole" has all of them in
one graph, "batch" as many as a training batch, "query" one at a time. A softmax head looks at one
sample at a time: its three results are one.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.heads import Batches, GraphClassifier, Prediction, Queries, Whole, predict
from weft.lab._levels import level_accuracies
from weft.lab._reasons import WholeGraph
from weft.lab._trained import Trained, encode, load_trained
from weft.lab.measures import calibration_error
from weft.lab.runs import Run

MOST_STORED = 2000
NUM_REASONS = NUM_NEIGHBORS = 10
NUM_GAP = 100


def evaluate(run: Run) -> dict[str, Any]:
    """Test a run, and write `results.json` and `predictions.npz` into its directory.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: the run has not finished an epoch.
    """
    trained = load_trained(run)
    predictions = predict_in_contexts(trained)
    labels = trained.data.test_labels
    recipe = run.recipe
    results = {
        "data": recipe.data,
        "head": recipe.head,
        "labels": recipe.labels,
        "seed": recipe.seed,
        "num_test": len(labels),
        "contexts": {
            name: summarize(stated(prediction), labels) for name, prediction in predictions.items()
        },
        "context_free": not isinstance(trained.model, GraphClassifier),
        "levels": level_accuracies(recipe.levels, trained.model, trained.data),
        "query_gap": query_gap(trained),
        "classes": list(trained.data.class_names),
        "seconds_train": round(trained.state["seconds"], 3),
        "num_parameters": sum(weights.numel() for weights in trained.model.parameters()),
        "epochs": trained.state["epoch"],
        "finished": trained.state["finished"],
    }
    run.save_predictions(_arrays(trained, predictions["whole"]))
    run.save_results(results)
    return results


def predict_in_contexts(trained: Trained) -> dict[str, Prediction]:
    """Predict the test samples in every context."""
    model, recipe = trained.model, trained.run.recipe
    inputs = trained.data.test_inputs.to(recipe.torch_device())
    whole = predict(model, inputs, Whole())
    if not isinstance(model, GraphClassifier):
        return {"whole": whole, "batch": whole, "query": whole}
    # Test sets often come sorted by class, and batches of one class would be another context.
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(recipe.seed))
    shuffled = predict(model, inputs[order], Batches(recipe.batch_size))
    back = order.argsort()
    batch = Prediction(shuffled.probabilities[back], shuffled.abstention[back], shuffled.context)
    return {"whole": whole, "batch": batch, "query": predict(model, inputs, Queries())}


def query_gap(trained: Trained) -> dict[str, float] | None:
    """Compare the two forms of a single query on the first test samples.

    Returns:
        The mean and the largest difference of a probability between averaging the frozen values
        of the neighbours and solving with the query added. Both are zero where all anchors are
        labelled, and for heads that look at one sample at a time anyway. None where the head's
        equation has no exact form.
    """
    if isinstance(trained.model, GraphClassifier) and not trained.model.head.explains:
        return None
    inputs = trained.data.test_inputs[:NUM_GAP].to(trained.run.recipe.torch_device())
    frozen, exact = (
        stated(predict(trained.model, inputs, Queries(exact=exact))) for exact in (False, True)
    )
    gap = (frozen - exact).abs()
    return {"mean": gap.mean().item(), "max": gap.max().item()}


def stated(prediction: Prediction) -> Float[Tensor, "m c"]:
    """Return probabilities as the head states them, on the CPU: a row lacks its abstention."""
    kept = 1 - prediction.abstention.double()
    return (prediction.probabilities.double() * kept[:, None]).cpu()


def summarize(probabilities: Float[Tensor, "m c"], labels: Int[Tensor, " m"]) -> dict[str, float]:
    """Return accuracy, expected calibration error and mean abstention.

    Confidence is the probability as stated: a head that abstains by half is at most half sure.
    Calibration is measured in 15 bins of equal width.
    """
    right = (probabilities.argmax(dim=1) == labels).double()
    return {
        "accuracy": right.mean().item(),
        "ece": calibration_error(probabilities, labels),
        "abstention": (1 - probabilities.sum(dim=1)).mean().clamp(min=0).item(),
    }


def _arrays(trained: Trained, prediction: Prediction) -> dict[str, np.ndarray]:
    """Collect the arrays of `predictions.npz`: all test samples, or a random part of them."""
    data, model = trained.data, trained.model
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.test_labels), generator=generator)
    some = order[:MOST_STORED].sort().values
    features = encode(model, data.test_inputs)
    examples = trained.examples
    arrays = {
        "labels": data.test_labels[some],
        "probabilities": stated(prediction)[some].float(),
        "abstention": prediction.abstention.cpu()[some],
        "features": features.cpu()[some],
        "inputs": data.test_inputs[some],
        "index": some,
        "anchor_labels": data.train_labels[examples],
        "anchor_inputs": data.train_inputs[examples],
        "anchor_features": encode(model, data.train_inputs[examples]).cpu(),
    }
    if isinstance(model, GraphClassifier) and model.head.explains:
        whole = WholeGraph(model, features, data.test_inputs)
        weights = whole.reasons(some)
        top = weights.topk(min(NUM_REASONS, weights.shape[1]), dim=1)
        arrays |= {"reason_anchor": top.indices, "reason_weight": top.values}
        indices, strengths = whole.neighbors(some, NUM_NEIGHBORS)
        arrays |= {"neighbor_index": indices, "neighbor_weight": strengths}
    return {name: array.numpy() for name, array in arrays.items()}

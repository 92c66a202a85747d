"""Test a trained run in the three contexts of `weft.lab._contexts`, and keep what it said."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.lab._contexts import predict_alone, predict_in_batches, predict_together
from weft.lab._trained import Trained, load_trained
from weft.lab.runs import Run

MOST_STORED = 2000
NUM_BINS = 15


def evaluate(run: Run) -> dict[str, Any]:
    """Test a run, and write `results.json` and `predictions.npz` into its directory.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: the run has not finished an epoch.
    """
    trained = load_trained(run)
    features = trained.model.encode(trained.data.test_inputs)
    log_probs = predict_in_contexts(trained, features)
    labels = trained.data.test_labels
    recipe = run.recipe
    results = {
        "data": recipe.data,
        "head": recipe.head,
        "labels": recipe.labels,
        "seed": recipe.seed,
        "num_test": len(labels),
        "contexts": {name: summarize(some, labels) for name, some in log_probs.items()},
        "context_free": not trained.model.is_graph,
        "classes": list(trained.data.class_names),
        "seconds_train": round(trained.state["seconds"], 3),
        "num_parameters": sum(weights.numel() for weights in trained.model.parameters()),
        "epochs": trained.state["epoch"],
        "finished": trained.state["finished"],
    }
    run.save_predictions(_predictions(trained, features, log_probs["whole"]))
    run.save_results(results)
    return results


def predict_in_contexts(
    trained: Trained, features: Float[Tensor, "m d"]
) -> dict[str, Float[Tensor, "m c"]]:
    """Log-probabilities of the test samples in every context, on the CPU."""
    model, anchors, recipe = trained.model, trained.anchors, trained.run.recipe
    whole = predict_together(model, features, anchors).cpu()
    if not model.is_graph:  # looks at one sample at a time
        return {"whole": whole, "batch": whole, "query": whole}
    # Test sets often come sorted by class; batches of one class would be another context.
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(recipe.seed))
    order = order.to(features.device)
    batches = torch.empty_like(whole)
    batches[order.cpu()] = predict_in_batches(
        model, features[order], anchors, recipe.batch_size
    ).cpu()
    return {
        "whole": whole,
        "batch": batches,
        "query": predict_alone(model, features, anchors).cpu(),
    }


def summarize(log_probs: Float[Tensor, "m c"], labels: Int[Tensor, " m"]) -> dict[str, float]:
    """Accuracy, expected calibration error and mean abstention.

    The confidence of a prediction is its probability as stated, not divided by what was not
    abstained: a head that doubts should say so in both. Bins of equal width.
    """
    confidence, predicted = log_probs.exp().max(dim=1)
    right = (predicted == labels).double()
    bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    gaps = torch.zeros(NUM_BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, right - confidence.double())
    return {
        "accuracy": right.mean().item(),
        "ece": gaps.abs().sum().item() / len(labels),
        "abstention": abstention(log_probs).mean().item(),
    }


def abstention(log_probs: Float[Tensor, "m c"]) -> Float[Tensor, " m"]:
    """Return the mass of each prediction that reached no label."""
    return (1 - log_probs.double().exp().sum(dim=1)).clamp(min=0)


def _predictions(
    trained: Trained, features: Float[Tensor, "n d"], log_probs: Float[Tensor, "n c"]
) -> dict[str, np.ndarray]:
    """Collect the arrays of `predictions.npz`: context "whole", all samples or a random part."""
    data, anchors = trained.data, trained.anchors
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(len(features), generator=generator)[:MOST_STORED].sort().values
    arrays = {
        "labels": data.test_labels[some],
        "probabilities": log_probs[some].exp(),
        "abstention": abstention(log_probs[some]),
        "features": features.cpu()[some],
        "inputs": data.test_inputs[some],
        "index": some,
        "anchor_labels": anchors.labels.cpu(),
        "anchor_inputs": data.train_inputs[anchors.rows],
        "anchor_features": anchors.features.cpu(),
    }
    return {name: array.numpy() for name, array in arrays.items()}

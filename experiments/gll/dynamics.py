"""Accuracy after the first 24, 48 and 96 steps: graph head beside softmax, equal images per step.

    python experiments/gll/dynamics.py --seeds 0 1 2

Appends to dynamics.csv; what is there already is not trained again.
"""

import argparse
import csv
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from weft.heads import Batches, GraphClassifier, Queries, Whole, choose_anchors, predict
from weft.lab._model import build_model
from weft.lab.recipe import Recipe

CHECKED = (24, 48, 96)
IMAGES, PER_CLASS, NUM_TEST = 300, 10, 2000
TABLE = Path(__file__).with_suffix(".csv")
COLUMNS = ("data", "head", "seed", "step", "context", "accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion_mnist"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    done = {
        (row["data"], row["head"], int(row["seed"]))
        for row in (csv.DictReader(TABLE.open()) if TABLE.exists() else [])
    }
    for data in arguments.data:
        for seed in arguments.seeds:
            for head in ("softmax", "graph"):
                if (data, head, seed) not in done:
                    append(measure(data, head, seed))


def measure(name: str, head: str, seed: int) -> list[dict]:
    recipe = Recipe(data=name, head=head, backbone="cnn", features=64, seed=seed)  # pyright: ignore
    data, split = recipe.load_data()
    model = build_model(recipe, data, split)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = data.train_inputs, data.train_labels
    rows = []
    for step in range(1, max(CHECKED) + 1):
        model.train()
        batch = torch.randperm(len(labels), generator=generator)
        if isinstance(model, GraphClassifier):
            # Anchors from the first part of the permutation, queries from the rest.
            anchors = batch[choose_anchors(labels[batch[:5000]], PER_CLASS, generator=generator)]
            model.set_anchors(inputs[anchors], labels[anchors])
            batch = batch[5000 : 5000 + IMAGES - len(anchors)]
        else:
            batch = batch[:IMAGES]
        loss = cross_entropy(model(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in CHECKED:
            if isinstance(model, GraphClassifier):
                served = choose_anchors(labels, 100, generator=torch.Generator().manual_seed(seed))
                model.set_anchors(inputs[served], labels[served])
            for context in (Whole(), Batches(200), Queries()):
                said = predict(model, data.test_inputs[:NUM_TEST], context).probabilities
                right = (said.argmax(1) == data.test_labels[:NUM_TEST]).double().mean().item()
                rows.append(
                    dict(data=name, head=head, seed=seed, step=step, context=context.name)
                    | {"accuracy": round(right, 4)}
                )
                print(*rows[-1].values(), flush=True)
    return rows


def append(rows: list[dict]) -> None:
    new = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

"""The graph head inside a transformers Trainer: digits, evaluation, a saved model.

The Trainer wants a model that takes its columns by name and returns a loss and logits: one
small wrapper. Anchors are in the state: the saved model brings them back.

Run: pip install 'weft[interop,sklearn]', then python examples/hugging_face_trainer.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainingArguments

from weft.heads import GraphClassifier, GraphHead, choose_anchors


class Digits(nn.Module):
    """What the Trainer calls: columns in, loss and logits out."""

    def __init__(self, anchor_inputs: Tensor, anchor_labels: Tensor) -> None:
        super().__init__()
        backbone = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        head = GraphHead(10, k=10)
        self.model = GraphClassifier(backbone, head, anchor_inputs, anchor_labels)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and logits of a batch, which is one graph with the anchors."""
        logits = self.model(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def rows(inputs: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """Return a data set as the Trainer takes it."""
    return [{"inputs": row, "labels": label} for row, label in zip(inputs, labels, strict=True)]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Compare the largest logits with the labels."""
    return {"accuracy": (prediction.predictions.argmax(1) == prediction.label_ids).mean().item()}


def main(folder: str = "runs/hugging_face", epochs: int = 4) -> float:
    """Train, save, load, and return the accuracy on the held-out digits."""
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    held_out = torch.arange(len(labels)) % 4 == 0

    # An anchor in the batch would find itself, and its label, at distance zero: keep them apart.
    torch.manual_seed(0)
    anchors = choose_anchors(torch.where(held_out, -1, labels), per_class=10)
    rest = ~held_out
    rest[anchors] = False

    arguments = TrainingArguments(
        folder, num_train_epochs=epochs, learning_rate=2e-3, lr_scheduler_type="constant", seed=0,
        per_device_train_batch_size=128, per_device_eval_batch_size=450,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    model = Digits(inputs[anchors], labels[anchors])
    trainer = Trainer(model, arguments, train_dataset=rows(inputs[rest], labels[rest]))
    trainer.train()
    trainer.save_model()

    again = Digits(inputs[:1], labels[:1])
    again.load_state_dict(load_file(Path(folder, "model.safetensors")))
    test = rows(inputs[held_out], labels[held_out])
    return Trainer(again, arguments, compute_metrics=accuracy).evaluate(test)["eval_accuracy"]


if __name__ == "__main__":
    print(f"{main():.1%} of the held-out digits read right")

"""The graph head inside a Lightning Trainer: digits, validation, a checkpoint.

A `GraphClassifier` is a module from inputs to logits, so nothing in the LightningModule is
special. Anchors are in its state: the checkpoint brings them back.

Run: pip install 'weft[interop,sklearn]', then python examples/lightning_trainer.py
"""

import lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from weft.heads import GraphClassifier, GraphHead, choose_anchors


class Digits(lightning.LightningModule):
    """Classify digits by the graph of the batch and the anchors."""

    def __init__(self, anchor_inputs: Tensor, anchor_labels: Tensor) -> None:
        super().__init__()
        backbone = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        head = GraphHead(10, k=10)
        self.model = GraphClassifier(backbone, head, anchor_inputs, anchor_labels)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the loss of a batch."""
        inputs, labels = batch
        return F.cross_entropy(self.model(inputs), labels)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log the accuracy of a batch, which is one graph with the anchors."""
        inputs, labels = batch
        self.log("accuracy", (self.model(inputs).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def main(folder: str = "runs/lightning", epochs: int = 4) -> float:
    """Train, write a checkpoint, read it back, and return the accuracy on the validation set."""
    lightning.seed_everything(0, verbose=False)
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    held_out = torch.arange(len(labels)) % 4 == 0

    # An anchor in the batch would find itself, and its label, at distance zero: keep them apart.
    anchors = choose_anchors(torch.where(held_out, -1, labels), per_class=10)
    rest = ~held_out
    rest[anchors] = False
    train = DataLoader(TensorDataset(inputs[rest], labels[rest]), 128, shuffle=True)
    valid = DataLoader(TensorDataset(inputs[held_out], labels[held_out]), 450)

    module = Digits(inputs[anchors], labels[anchors])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **quiet
    )
    trainer.fit(module, train, valid)
    checkpoint = trainer.checkpoint_callback.best_model_path
    again = Digits.load_from_checkpoint(
        checkpoint, anchor_inputs=inputs[:1], anchor_labels=labels[:1]
    )
    return trainer.validate(again, valid, verbose=False)[0]["accuracy"]


if __name__ == "__main__":
    print(f"{main():.1%} of the validation digits read right")

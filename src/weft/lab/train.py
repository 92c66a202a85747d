"""Train what a recipe describes, so that whatever moment it dies at, an epoch is all that is lost.

Plain PyTorch: devices and mixed precision take about ten lines here, while Lightning would take
8 s and 426 MB to import. The state after an epoch (weights, optimizer, schedule, generators) goes
into one checkpoint; going on from it gives the numbers that never stopping would have given.
"""

import math
import time
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, nll_loss

from weft.heads import Batches, GraphClassifier, predict
from weft.lab._batches import Batch, Sampler
from weft.lab._model import build_model, restore
from weft.lab._progress import TrainingProgress
from weft.lab.data import Dataset, Split
from weft.lab.pretrain import pretrain
from weft.lab.recipe import Recipe
from weft.lab.runs import Run


class Trainer:
    """One training run in progress.

    Args:
        recipe: what to train.
        data: what to train on.
        split: which labels training may see.
    """

    def __init__(self, recipe: Recipe, data: Dataset, split: Split) -> None:
        torch.manual_seed(recipe.seed)  # weights, dropout
        self.recipe, self.split = recipe, split
        self.device = recipe.torch_device()
        self.generator = torch.Generator().manual_seed(recipe.seed)  # order, anchors, augmentation
        self.inputs = data.train_inputs.to(self.device)
        self.labels = data.train_labels.to(self.device)
        self.sampler = Sampler(recipe, data.train_labels, split, self.generator)
        self.model = build_model(recipe, data, split)
        if isinstance(self.model, GraphClassifier):
            self._serving = self.model.anchor_inputs, self.model.anchor_labels
        self.augment = recipe.build_augmentation(data)
        self.perturb = recipe.build_perturbation(self.labels[split.labelled], data.num_classes)
        backbone = self.model.get_submodule("backbone")
        self.isometry = recipe.build_isometry(backbone, self.generator)
        self.ranking = recipe.build_ranking(backbone)
        self.levels = recipe.build_levels(self.model, data, self.generator)
        self.stability = recipe.build_stability(self.model, data, self.generator)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=recipe.learning_rate,
            total_steps=recipe.epochs * self.sampler.steps,
            cycle_momentum=False,
        )
        self.epoch = 0
        self.seconds = 0.0
        self.best: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or validation stopped getting better."""
        patience = self.recipe.patience
        tired = patience and self.best and self.epoch - self.best["epoch"] >= patience
        return bool(tired) or self.epoch >= self.recipe.epochs

    def pretrain(self, progress: TrainingProgress) -> None:
        """Train the backbone on views of all samples but those held out; no label is read."""
        began = time.monotonic()
        seen = torch.cat([self.split.labelled, self.split.unlabelled]).sort().values
        pretrain(
            self.model.get_submodule("backbone"),
            self.inputs[seen],
            self.augment,
            self.generator,
            steps=self.recipe.pretrain,
            neighbors=self.recipe.pretrain_neighbors,
            on_step=progress.pretrain_step,
        )
        self.seconds += time.monotonic() - began

    def run_epoch(self, progress: TrainingProgress) -> list[dict[str, Any]]:
        """Train one epoch and validate; returns the lines for the metrics."""
        began = time.monotonic()
        self.model.train()
        number = self.epoch + 1
        loss_sum, num_right, num_asked = 0.0, 0, 0
        for step, batch in enumerate(self.sampler.epoch()):
            loss, right = self._step(batch, f"epoch {number}, step {step + 1}")
            loss_sum += loss * len(batch.queries)
            num_right += right
            num_asked += len(batch.queries)
            progress.step(samples=len(batch.queries), loss=loss)
        if not num_asked:
            raise ValueError(
                f"An epoch must ask about a sample, got anchors only in epoch {number}: "
                f"raise `batch_size` (now {self.recipe.batch_size})."
            )
        if isinstance(self.model, GraphClassifier):
            self.model.set_anchors(*self._serving)
        self.epoch = number
        place = {"epoch": number, "step": number * self.sampler.steps}
        averages = {"loss": loss_sum / num_asked, "accuracy": num_right / num_asked}
        lines = [place | {"split": "train"} | averages]
        if len(self.split.valid):
            lines.append(place | {"split": "valid"} | self._validate())
            self._keep_best(lines[-1])
        self.seconds += time.monotonic() - began
        progress.epoch(number, lines[-1])
        return lines

    def _step(self, batch: Batch, place: str) -> tuple[float, int]:
        labels = self.labels[batch.queries]
        try:
            logits, inputs = self._forward(batch)
            loss = cross_entropy(self.perturb(logits, labels), labels)
            known = self._known(batch)
            loss = loss + self.isometry(known) + self.ranking(known)
            # The last: they call the backbone, or its blocks, again.
            loss = loss + self.stability(inputs) + self.levels(inputs, known)
        except ValueError as error:
            raise ValueError(f"Training stopped in {place}. {error}") from error
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(
                f"Training stopped in {place}. The loss must stay finite, got {value}: lower "
                f"`learning_rate` (now {self.recipe.learning_rate:g}) or rescale the inputs."
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        log_probs = logits.detach().log_softmax(1)  # as predicted: reports are not perturbed
        self.sampler.record(batch.queries, log_probs.cpu())
        return nll_loss(log_probs, labels).item(), int((log_probs.argmax(1) == labels).sum())

    def _forward(self, batch: Batch) -> tuple[Float[Tensor, "q c"], Float[Tensor, "n *shape"]]:
        """Return the logits of a batch's queries, and what the model was called with."""
        if isinstance(self.model, GraphClassifier):
            self.model.set_anchors(self._changed(batch.anchors), self.labels[batch.anchors])
        inputs = self._changed(torch.cat([batch.queries, batch.unlabelled]))
        return self.model(inputs)[: len(batch.queries)], inputs

    def _known(self, batch: Batch) -> Int[Tensor, " n"]:
        """Return the labels of all rows that the backbone sees, -1 for the unlabelled."""
        unknown = self.labels.new_full((len(batch.unlabelled),), -1)
        return torch.cat([self.labels[batch.anchors], self.labels[batch.queries], unknown])

    def _changed(self, rows: Int[Tensor, " n"]) -> Float[Tensor, "n *shape"]:
        return self.augment(self.inputs[rows], self.generator)

    def _validate(self) -> dict[str, float]:
        rows = self.split.valid
        context = Batches(self.recipe.batch_size)
        probabilities = predict(self.model, self.inputs[rows], context).probabilities
        right = self.labels[rows]
        return {
            "loss": nll_loss(probabilities.clamp_min(1e-12).log(), right).item(),
            "accuracy": (probabilities.argmax(1) == right).float().mean().item(),
        }

    def _keep_best(self, valid: dict[str, Any]) -> None:
        # Small validation splits tie in accuracy, so the loss decides between equals.
        score = [valid["accuracy"], -valid["loss"]]
        if self.best is None or score > self.best["score"]:
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"epoch": self.epoch, "score": score, "model": weights}

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        cuda = self.device.type == "cuda"
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "finished": self.finished,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "sampler": self.sampler.state_dict(),
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if cuda else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the end of an epoch."""
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.best = state["best"]
        restore(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.sampler.load_state_dict(state["sampler"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)


def train(run: Run) -> dict[str, Any]:
    """Train a run to its end, from its last checkpoint if it has one.

    Returns:
        How it ended: epochs, seconds, and the loss and accuracy of the last epoch, or of the
        best one where there is validation.

    Raises:
        ValueError: the data do not fit the recipe, or the loss stopped being finite.
    """
    recipe = run.recipe
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    trainer = Trainer(recipe, *recipe.load_data())
    state = run.load_checkpoint()
    if state:
        trainer.load_state_dict(state)
    run.rewind_metrics(trainer.epoch)
    progress = TrainingProgress(
        run.path.name,
        epochs=recipe.epochs,
        steps=trainer.sampler.steps,
        pretrain=recipe.pretrain,
        start=trainer.epoch,
    )
    with progress:
        if recipe.pretrain and not state:
            trainer.pretrain(progress)
            run.save_checkpoint(trainer.state_dict())
        while not trainer.finished:
            lines = trainer.run_epoch(progress)
            # The metrics first: lines after the checkpoint's epoch are dropped when going on.
            run.append_metrics(lines)
            run.save_checkpoint(trainer.state_dict())
    used = trainer.best["epoch"] if trainer.best else trainer.epoch
    last = [line for line in run.metrics() if line["epoch"] == used][-1]
    return {
        "epochs": trainer.epoch,
        "seconds": round(trainer.seconds, 3),
        "best_epoch": used,
        f"{last['split']}_loss": last["loss"],
        f"{last['split']}_accuracy": last["accuracy"],
    }

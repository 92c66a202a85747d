"""Show training as it goes, on stderr: a live bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0


class TrainingProgress:
    """Rate, loss, validation accuracy and time left of one training run.

    Args:
        name: what is being trained.
        epochs: epochs in all.
        steps: steps per epoch.
        pretrain: steps before the first epoch.
        start: epochs already done, by the run that this one continues.
    """

    def __init__(
        self, name: str, *, epochs: int, steps: int, pretrain: int = 0, start: int = 0
    ) -> None:
        self._name, self._epochs, self._epoch = name, epochs, start
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(
            name,
            total=pretrain + epochs * steps,
            completed=pretrain + start * steps if start else 0,
            epoch=start,
            epochs=epochs,
            facts="",
        )
        self._samples = 0
        self._valid = ""
        self._loss = float("nan")
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def pretrain_step(self, samples: int, loss: float) -> None:
        """Count one step of pretraining."""
        self._samples += samples
        self._loss = loss
        self._bar.update(self._task, advance=1, facts=f"pretraining  {self._facts()}")

    def step(self, *, samples: int, loss: float) -> None:
        """Count one training step."""
        self._samples += samples
        self._loss = loss
        self._bar.update(self._task, advance=1, facts=self._facts(), epoch=self._epoch + 1)

    def epoch(self, number: int, metrics: dict[str, Any]) -> None:
        """Finish an epoch, given its last line of metrics."""
        self._epoch = number
        if metrics["split"] == "valid":
            self._valid = f"  valid {metrics['accuracy']:.1%}"
        self._bar.update(self._task, facts=self._facts())
        now = time.monotonic()
        due = now - self._last_line > _SECONDS_BETWEEN_LINES or number == self._epochs
        if self._bar.disable and due:
            self._last_line = now
            line = f"{self._name}  epoch {number}/{self._epochs}  {self._facts()}"
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _facts(self) -> str:
        rate = self._samples / max(time.monotonic() - self._began, 1e-9)
        return f"loss {self._loss:.4f}{self._valid}  {rate:,.0f} samples/s"

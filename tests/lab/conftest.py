"""What the tests of the lab share: a training that is interrupted."""

from collections.abc import Callable

import pytest

from weft.lab.runs import Run
from weft.lab.train import Trainer, train


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Train a run for one epoch, and stop it in the second as Ctrl-C does."""

    def run(stopped: Run) -> None:
        once = Trainer.run_epoch

        def stop(trainer, progress):
            if trainer.epoch == 1:
                raise KeyboardInterrupt
            return once(trainer, progress)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "run_epoch", stop)
            with pytest.raises(KeyboardInterrupt):
                train(stopped)

    return run

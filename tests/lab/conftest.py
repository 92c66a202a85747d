"""What the tests of the lab share: a training that is interrupted, and goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import Trainer, train


@pytest.fixture
def whole_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Recipe], tuple[Run, Run]]:
    """Train a recipe in one go; and again, stopped in the second epoch as by Ctrl-C, then on."""

    def run(recipe: Recipe) -> tuple[Run, Run]:
        whole, stopped = (Run.create(tmp_path / name, recipe) for name in ("whole", "stopped"))
        train(whole)
        once = Trainer.run_epoch

        def stop(trainer, progress):
            if trainer.epoch == 1:
                raise KeyboardInterrupt
            return once(trainer, progress)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "run_epoch", stop)
            with pytest.raises(KeyboardInterrupt):
                train(stopped)
        train(stopped)
        return whole, stopped

    return run

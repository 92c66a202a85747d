"""The standard ensemble, from the package of its authors; replayed like everything else."""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.robustness._ball import L2, LInf
from weft.robustness._search import Search


@dataclass(frozen=True)
class AutoAttack:
    """APGD on the cross-entropy, targeted APGD, targeted FAB and Square: the usual reference.

    The package hands later attacks only the rows that are still right. For independent rows that
    is a saving; rows that depend on each other are then attacked in a company that nobody
    deploys, and the package's own number claims too much. Here its answer is one candidate
    batch, judged as a whole.

    Args:
        version: "standard", or "rand" for models that answer at random.
        batch_size: rows per forward pass.

    Raises:
        ImportError: the package is missing: `pip install 'weft[attacks]'`.

    Source: Croce, Hein, ICML 2020; package pyautoattack.
    """

    version: str = "standard"
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.version not in ("standard", "rand"):
            raise ValueError(f'`version` must be "standard" or "rand", got "{self.version}".')

    def __str__(self) -> str:
        return f"AutoAttack ({self.version})"

    def __call__(self, search: Search) -> None:
        """Run the package, and offer what it returns."""
        library = _library()
        ball, clean, labels = search.ball, search.clean, search.scene.labels
        if not isinstance(ball, LInf | L2):
            raise ValueError(f"`ball` must be LInf or L2 for AutoAttack, got {ball}.")
        if len(clean) != len(labels):
            raise ValueError(
                f"AutoAttack must move the rows that count, got {len(clean)} moving and "
                f"{len(labels)} counted: attack the company with APGD()."
            )
        # The package reads images of four axes, and computes in single precision.
        images = (clean if clean.ndim == 4 else clean.flatten(1)[:, None, None]).float()

        def predict(rows: Tensor) -> Tensor:
            points = rows.reshape(-1, *clean.shape[1:]).to(clean)
            return search.scene.craft(search.predict, points)[0].to(rows)

        with torch.no_grad():
            classes = predict(images).shape[1]
        if classes < 4:
            raise ValueError(
                f"AutoAttack must have 4 classes or more for its targeted losses, got {classes}: "
                "use APGD(loss=cross_entropy), APGD(loss=margin) and Square()."
            )
        tracer = sys.gettrace()  # its checks set a tracer of their own and leave none
        devices = [clean.device] if clean.is_cuda else []
        with torch.random.fork_rng(devices):
            seed = int(torch.randint(2**31, (), generator=search.generator))
            suite = library(
                predict,
                norm="Linf" if isinstance(ball, LInf) else "L2",
                eps=ball.epsilon,
                seed=seed,
                version=self.version,
                device=clean.device,
            )
            suite.apgd_targeted.n_target_classes = min(9, classes - 1)
            suite.fab.n_target_classes = min(9, classes - 1)
            found, _ = suite.run_standard_evaluation(images, labels, batch_size=self.batch_size)
            sys.settrace(tracer)
        # Its rounding may leave the ball by a unit in the last place.
        search.offer(search.project(found.reshape(clean.shape).to(clean)))


def _library() -> Any:
    try:
        from pyautoattack import AutoAttack as Library
    except ImportError as error:
        raise ImportError(
            "AutoAttack needs the package pyautoattack, which is not installed: "
            "run pip install 'weft[attacks]', or use APGD() and Square(), which need nothing."
        ) from error
    return Library

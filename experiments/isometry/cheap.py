"""What fewer pairs, and isometry in every second or fourth step alone, cost in quality.

    python experiments/isometry/cheap.py --seeds 5

Digits, stress at weight 10: all pairs within classes in batches of 100, k pairs per image, and k
pairs per image in every second or fourth step at as many times the weight. Rows are added to
cheap.csv.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path

import torch
from ledger import Ledger
from robust import geometry
from setting import CE, Loss, Method, load, train
from torch import Generator, Tensor, nn

from weft.isometry import EveryFew, WithinClass, isometry_loss

LEDGER = Ledger(Path(__file__).with_name("cheap.csv"))


def sampled(per_sample: int | None, every: int) -> Loss:
    """Return the isometry loss, times its weight."""
    weight, step = EveryFew(10.0, every), itertools.count()

    def term(model: nn.Sequential, inputs: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        now = weight(next(step))
        if not now:
            return inputs.new_zeros(())
        pairs, features = WithinClass(per_sample), model.body(inputs)
        return now * isometry_loss(inputs, features, labels, pairs=pairs, generator=generator)

    return term


def measure(per_sample: int | None, every: int, seed: int) -> dict[str, float]:
    """Train and look at distances."""
    model = train(Method((CE, (1.0, sampled(per_sample, every)))), "digits", seed)
    task = load("digits", seed)
    with torch.no_grad():
        right = model(task.test_inputs).argmax(1) == task.test_labels
    return {"clean": 100 * right.double().mean().item()} | geometry(model, task)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    torch.set_num_threads(1)
    chosen = {"all pairs, every step": partial(measure, None, 1)}
    for every, when in ((1, "every step"), (2, "every second step"), (4, "every fourth step")):
        chosen |= {f"{k} per image, {when}": partial(measure, k, every) for k in (1, 2, 4)}
    LEDGER.run("digits", chosen, range(parser.parse_args().seeds))
    print(LEDGER.table("digits", ["clean", "Pearson", "stress", "between / within"]))


if __name__ == "__main__":
    main()

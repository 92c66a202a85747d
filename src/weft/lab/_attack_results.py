"""One table of all that the attacks on a run found."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from weft.lab._attack_jobs import Jobs
from weft.lab._suite import Problem, spread_of
from weft.robustness import worst_case


def gather(
    problem: Problem, suite: Sequence[str], others: Sequence[str], jobs: Jobs
) -> dict[str, Any]:
    """Put what the jobs found into one table, plain values only."""
    settings, data = problem.settings, problem.trained.data
    unit = spread_of(data.train_inputs)
    curve = []
    for epsilon in settings.epsilons:
        table = [
            [jobs.result(f"curve-{epsilon:g}-{part}-{number}") for number in range(len(suite))]
            for part in range(len(problem.parts))
        ]
        worst = [worst_case([result for result in part if result]) for part in table]
        sizes = [len(problem.labels[part]) for part in problem.parts]

        def mean(values: Sequence[float], sizes: Sequence[int] = sizes) -> float:
            return float(np.average(values, weights=sizes))

        rows = []
        for name, *found in zip(suite, *table, strict=True):
            run = [result for result in found if result]
            whole = len(run) == len(found)  # not so where another left nothing right in a batch
            rows.append(
                {
                    "method": name,
                    "accuracy": mean([one.replayed_accuracy for one in run]) if whole else None,
                    "claimed": mean([one.claimed_accuracy for one in run]) if whole else None,
                }
            )
        curve.append(
            {
                "epsilon": epsilon,
                "normalised": epsilon / unit if unit else None,
                "worst": mean([one.accuracy for one in worst]),
                "union": mean([one.union for one in worst]),
                "clean": mean([one.clean_accuracy for one in worst]),
                "methods": rows,
            }
        )
    masking = [jobs.record(f"masking-{loss}") for loss in ("cross_entropy", "margin")]
    other_threats = []
    for name in others:
        found = jobs.result(f"threat-{name}")
        assert found is not None  # only attacks on a curve are left out
        other_threats.append(
            {
                "threat": found.threat,
                "method": found.method,
                "epsilon": settings.first,
                "images": len(found.rows),
                "clean": found.clean_accuracy,
                "claimed": found.claimed_accuracy,
                "accuracy": found.replayed_accuracy,
            }
        )
    own = suite_checks(curve)
    checks = [*own, *(check for one in masking for check in one["checks"])]
    return {
        "data": data.name,
        "classes": list(data.class_names),
        "head": problem.trained.run.recipe.head,
        "seed": problem.trained.run.recipe.seed,
        "checkpoint": problem.trained.run.fingerprint(),
        "settings": dataclasses.asdict(settings),
        "epsilons": list(settings.epsilons),
        "threat": str(problem.threat),
        "images": len(problem.index),
        "clean": curve[0]["clean"],
        "unit": unit,
        "curve": curve,
        "threats": other_threats,
        "flipped_labels": jobs.record("labels")["accuracy"] if others else None,
        "coupling": jobs.record("coupling"),
        "checks": own,
        "masking": masking,
        "passed": all(check["passed"] for check in checks),
        "calls": jobs.calls,
        "seconds": jobs.seconds,
    }


def suite_checks(curve: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask of the whole suite what is asked of one gradient.

    Two points of an accuracy are left to chance.
    """
    pairs = []
    for point in curve:
        run = [row for row in point["methods"] if row["accuracy"] is not None]
        asked = [row["accuracy"] for row in run if row["method"].startswith("Square")]
        led = [row["accuracy"] for row in run if not row["method"].startswith("Square")]
        if asked:
            pairs.append((point["epsilon"], min(asked), min(led)))
    worst = [point["worst"] for point in curve]
    words = [f"{asked:.1%} against {led:.1%} at {epsilon:g}" for epsilon, asked, led in pairs]
    return [
        {
            "name": "without gradient no attack finds more than all others",
            "passed": all(asked >= led - 0.02 for _, asked, led in pairs),
            "found": ", ".join(words) or "nothing was left for it",
        },
        {
            "name": "the worst case falls as epsilon grows",
            "passed": all(after <= before + 0.02 for before, after in pairwise(worst)),
            "found": ", ".join(f"{share:.1%}" for share in worst),
        },
    ]


def worst_images(problem: Problem, jobs: Jobs) -> dict[str, np.ndarray]:
    """Return the worst images at each radius, and what the model says of them in their batches."""
    adversarial = np.stack(
        [
            np.concatenate(
                [jobs.worst(f"{epsilon:g}-{part}") for part in range(len(problem.parts))]
            )
            for epsilon in problem.settings.epsilons
        ]
    )

    @torch.no_grad()
    def predicted(images: torch.Tensor) -> np.ndarray:
        logits = [problem.model(images[part].to(problem.inputs)) for part in problem.parts]
        return torch.cat(logits).argmax(1).cpu().numpy()

    return {
        "epsilons": np.array(problem.settings.epsilons),
        "index": problem.index.numpy(),
        "labels": problem.labels.cpu().numpy(),
        "clean": problem.inputs.cpu().numpy(),
        "adversarial": adversarial,
        "predicted_clean": predicted(problem.inputs),
        "predicted": np.stack([predicted(torch.from_numpy(images)) for images in adversarial]),
    }

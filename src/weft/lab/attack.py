"""Attack a trained run, honestly: whole batches, named threat models, checks of masking.

attack/settings.json     what was asked, and of which weights
attack/parts/            one file per finished attack; what a killed command had done stays done
attack/results.json      accuracies, checks, the landscape
attack/adversarial.npz   the worst images found at each radius, and what they were
attack/curve.png         accuracy against epsilon
attack/examples.png      clean, perturbed and difference
"""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

from weft.lab._attack_jobs import Jobs
from weft.lab._attack_results import gather, worst_images
from weft.lab._attack_settings import AttackSettings
from weft.lab._suite import Problem, flip_labels, methods, threats
from weft.lab._trained import load_trained
from weft.lab.runs import ATTACK, Run, write_file
from weft.robustness import (
    Loss,
    Method,
    Relay,
    Result,
    check_masking,
    coupling,
    cross_entropy,
    margin,
)

__all__ = ["AttackSettings", "attack", "lines"]

SETTINGS, RESULTS = "settings.json", "results.json"
ADVERSARIAL, CURVE, EXAMPLES = "adversarial.npz", "curve.png", "examples.png"
_SHOWN_ROWS = 8  # of the landscape
_CHECKED = 150  # images that masking is looked at on


def attack(
    run: Run, settings: AttackSettings | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Run the suite on a trained run, and keep all of it in the run's folder `attack`.

    An attack that was stopped goes on where it was. Progress goes to stderr.

    Args:
        run: a trained run on data in [0, 1].
        settings: radii, images and budgets.
        overwrite: begin anew where an attack with other settings or on other weights lies.

    Returns:
        What `attack/results.json` holds. `passed` is false if a check failed: numbers are then
        upper bounds of the accuracy that an attacker leaves, and not tight.

    Raises:
        ValueError: the run is not trained, its inputs leave [0, 1], or an attack with other
            settings lies there.
    """
    settings = settings or AttackSettings()
    trained = load_trained(run)
    problem = Problem.of(trained, settings)
    folder = run.path / ATTACK
    _claim(run, folder, settings, overwrite=overwrite)
    suite, others = methods(problem), threats(problem)
    jobs = Jobs(folder, str(run.path))
    for part in range(len(problem.parts)):
        for epsilon in settings.epsilons:
            for number, method in enumerate(suite):
                jobs.add_attack(
                    f"curve-{epsilon:g}-{part}-{number}",
                    f"{method} at {epsilon:g}",
                    _on_part(problem, epsilon, method, part),
                    best=f"{epsilon:g}-{part}",
                )
            jobs.add_attack(
                f"curve-{epsilon:g}-{part}-{len(suite)}",
                f"relay at {epsilon:g}",
                _relay(problem, epsilon, part, jobs),
                best=f"{epsilon:g}-{part}",
            )
    for name, act in others.items():
        jobs.add_attack(f"threat-{name}", f"{name} at {settings.first:g}", act)
    if others:
        jobs.add("labels", "flipping labels", lambda: {"accuracy": flip_labels(problem)})
    for loss in (cross_entropy, margin):
        jobs.add(
            f"masking-{loss.__name__}",
            f"masking of the {loss.__name__}",
            lambda loss=loss: _masking(problem, loss),
        )
    jobs.add("coupling", "coupling", lambda: _coupling(problem))
    jobs.run()
    results = gather(problem, [*map(str, suite), "relay"], list(others), jobs)
    arrays = worst_images(problem, jobs)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    write_file(folder / ADVERSARIAL, buffer.getvalue())
    from weft.lab._attack_pictures import draw_curve, draw_examples

    write_file(folder / CURVE, draw_curve(results))
    write_file(folder / EXAMPLES, draw_examples(arrays, results["classes"]))
    write_file(folder / RESULTS, json.dumps(results, indent=1).encode() + b"\n")
    return results


def _on_part(problem: Problem, epsilon: float, method: Method, part: int) -> Callable[[], Result]:
    return lambda: problem.attack(epsilon, method, part=problem.parts[part])


def _relay(problem: Problem, epsilon: float, part: int, jobs: Jobs) -> Callable[[], Result]:
    """Climb on from where each image of a batch got furthest in any attack before."""

    def act() -> Result:
        starts = torch.from_numpy(jobs.furthest(f"{epsilon:g}-{part}"))
        method = Relay(starts.to(problem.inputs), 2 * problem.settings.steps)
        return problem.attack(epsilon, method, part=problem.parts[part])

    return act


def _claim(run: Run, folder: Path, settings: AttackSettings, *, overwrite: bool) -> None:
    """Make the folder this attack's own, or refuse."""
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    wanted["checkpoint"] = run.fingerprint()
    path = folder / SETTINGS
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found == wanted:
            return
        if not overwrite:
            changed = [name for name in wanted if found.get(name) != wanted[name]]
            raise ValueError(
                f"{folder} must hold this very attack or none, got one with another "
                f"{', '.join(changed)}: give the same flags, or begin anew with --overwrite."
            )
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    write_file(path, json.dumps(wanted, indent=1).encode() + b"\n")


def _masking(problem: Problem, loss: Loss) -> dict[str, Any]:
    settings, size = problem.settings, min(problem.size, _CHECKED)
    found = check_masking(
        problem.model,
        problem.inputs[:size],
        problem.labels[:size],
        epsilon=settings.first,
        threat=problem.in_batches(size),
        loss=loss,
        twin=problem.twin,
        steps=settings.steps,
        queries=settings.queries,
        generator=Generator().manual_seed(settings.seed),
    )
    lines = found.landscape
    return {
        "threat": found.threat,
        "epsilon": found.epsilon,
        "loss": found.loss,
        "checks": [dataclasses.asdict(check) for check in found.checks],
        "landscape": {
            "steps": lines.steps.tolist(),
            "along": lines.along[:, :_SHOWN_ROWS].tolist(),
            "along_mean": lines.along.mean(1).tolist(),
            "aside_mean": lines.aside.mean(1).tolist(),
        },
    }


def _coupling(problem: Problem) -> dict[str, Any]:
    found = coupling(problem.model, problem.inputs[: min(100, len(problem.index))])
    return dataclasses.asdict(found) | {"coupled": found.coupled}


def lines(results: dict[str, Any]) -> Iterator[str]:
    """Lay results out as lines of text: the worst case first, failed checks last."""
    yield (
        f"{results['images']} images  {results['threat']}  clean {results['clean']:.4f}  "
        f"{'coupled' if results['coupling']['coupled'] else 'not coupled'}"
    )
    for point in results["curve"]:
        yield (
            f"epsilon {point['epsilon']:g} (normalised {point['normalised']:.3f})  "
            f"worst {point['worst']:.4f}  union {point['union']:.4f}"
        )
        for row in point["methods"]:
            yield f"    {_share(row['accuracy'])}  {row['method']}"
    for other in results["threats"]:
        yield (
            f"epsilon {other['epsilon']:g}  {other['threat']}  {other['images']} images  "
            f"clean {other['clean']:.4f}  {other['accuracy']:.4f}  {other['method']}"
        )
    if results["flipped_labels"]:
        words = ", ".join(f"{accuracy:.4f}" for accuracy in results["flipped_labels"])
        yield f"labels of anchors flipped, 0, 1, ...: {words}"
    for check in results["checks"]:
        if not check["passed"]:
            yield f"FAILED  {check['name']}: {check['found']}"
    for one in results["masking"]:
        checks = one["checks"]
        wrong = [check for check in checks if not check["passed"]]
        yield (
            f"masking of the {one['loss']} at {one['epsilon']:g}: "
            f"{len(checks) - len(wrong)} of {len(checks)} checks passed"
        )
        for check in wrong:
            yield f"    FAILED  {check['name']}: {check['found']}"


def _share(value: float | None) -> str:
    """Show an accuracy; a dash where the attack was not needed, since nothing was left."""
    return "     -" if value is None else f"{value:.4f}"

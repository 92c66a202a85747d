"""Attacks on runs: numbers are replays, killed commands go on, failed checks are an exit code."""

import json
import shutil

import numpy as np
import pytest
import torch

from weft.lab import _suite
from weft.lab._trained import load_trained
from weft.lab.attack import AttackSettings, attack, lines
from weft.lab.evaluate import evaluate
from weft.lab.recipe import Recipe
from weft.lab.report import write_report
from weft.lab.runs import ATTACK, Run
from weft.lab.train import train

SETTINGS = AttackSettings("0.1,0.3", images=20, batch=12, steps=2, queries=4, victims=1)
FLAGS = ["--epsilon", "0.1,0.3", "--images", 20, "--batch", 12, "--steps", 2, "--queries", 4]
FLAGS += ["--victims", 1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained run per head."""
    made = {}
    for head in ("softmax", "graph"):
        recipe = Recipe(
            head=head, labels=200, backbone="mlp", epochs=3, steps=8, k=10, batch_size=40,
            anchors_served=10, threads=1,
        )  # fmt: skip
        made[head] = Run.create(tmp_path_factory.mktemp("runs") / head, recipe)
        train(made[head])
    return made


@pytest.fixture(scope="module")
def results(runs):
    return {head: attack(run, SETTINGS) for head, run in runs.items()}


def copied(run, folder):
    """The run without attacks on it."""
    path = shutil.copytree(run.path, folder / "copy", ignore=shutil.ignore_patterns(ATTACK))
    return Run.open(path)


@pytest.mark.parametrize("head", ["softmax", "graph"])
def test_the_accuracy_quoted_is_that_of_the_images_kept(runs, results, head):
    with np.load(runs[head].path / ATTACK / "adversarial.npz") as file:
        kept = dict(file)
    model = load_trained(runs[head]).model
    for number, point in enumerate(results[head]["curve"]):
        images = torch.from_numpy(kept["adversarial"][number])
        with torch.no_grad():
            found = torch.cat([model(part) for part in images.split(12)]).argmax(1).numpy()
        assert (found == kept["predicted"][number]).all()
        assert (found == kept["labels"]).mean() == pytest.approx(point["worst"])
        assert np.abs(kept["adversarial"][number] - kept["clean"]).max() <= point["epsilon"] + 1e-7
        assert images.min() >= 0
        assert images.max() <= 1
        assert point["union"] <= point["worst"]
        run = [row["accuracy"] for row in point["methods"] if row["accuracy"] is not None]
        assert point["worst"] <= min(run) + 1e-9
        assert len(run) == len(point["methods"]) or point["worst"] < 1  # left out: nothing to do
    clean = (kept["predicted_clean"] == kept["labels"]).mean()
    assert clean == pytest.approx(results[head]["clean"])
    test = load_trained(runs[head]).data
    assert (test.test_labels.numpy()[kept["index"]] == kept["labels"]).all()


def test_each_number_has_its_threat_model(results):
    graph, softmax = results["graph"], results["softmax"]
    assert graph["threat"] == "joint, batches of 12"
    assert softmax["threat"] == "independent rows"
    assert (graph["coupling"]["coupled"], softmax["coupling"]["coupled"]) == (True, False)
    words = " ".join(other["threat"] for other in graph["threats"])
    for name in ("victim only", "neighbours only", "swap-in", "random mates", "and anchors",
                 "whole set", "poisoned anchors"):  # fmt: skip
        assert name in words
    methods = " ".join(other["method"] for other in graph["threats"])
    assert "GMSA-AVG" in methods
    assert "GMSA-MIN" in methods
    assert len(graph["flipped_labels"]) == 21
    assert softmax["threats"] == []
    for point in graph["curve"]:
        assert point["normalised"] == pytest.approx(point["epsilon"] / graph["unit"])


def test_an_attack_that_was_stopped_goes_on_and_ends_with_the_same_numbers(
    runs, results, tmp_path, monkeypatch
):
    run = copied(runs["graph"], tmp_path)
    real, calls = _suite.Problem.attack, []

    def dying(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(_suite.Problem, "attack", dying)
    with pytest.raises(KeyboardInterrupt):
        attack(run, SETTINGS)
    assert len(list((run.path / ATTACK / "parts").glob("curve-*.npz"))) == 9
    calls += [1]  # so that the next call lives
    again = attack(run, SETTINGS)
    for name in ("curve", "threats", "flipped_labels", "passed", "calls"):
        assert again[name] == results["graph"][name], name
    for first, second in zip(again["masking"], results["graph"]["masking"], strict=True):
        assert first["checks"] == second["checks"]
    done = len(calls)
    attack(run, SETTINGS)
    assert len(calls) == done  # nothing is done twice


def test_other_settings_or_weights_are_refused_until_overwritten(runs, results, tmp_path):
    run = copied(runs["softmax"], tmp_path)
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    small = AttackSettings("0.2", images=8, batch=8, steps=1, queries=1)
    attack(run, small)
    other = AttackSettings("0.2", images=8, batch=8, steps=2, queries=1)
    with pytest.raises(ValueError, match="got one with another steps: give the same flags, or"):
        attack(run, other)
    run.save_checkpoint({**checkpoint, "seconds": 0.0})
    with pytest.raises(ValueError, match="got one with another checkpoint"):
        attack(run, small)
    assert attack(run, other, overwrite=True)["settings"]["steps"] == 2
    Run.create(run.path, run.recipe, overwrite=True)
    assert not (run.path / ATTACK).exists()


def test_the_command_prints_the_table_and_fails_with_its_checks(call, runs, results):
    path = runs["graph"].path
    code, out, err = call("attack", path, *FLAGS)
    assert code == (0 if results["graph"]["passed"] else 1)
    assert err == ""
    assert out.splitlines() == [str(path), *lines(results["graph"])]
    for word in ("worst", "union", "normalised", "victim only", "masking of the margin"):
        assert word in out
    code, out, _ = call("attack", path, *FLAGS, "--json")
    assert json.loads(out)["curve"] == results["graph"]["curve"]
    for name in ("curve.png", "examples.png"):
        assert (path / ATTACK / name).read_bytes().startswith(b"\x89PNG")


def test_a_failed_check_is_printed_and_makes_exit_code_1(call, runs, results):
    path = runs["softmax"].path
    kept = path / ATTACK / "parts" / "masking-margin.npz"
    with np.load(kept) as file:
        before = json.loads(str(file["record"]))
    record = json.loads(json.dumps(before))
    record["checks"][0] |= {"passed": False, "found": "planted"}
    np.savez(kept, record=np.array(json.dumps(record)))
    code, out, _ = call("attack", path, *FLAGS)
    np.savez(kept, record=np.array(json.dumps(before)))
    assert code == 1
    assert "FAILED  many steps do no worse than one: planted" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epsilon", "0.1;0.2"], "`epsilon` must be numbers with commas between them, got '0.1;"),
        (["--epsilon", "0,0.1"], "`epsilon` must lie in (0, 1], got 0,0.1: radii are in pixels."),
        (["--epsilon", "25"], "`epsilon` must lie in (0, 1], got 25"),
        (["--images", "1"], "`images` must be 2 or more, got 1."),
        (["--steps", "0"], "`steps` must be 1 or more, got 0."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(call, runs, flags, message):
    code, out, err = call("attack", runs["softmax"].path, *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_runs_that_cannot_be_attacked_are_named(call, tmp_path):
    code, _, err = call("attack", tmp_path)
    assert code == 2
    assert "must be a run directory" in err
    run = Run.create(tmp_path / "moons", Recipe(data="moons", labels=20, epochs=1, steps=1))
    code, _, err = call("attack", run.path)
    assert code == 2
    assert "must be a trained run" in err
    train(run)
    code, _, err = call("attack", run.path)
    assert code == 2
    assert "An attack needs inputs in [0, 1], got -" in err
    assert not (run.path / ATTACK).exists()


def test_progress_goes_to_stderr(call, runs, tmp_path):
    path = shutil.copytree(runs["softmax"].path, tmp_path / "copy")
    words = ["--epsilon", "0.2", "--images", 8, "--batch", 8, "--steps", 1, "--queries", 1]
    code, out, err = call("attack", path, *words, "--overwrite")
    assert code in (0, 1)
    assert "coupling" in err.splitlines()[-1]
    assert str(path) in err
    assert "coupling" not in out


def test_a_report_shows_attacks_and_the_checks_that_failed_first(runs, results, tmp_path):
    paths = [run.path for run in runs.values()]
    for run in runs.values():
        evaluate(run)
    planted = runs["graph"].path / ATTACK / "results.json"
    before = planted.read_text()
    table = json.loads(before)
    table["masking"][0]["checks"][0] |= {"passed": False, "found": "<planted>"}
    planted.write_text(json.dumps(table))
    page = write_report(paths, tmp_path / "report.html").read_text()
    again = write_report(paths, tmp_path / "again.html").read_text()
    planted.write_text(before)
    assert again == page
    before, section = page.split('<section id="robustness">')
    assert "of masking failed" in before
    assert "many steps do no worse than one (&lt;planted&gt;)" in section
    for word in ("worst case", "victim only", "GMSA-MIN", "random signs", "joint, batches of 12"):
        assert word in section
    number = f"{100 * results['graph']['curve'][0]['worst']:.1f}"
    assert f"<strong>{number}</strong>" in section


def test_a_report_leaves_out_an_attack_on_other_weights(runs, tmp_path):
    run = runs["softmax"]
    checkpoint = run.load_checkpoint()
    run.save_checkpoint({**checkpoint, "seconds": 0.0})
    page = write_report([run.path], tmp_path / "report.html").read_text()
    run.save_checkpoint(checkpoint)
    assert 'id="robustness"' not in page

import json

import numpy as np
import pytest
import torch

from weft.lab import runs
from weft.lab.recipe import Recipe
from weft.lab.runs import Run


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", Recipe(seed=7))


def line(epoch):
    return {"epoch": epoch, "split": "train", "loss": 0.1 * epoch}


def test_a_run_is_opened_with_the_recipe_it_was_made_from(run):
    assert Run.open(run.path) == run
    assert Run.open(run.path).recipe.seed == 7


def test_a_directory_without_a_recipe_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"must be a run directory, got one without recipe\.toml"):
        Run.open(tmp_path)


def test_a_run_is_never_replaced_by_accident(run):
    run.save_checkpoint({})
    with pytest.raises(ValueError, match="got a run already there: continue it with --resume"):
        Run.create(run.path, Recipe())
    assert Run.open(run.path) == run


def test_a_run_that_finished_no_epoch_makes_way(run):
    assert Run.create(run.path, Recipe(seed=8)).recipe.seed == 8


def test_overwriting_leaves_nothing_of_the_old_run_and_all_foreign_files(run):
    run.append_metrics([line(1)])
    run.save_checkpoint({})
    run.save_results({})
    run.save_predictions({"labels": np.zeros(1)})
    (run.path / "notes.txt").write_text("mine")
    Run.create(run.path, Recipe(seed=8), overwrite=True)
    assert sorted(file.name for file in run.path.iterdir()) == ["notes.txt", "recipe.toml"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="run must be a directory, got a file"):
        Run.create(tmp_path / "run", Recipe())


def test_metrics_grow_line_by_line(run):
    run.append_metrics([line(1)])
    run.append_metrics([line(2), line(3)])
    assert run.metrics() == [line(1), line(2), line(3)]


def test_rewinding_drops_later_epochs_and_a_torn_line(run):
    run.append_metrics([line(1), line(2), line(3)])
    with (run.path / runs.METRICS).open("a") as file:
        file.write('{"epoch": 2, "lo')
    run.rewind_metrics(2)
    assert run.metrics() == [line(1), line(2)]


def test_a_checkpoint_gives_back_its_tree(run):
    assert run.load_checkpoint() is None
    generator = torch.Generator().manual_seed(3)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "rng": generator.get_state(),
        "epoch": 4,
        "best": None,
        "scale": torch.tensor(0.1, dtype=torch.bfloat16),
        "rate": 0.1 + 0.2,
    }
    run.save_checkpoint(state)
    back = run.load_checkpoint()
    assert back is not None
    torch.testing.assert_close(back["optimizer"]["state"], state["optimizer"]["state"])
    torch.testing.assert_close(back["scale"], state["scale"])
    assert torch.equal(back["rng"], state["rng"])
    assert (back["epoch"], back["best"], back["rate"]) == (4, None, 0.1 + 0.2)
    optimizer.load_state_dict(back["optimizer"])


def test_a_checkpoint_of_something_else_is_refused_by_name(run):
    (run.path / runs.CHECKPOINT).write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(ValueError, match=r"safetensors must be a checkpoint written by weft"):
        run.load_checkpoint()


def test_a_write_that_dies_leaves_the_old_file(run, monkeypatch):
    run.save_results({"accuracy": 0.5})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        run.save_results({"accuracy": 0.6})
    assert run.results() == {"accuracy": 0.5}


def test_results_of_a_run_not_yet_evaluated_are_missed_by_name(run):
    with pytest.raises(ValueError, match=r"must be an evaluated run, .* `weft evaluate"):
        run.results()


def test_predictions_load_without_unpickling(run):
    run.save_predictions({"labels": np.arange(3), "probabilities": np.ones((3, 2))})
    with np.load(run.path / runs.PREDICTIONS, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["labels", "probabilities"]


def test_results_are_plain_json(run):
    run.save_results({"contexts": {"whole": {"accuracy": 1.0}}})
    text = (run.path / runs.RESULTS).read_text()
    assert json.loads(text) == run.results()

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from weft.lab import train as training
from weft.lab._batches import Sampler
from weft.lab._trained import load_trained
from weft.lab.data import split_labels
from weft.lab.recipe import Recipe
from weft.lab.runs import CHECKPOINT, METRICS, Run
from weft.lab.train import Trainer, train

TINY = {
    "data": "digits",
    "labels": 100,
    "backbone": "mlp",
    "epochs": 4,
    "steps": 3,
    "k": 10,
    "threads": 1,
    "augment": "digits",  # so that the generator's state matters
}
HEADS = {"softmax": {"head": "softmax"}, "graph": {"head": "graph", "unlabelled": 50}}


def make(path, **changes):
    return Run.create(path, Recipe(**TINY | changes))


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param]


def weights_of(run):
    state = run.load_checkpoint()
    assert state is not None
    return state["model"]


def test_training_lowers_the_loss_and_says_how_it_ended(tmp_path, head):
    run = make(tmp_path / "run", **head, epochs=6, steps=10)
    result = train(run)
    losses = [line["loss"] for line in run.metrics()]
    assert losses[-1] < 0.7 * losses[0]
    assert result["epochs"] == result["best_epoch"] == 6
    assert result["train_loss"] == losses[-1]


def test_pretraining_goes_before_the_first_epoch_and_is_not_done_twice(tmp_path, monkeypatch):
    whole, killed = (make(tmp_path / name, pretrain=5) for name in ("whole", "killed"))
    train(whole)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("weft.lab.train.Trainer.run_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            train(killed)
    with pytest.raises(ValueError, match="must be a trained run"):
        load_trained(killed)
    with monkeypatch.context() as patch:
        patch.setattr("weft.lab.train.Trainer.pretrain", die)
        train(killed)
    assert killed.metrics() == whole.metrics()
    plain = make(tmp_path / "plain")
    train(plain)
    assert plain.metrics() != whole.metrics()


def test_the_same_recipe_gives_the_same_numbers(tmp_path, head):
    first, second = (make(tmp_path / name, **head) for name in ("first", "second"))
    train(first)
    torch.rand(7)  # what happened to the global generator before does not matter
    train(second)
    assert first.metrics() == second.metrics()
    torch.testing.assert_close(weights_of(first), weights_of(second), rtol=0, atol=0)


def test_another_seed_gives_other_numbers(tmp_path):
    first, second = (make(tmp_path / str(seed), seed=seed, head="softmax") for seed in (1, 2))
    train(first)
    train(second)
    assert first.metrics() != second.metrics()


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a signal of POSIX")
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path):
    settings = HEADS["graph"] | {"epochs": 8, "valid_fraction": 0.3, "anchor_refresh": "random"}
    whole, killed = (make(tmp_path / name, **settings) for name in ("whole", "killed"))
    train(whole)

    command = [sys.executable, "-m", "weft", "train", str(killed.path), "--resume"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(_lines(killed.path / METRICS)) < 4:  # two epochs of two lines
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    state = killed.load_checkpoint()
    assert state is not None
    assert 0 < state["epoch"] < 8

    subprocess.run(command, check=True, capture_output=True)
    assert (killed.path / METRICS).read_bytes() == (whole.path / METRICS).read_bytes()
    torch.testing.assert_close(weights_of(killed), weights_of(whole), rtol=0, atol=0)


def _lines(path):
    return path.read_bytes().splitlines() if path.exists() else []


@pytest.mark.parametrize("moment", ["save_checkpoint", "append_metrics"])
def test_dying_between_two_files_loses_no_more_than_an_epoch(tmp_path, monkeypatch, moment):
    whole, died = (make(tmp_path / name, head="softmax") for name in ("whole", "died"))
    train(whole)
    save, calls = getattr(Run, moment), []

    def die_at_the_third(run, thing):
        calls.append(thing)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save(run, thing)

    with monkeypatch.context() as patch:
        patch.setattr(Run, moment, die_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(died)
    state = died.load_checkpoint()
    assert state is not None
    assert state["epoch"] == 2
    train(died)
    assert died.metrics() == whole.metrics()


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    run = make(tmp_path / "run", head="softmax")
    result = train(run)
    before = (run.path / METRICS).read_bytes(), (run.path / CHECKPOINT).read_bytes()
    assert train(run) == result
    assert ((run.path / METRICS).read_bytes(), (run.path / CHECKPOINT).read_bytes()) == before


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run = make(tmp_path / "run", head="softmax")
    train(run)
    other = Run(run.path, Recipe(**TINY | {"head": "softmax", "features": 16}))
    with pytest.raises(ValueError, match="must hold the weights of its recipe's network"):
        train(other)


def test_early_stopping_keeps_the_best_weights(tmp_path, monkeypatch):
    accuracies = iter([0.5, 0.9, 0.8, 0.9, 0.7])
    seen = []

    def validate(trainer):
        seen.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return {"loss": float(len(seen)), "accuracy": next(accuracies)}

    monkeypatch.setattr(Trainer, "_validate", validate)
    run = make(tmp_path / "run", head="softmax", epochs=9, valid_fraction=0.2, patience=2)
    result = train(run)
    assert (result["epochs"], result["best_epoch"], result["valid_accuracy"]) == (4, 2, 0.9)
    state = run.load_checkpoint()
    assert state is not None
    assert state["finished"]
    torch.testing.assert_close(state["best"]["model"], seen[1], rtol=0, atol=0)


def test_validation_counts_neither_train_nor_test_samples(tmp_path):
    run = make(tmp_path / "run", head="softmax", valid_fraction=0.2)
    train(run)
    _, split = run.recipe.load_data()
    assert len(split.labelled) + len(split.valid) == 100
    assert not set(split.labelled.tolist()) & set(split.valid.tolist())
    assert [line["split"] for line in run.metrics()] == ["train", "valid"] * 4


@pytest.mark.parametrize(("number", "step"), [(1, 1), (2, 3)])
def test_a_loss_that_is_not_finite_is_named_with_epoch_and_step(
    tmp_path, monkeypatch, number, step
):
    calls = []

    def break_down(log_probs, right):
        calls.append(1)
        loss = torch.nn.functional.cross_entropy(log_probs, right)
        return loss * float("nan") if len(calls) == 3 * (number - 1) + step else loss

    monkeypatch.setattr(training, "cross_entropy", break_down)
    message = f"stopped in epoch {number}, step {step}. The loss must stay finite, got nan: lower"
    with pytest.raises(ValueError, match=message):
        train(make(tmp_path / "run", head="softmax"))


def test_bfloat16_reaches_the_backbone_alone(tmp_path):
    recipe = Recipe(**TINY | {"head": "softmax", "precision": "bfloat16"})
    trainer = Trainer(recipe, *recipe.load_data())
    seen = {}
    trainer.model.get_submodule("backbone.backbone").register_forward_hook(
        lambda module, inputs, output: seen.update(backbone=output.dtype)
    )
    trainer.model.get_submodule("head").register_forward_hook(
        lambda module, inputs, output: seen.update(head=inputs[0].dtype)
    )
    trainer.model(trainer.inputs[:4])
    assert seen == {"backbone": torch.bfloat16, "head": torch.float32}


PERTURBATIONS = ["logit_adjustment", "class_margin", "lpl", "logit_adjustment+lpl"]


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
def test_a_perturbation_changes_the_training_and_not_what_is_reported(tmp_path, head, perturbation):
    settings = head | {"labels": 0, "imbalance": 10.0, "epochs": 1, "steps": 1, "anchors": 2}
    plain = make(tmp_path / "plain", **settings)
    perturbed = make(tmp_path / "perturbed", perturbation=perturbation, **settings)
    train(plain)
    train(perturbed)
    assert perturbed.metrics() == plain.metrics()  # of the logits before the first update
    before, after = weights_of(plain), weights_of(perturbed)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_perturbation_counts_the_labels_that_training_may_see():
    recipe = Recipe(
        **TINY | {"labels": 0, "imbalance": 10.0, "perturbation": "lpl", "valid_fraction": 0.2}
    )
    data, split = recipe.load_data()
    trainer = Trainer(recipe, data, split)
    counts = data.train_labels[split.labelled].bincount(minlength=10)
    assert trainer.perturb.stats.counts.tolist() == counts.tolist()


# What a step sees.

LABELS = torch.arange(10).repeat(30)


def sampler(**changes):
    recipe = Recipe(**{"labels": 100, "batch_size": 20, "anchors": 3} | changes)
    split = split_labels(LABELS, recipe.labels or None, recipe.valid_fraction, recipe.seed)
    return Sampler(recipe, LABELS, split, torch.Generator().manual_seed(0)), split


def test_softmax_asks_about_every_labelled_sample_once_an_epoch():
    chosen, split = sampler(head="softmax")
    batches = list(chosen.epoch())
    assert [len(batch.queries) for batch in batches] == [20] * 5
    asked = torch.cat([batch.queries for batch in batches])
    assert torch.equal(asked.sort().values, split.labelled)


@pytest.mark.parametrize("refresh", ["random", "loss", "entropy", "none"])
def test_anchors_are_labelled_balanced_and_never_asked_about(refresh):
    chosen, split = sampler(anchor_refresh=refresh, unlabelled=40)
    for batch in chosen.epoch():
        assert torch.isin(torch.cat([batch.queries, batch.anchors]), split.labelled).all()
        assert not torch.isin(batch.queries, batch.anchors).any()
        assert LABELS[batch.anchors].bincount().tolist() == [3] * 10
        assert torch.isin(batch.unlabelled, split.unlabelled).all()
        assert len(batch.unlabelled.unique()) == 40


def test_with_few_labels_half_of_each_class_answers_for_the_other_half():
    chosen, _ = sampler(labels=40, batch_size=250, anchors=10)
    (batch,) = chosen.epoch()
    assert LABELS[batch.anchors].bincount().tolist() == [2] * 10
    assert LABELS[batch.queries].bincount().tolist() == [2] * 10


@pytest.mark.parametrize(("refresh", "choices"), [("none", 1), ("entropy", 2), ("random", 10)])
def test_anchors_change_never_by_the_epoch_or_by_the_step(refresh, choices):
    chosen, _ = sampler(anchor_refresh=refresh)
    batches = [*chosen.epoch(), *chosen.epoch()]
    assert len({tuple(batch.anchors.tolist()) for batch in batches}) == choices


@pytest.mark.parametrize("refresh", ["loss", "entropy"])
def test_the_hardest_samples_anchor_the_next_epoch(refresh):
    chosen, split = sampler(anchor_refresh=refresh)
    rows = split.labelled[LABELS[split.labelled] == 4][:3]
    doubt = torch.full((3, 10), 0.1).log()
    chosen.record(rows, doubt)
    counts = torch.zeros(len(LABELS))
    for _ in range(40):
        counts[next(chosen.epoch()).anchors] += 1
    # Every other time a sample is in the half that answers: the hard ones are then chosen, the
    # seven easy ones of the class share what is left of its three places.
    four = split.labelled[LABELS[split.labelled] == 4]
    easy = four[~torch.isin(four, rows)]
    assert counts[rows].mean() > 1.5 * counts[easy].mean()


def test_one_label_per_class_cannot_train_a_graph_head():
    with pytest.raises(ValueError, match="needs two labelled samples of a class"):
        sampler(labels=10)


@pytest.mark.parametrize(("data", "augment"), [("digits", "vectors"), ("moons", "digits")])
def test_an_augmentation_of_another_kind_of_data_is_refused(data, augment):
    recipe = Recipe(data=data, augment=augment)
    with pytest.raises(ValueError, match=f"`augment` must fit the data, got {augment}, which"):
        Trainer(recipe, *recipe.load_data())


def test_an_epoch_that_asks_nothing_is_refused(tmp_path):
    run = make(tmp_path / "run", head="graph", labels=20, batch_size=1, steps=1, epochs=50)
    with pytest.raises(ValueError, match=r"must ask about a sample, .* raise `batch_size` \(now 1"):
        train(run)


def test_the_number_of_steps_can_be_set():
    chosen, _ = sampler(head="softmax", steps=12)
    assert [len(batch.queries) for batch in chosen.epoch()] == [20] * 12


def test_metrics_are_lines_of_json_with_the_agreed_names(tmp_path):
    run = make(tmp_path / "run", head="softmax", valid_fraction=0.2)
    train(run)
    lines = [json.loads(line) for line in (run.path / METRICS).read_text().splitlines()]
    assert all(set(line) == {"epoch", "step", "split", "loss", "accuracy"} for line in lines)
    assert [line["step"] for line in lines] == [3, 3, 6, 6, 9, 9, 12, 12]

"""A recipe's isometry joins the loss of every head, among the rows whose labels are known."""

import pytest
import torch
from torch.testing import assert_close

from weft.isometry import (
    Correlation,
    IsometryRegularizer,
    Ranking,
    Reduction,
    SquaredError,
    Stress,
    WithinClass,
    diagnose,
    isometry_loss,
)
from weft.lab._trained import encode, load_trained
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import Trainer, train

TINY = {
    "data": "digits",
    "labels": 100,
    "backbone": "mlp",
    "epochs": 2,
    "steps": 3,
    "k": 10,
    "threads": 1,
    "isometry": "stress",
}
HEADS = {"softmax": {"head": "softmax"}, "graph": {"head": "graph", "unlabelled": 50}}
TERMS = {
    "paper": {"discrepancy": SquaredError(), "reduction": Reduction.MATRIX},
    "stress": {"discrepancy": Stress()},
    "correlation": {"discrepancy": Correlation()},
    "rank": {"discrepancy": Ranking()},
}


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param]


def make(path, **changes):
    return Run.create(path, Recipe(**TINY | changes))


def weights_of(run):
    state = run.load_checkpoint()
    assert state is not None
    return state["model"]


@pytest.mark.parametrize("name", TERMS)
def test_a_name_and_a_weight_become_a_term(name):
    inputs, labels = torch.rand(20, 4), torch.arange(20) % 3
    backbone = torch.nn.Linear(4, 3)
    isometry = Recipe(isometry=name, isometry_weight=2.5).build_isometry(
        backbone, torch.Generator()
    )
    features = backbone(inputs)
    assert_close(isometry(labels), 2.5 * isometry_loss(inputs, features, labels, **TERMS[name]))


def test_by_default_there_is_no_term_and_no_hook():
    backbone = torch.nn.Linear(4, 3)
    isometry = Recipe().build_isometry(backbone, torch.Generator())
    backbone(torch.rand(6, 4))
    assert isometry(torch.zeros(6).long()) == 0
    assert not backbone._forward_hooks


def test_large_batches_have_four_pairs_for_each_row():
    backbone = torch.nn.Linear(2, 2)
    isometry = Recipe(isometry="stress").build_isometry(backbone, torch.Generator())
    assert isinstance(isometry, IsometryRegularizer)
    labels = torch.zeros(1000).long()
    rows, population = isometry.pairs(1000, labels, torch.Generator(), labels.device)
    assert rows.shape == (2, 4 * 1000)
    assert population == 1000 * 999 // 2


def test_the_term_sees_anchors_and_queries_with_their_labels_and_the_rest_without(head):
    recipe = Recipe(**TINY | head)
    trainer = Trainer(recipe, *recipe.load_data())
    batch = next(iter(trainer.sampler.epoch()))
    seen = []
    trainer.model.get_submodule("backbone").register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    trainer.model.train()
    trainer._forward(batch)
    trainer.isometry.pairs = WithinClass()
    term = trainer.isometry(trainer._known(batch))
    rows = torch.cat([batch.anchors, batch.queries, batch.unlabelled])
    assert_close(torch.cat(seen), trainer.inputs[rows])
    labels = trainer.labels[rows].where(torch.isin(rows, trainer.split.labelled), -1)
    assert int((labels < 0).sum()) == recipe.unlabelled
    assert torch.equal(trainer._known(batch), labels)
    features = trainer.model.get_submodule("backbone")(trainer.inputs[rows])
    assert_close(term, isometry_loss(trainer.inputs[rows], features, labels), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_distances_are_kept_better_with_the_term_and_the_classes_learned(tmp_path, head, precision):
    stress = {}
    for name in ("none", "stress"):
        settings = {"epochs": 8, "steps": 10, "isometry": name, "isometry_weight": 10.0}
        run = make(tmp_path / name, **head, **settings, precision=precision)
        assert train(run)["train_accuracy"] > 0.8
        trained = load_trained(run)
        inputs = trained.data.test_inputs
        features = encode(trained.model, inputs)
        stress[name] = diagnose(inputs, features, trained.data.test_labels).pooled.stress
    assert stress["stress"] < 0.9 * stress["none"]


def test_the_term_changes_the_training_and_not_what_is_reported(tmp_path, head):
    plain, kept = (
        make(tmp_path / name, **head, isometry=name, epochs=1, steps=1)
        for name in ("none", "stress")
    )
    train(plain)
    train(kept)
    assert kept.metrics() == plain.metrics()  # of the logits before the first update
    before, after = weights_of(plain), weights_of(kept)
    assert list(before) == list(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_stopped_run_goes_on_to_the_same_numbers(head, whole_and_stopped):
    settings = head | {"labels": 0, "batch_size": 1200, "epochs": 3, "steps": 1}
    whole, stopped = whole_and_stopped(Recipe(**TINY | settings))
    assert stopped.metrics() == whole.metrics()
    assert_close(weights_of(stopped), weights_of(whole), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"isometry": "stres"}, "`isometry` must be one of none, paper.*did you mean `stress`"),
        ({"isometry_weight": -1.0}, "`isometry_weight` must be at least 0, got -1"),
    ],
)
def test_what_is_no_isometry_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**table)

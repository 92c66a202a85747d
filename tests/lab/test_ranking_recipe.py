"""A recipe's ranking joins the loss of every head, among the rows whose labels are known."""

import pytest
import torch
from torch.testing import assert_close

from weft.discrete import average_precision_loss, recall_loss, retrieval_loss
from weft.lab._trained import encode, load_trained
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import Trainer, train

TINY = {"data": "digits", "labels": 100, "backbone": "mlp", "epochs": 2, "steps": 3, "k": 10}
TINY |= {"threads": 1, "ranking": "recall"}
HEADS = {"softmax": {"head": "softmax"}, "graph": {"head": "graph", "unlabelled": 50}}
MEASURES = {"recall": recall_loss, "average_precision": average_precision_loss}


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param]


@pytest.mark.parametrize("name", MEASURES)
def test_a_name_and_a_weight_become_a_term(name):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(20, 4, generator=generator), torch.arange(20) % 4 - 1
    backbone = torch.nn.Linear(4, 3)
    ranking = Recipe(ranking=name, ranking_weight=2.5).build_ranking(backbone)
    features = backbone(inputs)
    found = ranking(labels)
    assert found > 0
    expected = retrieval_loss(features, labels, loss=MEASURES[name])
    assert_close(found, 2.5 * expected)


def test_by_default_there_is_no_term_and_no_hook():
    backbone = torch.nn.Linear(4, 3)
    ranking = Recipe().build_ranking(backbone)
    assert ranking(torch.zeros(6).long()) == 0
    assert not backbone._forward_hooks


def test_the_term_sees_anchors_and_queries_with_their_labels_and_the_rest_without(head):
    recipe = Recipe(**TINY | head)
    trainer = Trainer(recipe, *recipe.load_data())
    batch = next(iter(trainer.sampler.epoch()))
    trainer.model.train()
    trainer._forward(batch)
    term = trainer.ranking(trainer._known(batch))
    rows = torch.cat([batch.anchors, batch.queries])
    features = trainer.model.get_submodule("backbone")(trainer.inputs[rows])
    assert_close(term, retrieval_loss(features, trainer.labels[rows]))


def test_lists_begin_with_their_class_more_often(tmp_path, head):
    missed = {}
    for name in ("none", "average_precision"):
        settings = {"epochs": 10, "steps": 20, "ranking": name, "ranking_weight": 3.0}
        run = Run.create(tmp_path / name, Recipe(**TINY | head | settings))
        assert train(run)["train_accuracy"] > 0.8
        trained = load_trained(run)
        rows = trained.split.labelled
        features = encode(trained.model, trained.data.train_inputs[rows])
        loss = retrieval_loss(
            features, trained.data.train_labels[rows], loss=average_precision_loss
        )
        missed[name] = loss.item()
    assert missed["average_precision"] < 0.9 * missed["none"]


def test_all_four_ideas_train_one_classifier_which_stops_and_goes_on(whole_and_stopped):
    recipe = Recipe(
        data="digits",
        head="graph",
        imbalance=10.0,
        perturbation="lpl",
        isometry="stress",
        ranking="recall",
        backbone="mlp",
        unlabelled=0,
        k=10,
        epochs=3,
        steps=2,
        threads=1,
    )
    whole, stopped = whole_and_stopped(recipe)
    assert stopped.metrics() == whole.metrics()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ranking": "recal"}, "`ranking` must be one of none, recall.*did you mean `recall`"),
        ({"ranking_weight": -1.0}, "`ranking_weight` must be at least 0, got -1"),
    ],
)
def test_what_is_no_ranking_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**table)

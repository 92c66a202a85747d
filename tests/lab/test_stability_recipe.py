"""A recipe's stability joins the loss of every head, on pixels alone, and holds features still."""

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from weft.isometry import Expansion, RandomSigns, WorstDirection, pair_distances, perturbation_loss
from weft.lab._trained import encode, load_trained
from weft.lab.data import load_data
from weft.lab.recipe import Recipe
from weft.lab.runs import Run
from weft.lab.train import Trainer, train

TINY = {"data": "digits", "labels": 100, "backbone": "mlp", "epochs": 2, "steps": 3, "k": 10}
TINY |= {"threads": 1, "stability": "worst_direction"}
HEADS = {"softmax": {"head": "softmax"}, "graph": {"head": "graph", "unlabelled": 50}}
MOVES = {"random_signs": RandomSigns, "worst_direction": WorstDirection}


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param]


@pytest.mark.parametrize("name", MOVES)
def test_a_name_a_radius_and_a_weight_become_a_term(name, head):
    recipe = Recipe(**TINY | head | {"stability": name, "stability_radius": 0.2})
    trainer = Trainer(recipe, *recipe.load_data())
    inputs = torch.rand(20, 1, 8, 8, generator=seeded())
    graph = head["head"] == "graph"
    backbone = trainer.model.get_submodule("backbone")
    with torch.no_grad():
        for weights in backbone.parameters():
            weights.mul_(5)  # so that distances grow
    expected = perturbation_loss(
        (lambda points: normalize(backbone(points), dim=1)) if graph else backbone,
        inputs,
        MOVES[name](0.2),
        discrepancy=Expansion(),
        relative=graph,
        generator=seeded(),
    )
    trainer.generator.manual_seed(0)
    assert expected > 0
    assert_close(trainer.stability(inputs), recipe.stability_weight * expected)


def test_one_input_has_no_spread_that_a_graph_could_be_relative_to():
    recipe = Recipe(**TINY | HEADS["graph"])
    trainer = Trainer(recipe, *recipe.load_data())
    assert trainer.stability(trainer.inputs[:1]) == 0


def test_by_default_there_is_no_term():
    term = Recipe().build_stability(torch.nn.Linear(4, 3), load_data("moons"), seeded())
    assert term(torch.rand(6, 4)) == 0


def test_the_term_goes_with_the_others_and_sees_queries_and_unlabelled_samples(head):
    recipe = Recipe(**TINY | head, isometry="stress", ranking="recall")
    trainer = Trainer(recipe, *recipe.load_data())
    seen = []
    term = trainer.stability
    trainer.stability = lambda inputs: seen.append(len(inputs)) or term(inputs)
    trainer.model.train()
    batches = list(trainer.sampler.epoch())
    for number, batch in enumerate(batches):
        trainer._step(batch, f"step {number}")
    assert seen == [len(batch.queries) + len(batch.unlabelled) for batch in batches]


def test_features_of_moved_images_stay_nearer(tmp_path, head):
    moved_by = {}
    for name in ("none", "worst_direction"):
        settings = {"epochs": 8, "steps": 20, "stability": name}
        run = Run.create(tmp_path / name, Recipe(**TINY | head | settings))
        assert train(run)["train_accuracy"] > 0.9
        trained = load_trained(run)
        images = trained.data.test_inputs[:200]
        moved = WorstDirection(0.1)(trained.model.get_submodule("backbone"), images, seeded())
        features = torch.cat([encode(trained.model, part) for part in (images, moved)])
        pairs = torch.arange(400).reshape(2, 200)
        spread = torch.pdist(features[:200]).square().mean().sqrt()
        moved_by[name] = (pair_distances(features, pairs).mean() / spread).item()
    assert moved_by["worst_direction"] < 0.8 * moved_by["none"]


def test_a_run_that_stops_goes_on_with_the_same_draws(whole_and_stopped):
    recipe = Recipe(**TINY | {"head": "softmax", "epochs": 3})
    whole, stopped = whole_and_stopped(recipe)
    assert stopped.metrics() == whole.metrics()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stability": "worst"}, "`stability` must be one of none.*did you mean `worst_direction`"),
        ({"stability_radius": 0.0}, "`stability_radius` must be at least 1e-06, got 0"),
        ({"stability_weight": -1.0}, "`stability_weight` must be at least 0, got -1"),
    ],
)
def test_what_is_no_stability_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**table)


def test_data_without_pixels_are_refused():
    data = load_data("moons")
    with pytest.raises(ValueError, match=r"`stability` needs inputs in \[0, 1\], got -.*in moons"):
        Recipe(stability="random_signs").build_stability(torch.nn.Linear(2, 3), data, seeded())

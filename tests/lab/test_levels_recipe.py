"""A recipe's levels: blocks trained one level each, and refusals of what is no hierarchy."""

import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from weft.isometry import (
    LocallyIsometricStack,
    Reduction,
    SquaredError,
    WithinClass,
    level_loss,
)
from weft.lab._levels import number_levels
from weft.lab._trained import load_trained
from weft.lab.audit import audit
from weft.lab.backbones import Blocks
from weft.lab.evaluate import evaluate
from weft.lab.recipe import Recipe
from weft.lab.report import write_report
from weft.lab.runs import Run
from weft.lab.train import Trainer, train

HALVES = "0,1,2,3,4 | 5,6,7,8,9"
LEVELS = f"{HALVES} ; 0,1 | 2,3 | 4 | 5 | 6,7 | 8,9"
TINY = {"data": "digits", "head": "softmax", "backbone": "mlp", "epochs": 2, "steps": 3}
TINY |= {"threads": 1, "levels": LEVELS, "isometry": "paper", "isometry_weight": 10.0}

LONGER = {"epochs": 25, "steps": 0, "batch_size": 100, "learning_rate": 0.005}


def columns_of(labels):
    return torch.tensor(number_levels(LEVELS, [str(digit) for digit in range(10)])).T[labels]


def test_groups_of_names_become_a_number_for_each_class_and_level():
    names = ["ant", "bee", "cod", "dab"]
    assert number_levels("", names) == [[0, 1, 2, 3]]
    assert number_levels(" cod,dab | bee, ant ", names) == [[1, 1, 0, 0], [0, 1, 2, 3]]
    two = number_levels("ant,bee|cod,dab; ant | dab,cod | bee", names)
    assert two == [[0, 0, 1, 1], [0, 2, 1, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant | bee,cot,dab", "`levels` must name the classes of the data, got 'cot'.*`cod`"),
        ("ant | dab", "every class into a group, got none for bee, cod: add"),
        ("ant,bee | cod,dab ; ant,cod | bee,dab", "from coarse to fine, got a group with classes"),
    ],
)
def test_groups_that_are_no_hierarchy_of_the_classes_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        number_levels(text, ["ant", "bee", "cod", "dab"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": "0,1,2"}, r"`levels` must be groups .*, got '0,1,2': write `a,b \| c,d` for"),
        ({"levels": "0 | 1,"}, r"`levels` must be groups .*, got '0 \| 1,'"),
        ({"levels": "0,1 | 1,2"}, "`levels` must be groups .*, got the class '1' twice"),
        ({"head": "graph"}, "`levels` need head = softmax, got graph: all levels share"),
        ({"pretrain": 5, "augment": "digits"}, "`levels` need pretrain = 0, got 5"),
        ({"stability": "random_signs"}, "`levels` need stability = none, got random_signs"),
    ],
)
def test_what_does_not_go_with_levels_is_refused_with_the_recipe(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**TINY | changes)


def test_a_class_that_is_not_there_is_refused_when_the_data_are_known():
    recipe = Recipe(**TINY | {"levels": "0 | eins"})
    with pytest.raises(ValueError, match="`levels` must name the classes of the data, got 'eins'"):
        Trainer(recipe, *recipe.load_data())


@pytest.mark.parametrize("isometry", ["none", "paper"])
def test_a_step_has_the_gradients_of_the_levels_of_a_stack(isometry):
    recipe = Recipe(**TINY | {"isometry": isometry})
    trainer = Trainer(recipe, *recipe.load_data())
    trainer.model.eval()  # batch statistics would differ by the passes they have seen
    backbone, head = trainer.model.get_submodule("backbone"), trainer.model.get_submodule("head")
    stack = LocallyIsometricStack(backbone.children(), head)
    inputs, labels = trainer.inputs[:60], trainer.labels[:60]
    parameters = list(trainer.model.parameters())

    trainer.generator.manual_seed(3)
    coarse = trainer.levels(inputs, labels)
    found = torch.autograd.grad(coarse, parameters, allow_unused=True)

    options = {"discrepancy": SquaredError(), "reduction": Reduction.MATRIX}
    options |= {"pairs": WithinClass(4), "generator": torch.Generator().manual_seed(3)}
    weight = 10.0 if isometry == "paper" else 0.0
    losses = [
        level_loss(stack, inputs, columns_of(labels), level, weight=weight, **options)
        for level in (0, 1)
    ]
    assert_close(coarse, sum(losses))
    expected = torch.autograd.grad(sum(losses), parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_close(one, other)
    reached = {id(weights) for weights, grad in zip(parameters, found, strict=True) if grad is None}
    assert reached == {id(weights) for weights in stack.blocks[2].parameters()}


def test_the_classes_train_the_last_block_alone_and_attacks_see_through_all():
    recipe = Recipe(**TINY)
    trainer = Trainer(recipe, *recipe.load_data())
    model, backbone = trainer.model, trainer.model.get_submodule("backbone")
    assert isinstance(backbone, Blocks)
    assert len(backbone) == 3
    inputs = trainer.inputs[:20].requires_grad_()
    for training in (True, False):
        model.train(training).zero_grad()
        inputs.grad = None
        cross_entropy(model(inputs), trainer.labels[:20]).backward()
        for block in backbone[:2]:
            assert all((weights.grad is None) == training for weights in block.parameters())
        assert all(weights.grad is not None for weights in backbone[2].parameters())
        assert (inputs.grad is None) == training


def test_a_trained_run_tells_how_each_level_came_out(tmp_path):
    run = Run.create(tmp_path / "run", Recipe(**TINY | LONGER))
    train(run)
    results = evaluate(run)
    assert list(results["levels"]) == ["level 1", "level 2", "level 3"]
    assert results["levels"]["level 3"]["accuracy"] == results["contexts"]["whole"]["accuracy"]
    assert all(level["accuracy"] > 0.8 for level in results["levels"].values())

    trained = load_trained(run)
    blocks, head = trained.model.get_submodule("backbone"), trained.model.get_submodule("head")
    with torch.no_grad():
        first = head(blocks[0](trained.data.test_inputs)).argmax(1)
    right = first == columns_of(trained.data.test_labels)[:, 0]
    assert results["levels"]["level 1"]["accuracy"] == right.double().mean()


def test_reports_and_audits_take_a_run_with_levels(tmp_path):
    runs = []
    for name, changes in (("levels", {}), ("none", {"levels": "", "isometry": "none"})):
        runs.append(Run.create(tmp_path / name, Recipe(**TINY | changes)))
        train(runs[-1])
        evaluate(runs[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that of a figure whose names leave it no room
        write_report([run.path for run in runs], tmp_path / "report.html")
    assert len(audit(runs[0], most=3).doubts) == 3


def test_without_levels_nothing_is_added_and_nothing_told(tmp_path):
    recipe = Recipe(**TINY | {"levels": " "})
    trainer = Trainer(recipe, *recipe.load_data())
    assert trainer.levels(trainer.inputs[:5], trainer.labels[:5]) == 0
    for name, text in (("empty", ""), ("blank", " ")):
        run = Run.create(tmp_path / name, Recipe(**TINY | {"levels": text}))
        train(run)
        assert evaluate(run)["levels"] == {}


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}])
def test_a_run_that_stops_goes_on_with_the_same_numbers(whole_and_stopped, changes):
    whole, stopped = whole_and_stopped(Recipe(**TINY | {"epochs": 3} | changes))
    assert stopped.metrics() == whole.metrics()


def test_levels_go_with_the_other_terms_of_vectors():
    recipe = Recipe(**TINY | {"data": "moons", "levels": "upper | lower", "ranking": "recall"})
    trainer = Trainer(recipe, *recipe.load_data())
    trainer.model.train()
    seen = []
    for name in ("isometry", "ranking", "levels"):
        term = getattr(trainer, name)

        def watched(*args, name=name, term=term):
            seen.append((name, float(term(*args)) > 0))
            return term(*args) if name == "levels" else 0.0

        setattr(trainer, name, watched)
    trainer._step(next(iter(trainer.sampler.epoch())), "a step")
    assert seen == [("isometry", True), ("ranking", True), ("levels", True)]

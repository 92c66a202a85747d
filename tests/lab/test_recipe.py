import dataclasses
import math
import subprocess
import sys
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.lab.recipe import Recipe

FIELDS = dataclasses.fields(Recipe)
TYPES = get_type_hints(Recipe)


def values(field: dataclasses.Field) -> st.SearchStrategy:
    kind, meta = TYPES[field.name], field.metadata
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if field.name == "shares":
        positive = st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)
        return st.lists(positive.map(str)).map(",".join)
    if field.name == "levels":
        name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=",|;"))
        name = name.filter(str.strip)
        level = st.lists(name, min_size=2, unique_by=str.strip).map(" | ".join)
        return st.lists(level).map(" ; ".join)
    if kind is str:
        return st.text(st.characters(exclude_categories=["Cs"]))
    if kind is int:
        return st.integers(meta["least"], meta["most"] or 2**63 - 1)
    return st.floats(meta["least"], meta["most"], allow_nan=False, allow_infinity=False)


tables = st.fixed_dictionaries({}, optional={field.name: values(field) for field in FIELDS}).map(
    # The rules that tie fields together.
    lambda table: (
        table
        | ({"head": "softmax", "pretrain": 0, "stability": "none"} if table.get("levels") else {})
        | ({"unlabelled": 0} if table.get("head") == "softmax" or table.get("levels") else {})
        | ({"patience": 0} if not table.get("valid_fraction") else {})
        | ({"pretrain": 0} if table.get("augment", "none") == "none" else {})
    )
)


@given(tables)
def test_a_recipe_survives_the_way_through_a_file(tmp_path_factory, table):
    recipe = Recipe(**table)
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.read(path) == recipe


def test_the_defaults_are_a_recipe():
    assert Recipe.from_table({}) == Recipe()


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().seed = 1  # pyright: ignore


def test_every_field_says_what_it_means():
    assert all(len(field.metadata["help"]) > 10 for field in FIELDS)


@pytest.mark.parametrize(
    ("name", "nearest"), [("learning_rte", "learning_rate"), ("anchor", "anchors"), ("sed", "seed")]
)
def test_an_unknown_name_is_answered_with_the_nearest_field(tmp_path, name, nearest):
    path = tmp_path / "recipe.toml"
    path.write_text(f"{name} = 1\n")
    with pytest.raises(ValueError, match=f"got `{name}`: did you mean `{nearest}`") as error:
        Recipe.read(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("epochs: 3")
    with pytest.raises(ValueError, match=r"recipe\.toml must be a TOML file, got something else"):
        Recipe.read(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"epochs": 3.0}, "`epochs` must be of type int, got 3.0"),
        ({"epochs": True}, "`epochs` must be of type int, got True"),
        ({"learning_rate": "fast"}, "`learning_rate` must be of type float, got 'fast'"),
        ({"learning_rate": 0.0}, "`learning_rate` must be at least 1e-09, got 0.0"),
        ({"tau": math.nan}, "`tau` must be finite, got nan"),
        ({"valid_fraction": 0.95}, "`valid_fraction` must be at most 0.9, got 0.95"),
        (
            {"head": "grap"},
            "`head` must be one of softmax, graph, got 'grap': did you mean `graph`",
        ),
        ({"kernel": 3}, "`kernel` must be one of gaussian, tapered, got 3: choose from"),
        ({"head": "softmax", "unlabelled": 9}, "`unlabelled` needs a graph .* got 9"),
        ({"pretrain": 9}, "`pretrain` compares random views .* got pretrain = 9"),
        ({"patience": 3}, "`patience` needs validation samples, got patience = 3"),
    ],
)
def test_a_bad_value_is_refused_by_name(table, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_table(table)


def test_a_whole_number_serves_as_a_float():
    assert Recipe(tau=0) == Recipe(tau=0.0)
    assert type(Recipe(tau=0).tau) is float


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("none", []),
        ("logit_adjustment", ["LogitAdjustment"]),
        ("class_margin", ["ClassMargin"]),
        ("lpl", ["LPL"]),
        ("logit_adjustment+lpl", ["LogitAdjustment", "LPL"]),
    ],
)
def test_a_name_and_a_strength_become_a_perturbation(name, parts):
    recipe = Recipe(perturbation=name, perturbation_strength=2.0)
    made = recipe.build_perturbation(torch.tensor([0, 0, 0, 1]), 2)
    assert [type(part).__name__ for part in getattr(made, "perturbations", [made])] == parts
    if name == "logit_adjustment":
        assert made.temperature == 2.0
    elif parts:
        last = getattr(made, "perturbations", [made])[-1]
        assert last.fixed.tolist() == [-1.2, 2.0]


def test_priors_of_a_class_without_labels_are_refused():
    recipe = Recipe(perturbation="logit_adjustment")
    with pytest.raises(ValueError, match="positive for the logarithm of its prior, got 0 for"):
        recipe.build_perturbation(torch.tensor([0, 0, 1]), 3)


def test_importing_recipes_does_not_import_torch():
    script = "import sys, weft.lab.recipe; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("name", get_args(TYPES["equation"]))
def test_every_equation_builds_a_head_that_predicts(name):
    head = Recipe(equation=name, tau=0.01, k=5, features=4).build_head(3)
    labels = torch.arange(30) % 3
    features = torch.eye(3, 4)[labels] + 0.1 * torch.randn(
        30, 4, generator=torch.Generator().manual_seed(0)
    )
    logits = head(features, torch.where(torch.arange(30) < 9, labels, -1))
    assert (logits.argmax(1) == labels).float().mean() > 0.9


def test_known_shares_of_the_classes_decide_how_many_samples_each_gets():
    head = Recipe(shares="3,1", k=5, features=4).build_head(2)
    features = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(80) < 2, torch.arange(80), -1)
    assert head(features, labels).argmax(1).bincount().tolist() == [60, 20]
    with pytest.raises(ValueError, match="`shares` must be numbers and commas, got 'half'"):
        Recipe(shares="half")

import dataclasses
import json

import numpy as np
import pytest
import torch

from weft.lab.compare import as_table, compare
from weft.lab.evaluate import evaluate, summarize
from weft.lab.explain import explain
from weft.lab.predict import predict
from weft.lab.recipe import Recipe
from weft.lab.report import write_report
from weft.lab.runs import PREDICTIONS, Run
from weft.lab.train import train

TINY = Recipe(
    data="digits", labels=100, backbone="mlp", epochs=3, steps=5, k=10, batch_size=200, threads=1
)
SOFTMAX = dataclasses.replace(TINY, head="softmax")
GRAPH = dataclasses.replace(TINY, head="graph", unlabelled=50)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One evaluated run per head."""
    made = {}
    for recipe in (SOFTMAX, GRAPH):
        made[recipe.head] = Run.create(tmp_path_factory.mktemp("runs") / recipe.head, recipe)
        train(made[recipe.head])
        evaluate(made[recipe.head])
    return made


@pytest.fixture(scope="module")
def stored(runs):
    return {head: dict(np.load(run.path / PREDICTIONS)) for head, run in runs.items()}


@pytest.mark.parametrize("head", ["softmax", "graph"])
def test_results_name_three_contexts_and_what_made_them(runs, head):
    results = json.loads((runs[head].path / "results.json").read_text())
    assert results["head"] == head
    assert results["context_free"] == (head == "softmax")
    assert (results["data"], results["labels"], results["num_test"]) == ("digits", 100, 500)
    assert results["classes"] == [str(digit) for digit in range(10)]
    assert results["epochs"] == 3
    assert results["finished"]
    assert list(results["contexts"]) == ["whole", "batch", "query"]
    for values in results["contexts"].values():
        assert set(values) == {"accuracy", "ece", "abstention"}
        assert values["accuracy"] > 0.5


def test_the_contexts_of_a_softmax_head_agree_and_those_of_a_graph_head_differ(runs):
    softmax, graph = (list(runs[head].results()["contexts"].values()) for head in runs)
    assert softmax[0] == softmax[1] == softmax[2]
    assert graph[0] != graph[1] != graph[2] != graph[0]


def test_the_two_forms_of_a_query_differ_where_anchors_are_unlabelled(runs):
    assert runs["softmax"].results()["query_gap"] == {"mean": 0, "max": 0}
    gap = runs["graph"].results()["query_gap"]
    assert 0 < gap["mean"] < gap["max"] < 1


@pytest.mark.parametrize("head", ["softmax", "graph"])
def test_stored_predictions_are_those_of_the_results(runs, stored, head):
    arrays = stored[head]
    right = arrays["probabilities"].argmax(1) == arrays["labels"]
    assert right.mean() == pytest.approx(runs[head].results()["contexts"]["whole"]["accuracy"])
    np.testing.assert_allclose(
        arrays["probabilities"].sum(1), 1 - arrays["abstention"], rtol=0, atol=1e-5
    )
    assert arrays["index"].tolist() == list(range(500))
    assert arrays["inputs"].shape == (500, 1, 8, 8)
    assert arrays["anchor_inputs"].shape == (100, 1, 8, 8)
    assert arrays["features"].shape[1] == arrays["anchor_features"].shape[1] == 32
    data, _ = runs[head].recipe.load_data()
    assert arrays["labels"].tolist() == data.test_labels.tolist()


def test_evaluating_again_gives_the_same_numbers(runs):
    before = runs["graph"].results()
    assert evaluate(runs["graph"]) == before


def test_the_anchors_are_the_labelled_samples_alone(runs, stored):
    data, split = runs["graph"].recipe.load_data()
    labels = stored["graph"]["anchor_labels"]
    assert sorted(labels.tolist()) == sorted(data.train_labels[split.labelled].tolist())


def test_reasons_are_the_probabilities(runs, stored):
    # Ten reasons out of a hundred: they can only lack weight, and mostly lack little.
    arrays = stored["graph"]
    reasons, weights = arrays["reason_anchor"], arrays["reason_weight"]
    assert reasons.shape == weights.shape == (500, 10)
    assert (np.diff(weights, axis=1) <= 0).all()
    by_class = np.zeros_like(arrays["probabilities"])
    np.add.at(by_class, (np.arange(500)[:, None], arrays["anchor_labels"][reasons]), weights)
    assert (by_class <= arrays["probabilities"] + 1e-4).all()
    assert np.median(by_class.sum(1)) > 0.5


def test_neighbors_are_the_nearest_in_features(stored):
    arrays = stored["graph"]
    features = np.concatenate([arrays["features"], arrays["anchor_features"]])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    index, weight = arrays["neighbor_index"], arrays["neighbor_weight"]
    assert index.shape == weight.shape == (500, 10)
    assert (np.diff(weight, axis=1) <= 0).all()
    assert not ((index == np.arange(500)[:, None]) & (weight > 0)).any()
    distances = np.linalg.norm(features[index] - features[:500, None], axis=2)
    everyone = np.linalg.norm(features[None] - features[:500, None], axis=2)
    linked = weight > 0
    assert distances[linked].mean() < 0.5 * everyone.mean()


def test_an_explanation_is_exact(runs, stored):
    # The stored probabilities come from a solve for the scores, the reasons from one per sample.
    for sample in (0, 17, 499):
        answer = explain(runs["graph"], sample)
        total = sum(reason.weight for reason in answer.reasons)
        assert total == pytest.approx(1 - answer.abstention, abs=1e-9)
        assert len(answer.reasons) == 100
        for digit, probability in enumerate(stored["graph"]["probabilities"][sample]):
            share = sum(item.weight for item in answer.reasons if item.label == str(digit))
            assert share == pytest.approx(probability, abs=1e-4)


def test_the_examples_of_an_explanation_are_rows_of_the_training_part(runs):
    data, split = runs["graph"].recipe.load_data()
    for reason in explain(runs["graph"], 3).reasons:
        assert reason.example in split.labelled
        assert data.class_names[data.train_labels[reason.example]] == reason.label


def test_a_softmax_head_has_no_reasons(runs, stored):
    assert "reason_anchor" not in stored["softmax"]
    with pytest.raises(ValueError, match=r"needs a graph head, got softmax in"):
        explain(runs["softmax"], 0)


def test_a_sample_that_is_not_there_is_refused(runs):
    with pytest.raises(ValueError, match="must be a row of the test part, 0 to 499, got 500"):
        explain(runs["graph"], 500)


def test_a_run_not_yet_trained_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a trained run, got one without checkpoint"):
        evaluate(Run.create(tmp_path / "run", TINY))


def test_the_best_weights_are_evaluated_not_the_last(tmp_path, monkeypatch):
    recipe = dataclasses.replace(SOFTMAX, valid_fraction=0.2)
    run = Run.create(tmp_path / "run", recipe)
    scores = iter([0.9, 0.5, 0.5])
    monkeypatch.setattr(
        "weft.lab.train.Trainer._validate", lambda trainer: {"loss": 0.0, "accuracy": next(scores)}
    )
    train(run)
    best = evaluate(run)["contexts"]
    state = run.load_checkpoint()
    assert state is not None
    run.save_checkpoint(state | {"model": state["best"]["model"], "best": None})
    assert evaluate(run)["contexts"] == best
    run.save_checkpoint(state | {"best": None})
    assert evaluate(run)["contexts"] != best


def test_calibration_error_of_known_cases():
    sure = torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64)
    right = torch.tensor([0, 0, 0, 0])
    assert summarize(sure, right) == {"accuracy": 1.0, "ece": 0.0, "abstention": 0.0}
    assert summarize(sure, 1 - right) == {"accuracy": 0.0, "ece": 1.0, "abstention": 0.0}
    half = summarize(sure * 0.5, torch.tensor([0, 0, 1, 1]))
    assert half == pytest.approx({"accuracy": 0.5, "ece": 0.0, "abstention": 0.5})


@pytest.mark.parametrize("context", ["whole", "batch", "query"])
@pytest.mark.parametrize("head", ["softmax", "graph"])
def test_predicting_the_test_samples_from_a_file_repeats_the_evaluation(
    runs, stored, tmp_path, head, context
):
    run = runs[head]
    data, _ = run.recipe.load_data()
    np.savez(tmp_path / "inputs.npz", x=data.test_inputs.numpy())
    assert predict(run, tmp_path / "inputs.npz", tmp_path / "out.csv", context=context) == 500
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "sample,label,abstention," + ",".join(f"p({digit})" for digit in range(10))
    labels = np.array([line.split(",")[1] for line in lines[1:]], dtype=int)
    accuracy = (labels == data.test_labels.numpy()).mean()
    expected = run.results()["contexts"][context]["accuracy"]
    # Batches are drawn in another order there.
    assert accuracy == pytest.approx(expected, abs=0.02 if context == "batch" else 1e-9)
    if context == "whole":
        table = np.array([line.split(",")[2:] for line in lines[1:]], dtype=float)
        np.testing.assert_allclose(table[:, 1:], stored[head]["probabilities"], atol=1e-5)


def test_samples_come_from_tables_and_pictures_too(runs, tmp_path):
    from PIL import Image

    data, _ = runs["softmax"].recipe.load_data()
    images = (data.test_inputs[:3, 0].numpy() * 255).round().astype(np.uint8)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    header = ",".join(f"pixel{place}" for place in range(64))
    rows = [",".join(str(value / 255) for value in image.ravel()) for image in images]
    (tmp_path / "table.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "labelled.csv").write_text(
        "\n".join(["label," + header, *(f"7,{row}" for row in rows)])
    )
    tables = []
    for source in ("images", "table.csv", "labelled.csv"):
        predict(runs["softmax"], tmp_path / source, tmp_path / "out.csv")
        lines = (tmp_path / "out.csv").read_text().splitlines()
        tables.append([line.split(",")[1:] for line in lines])
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npz", None, r"x\.npz is missing: give the path of an \.npz with an array x"),
        ("x.csv", None, r"x\.csv is missing: give the path of a \.csv"),
        ("x.txt", "1,2", r"x\.txt cannot be read: give an \.npz, a \.csv or a folder"),
        ("x.npz", "junk", r"x\.npz is not an \.npz with an array x"),
        ("x.csv", "1,2\n3,4", r"must hold samples of the shape \(1, 8, 8\) like digits, got"),
        ("x.csv", "1,2\n3,cat", r"x\.csv must be a \.csv of numbers, one sample per line"),
        ("x.csv", "", r"x\.csv"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(runs, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        predict(runs["softmax"], tmp_path / name, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_runs_that_differ_in_their_seed_are_averaged(runs, tmp_path):
    other = Run.create(tmp_path / "other", dataclasses.replace(SOFTMAX, seed=1))
    train(other)
    evaluate(other)
    paths = [runs["softmax"].path, other.path, runs["graph"].path]
    rows = {row["head"]: row for row in compare(paths)}
    values = [Run.open(path).results()["contexts"]["whole"]["accuracy"] for path in paths]
    assert rows["softmax"]["seeds"] == 2
    # With two values, the t-interval's half width is 12.706 times half their distance.
    assert rows["softmax"]["accuracy"]["whole"] == {
        "mean": pytest.approx(np.mean(values[:2])),
        "margin": pytest.approx(12.7062 * abs(values[0] - values[1]) / 2, rel=1e-4),
    }
    assert rows["graph"]["accuracy"]["whole"] == {"mean": values[2], "margin": None}
    lines = as_table(list(rows.values()))
    assert lines[0].split() == ["recipe", "labels", "seeds", "whole", "batch", "query"]
    assert len(lines) == 3


def test_a_report_can_be_written_about_these_runs(runs, tmp_path):
    page = write_report([run.path for run in runs.values()], tmp_path / "report.html")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_moons_pass_the_whole_way(tmp_path):
    recipe = Recipe(data="moons", labels=40, epochs=3, steps=5, k=10, features=4, threads=1)
    run = Run.create(tmp_path / "run", recipe)
    train(run)
    assert evaluate(run)["contexts"]["query"]["accuracy"] > 0.6
    assert explain(run, 0).reasons


def test_a_run_with_an_equation_that_explains_nothing_is_evaluated_and_reported(tmp_path):
    recipe = dataclasses.replace(GRAPH, epochs=1, equation="poisson")
    run = Run.create(tmp_path / "poisson", recipe)
    train(run)
    results = evaluate(run)
    assert results["query_gap"] is None
    assert list(results["contexts"]) == ["whole", "batch", "query"]
    assert "reason_weight" not in np.load(run.path / PREDICTIONS)
    assert write_report([run.path], tmp_path / "report.html").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"need the equation Laplace\(tau\) alone"):
        explain(run, 3)

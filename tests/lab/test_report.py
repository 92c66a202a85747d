"""The report: its numbers are the runs' numbers, and it keeps user text as text."""

import base64
import io
import re

import numpy as np
import pytest

from .report_pages import CLASSES, HOSTILE, Page, make_run

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
from PIL import Image

from weft.lab._report.loading import load_runs
from weft.lab._report.numbers import calibration, group_by_seed, kept_error, per_class
from weft.lab._report.pictures import LARGEST, Sheet, as_tiles
from weft.lab.evaluate import evaluate
from weft.lab.recipe import Recipe
from weft.lab.report import write_report
from weft.lab.runs import Run
from weft.lab.train import train


def report(tmp_path, *runs) -> Page:
    return Page(write_report(runs, tmp_path / "report.html"))


def test_the_accuracy_table_gives_mean_and_t_interval_over_seeds(tmp_path):
    runs = [
        make_run(tmp_path / f"run{seed}", seed=seed, accuracy=accuracy)
        for seed, accuracy in enumerate((0.90, 0.92, 0.94))
    ]
    header, row = report(tmp_path, *runs).tables[0]
    assert header[:3] == ["Head", "Labels", "Seeds"]
    # t(0.975, 2) = 4.3027; 4.3027 · 0.02 / √3 = 0.0497
    assert row == [
        *("graph", "5", "3"),
        *("92.0 ± 5.0", "91.0 ± 5.0", "90.0 ± 5.0", "12.5 ± 0.0", "15.0 ± 0.0"),
    ]


def test_one_seed_has_no_interval_and_the_page_says_so(tmp_path):
    page = report(tmp_path, make_run(tmp_path / "run", accuracy=0.9))
    assert page.tables[0][1] == ["graph", "5", "1", "90.0", "89.0", "88.0", "12.5", "15.0"]
    assert "One seed: how far another training run would move these numbers" in page.text


def test_runs_that_differ_in_more_than_the_seed_stand_apart_under_that_name(tmp_path):
    runs = [
        make_run(tmp_path / f"{epochs}-{seed}", epochs=epochs, seed=seed)
        for epochs in (20, 40)
        for seed in (0, 1)
    ]
    groups = group_by_seed(load_runs(runs))
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("graph, epochs 20", 2),
        ("graph, epochs 40", 2),
    ]


def test_groups_come_by_number_of_labels_and_all_of_them_last(tmp_path):
    runs = [make_run(tmp_path / f"run{n}", labels=n) for n in (0, 1000, 5)]
    assert [group.amount for group in group_by_seed(load_runs(runs))] == ["5", "1,000", "all"]


def test_the_conclusion_names_the_better_head_and_the_interval_of_its_lead(tmp_path):
    runs = [
        make_run(tmp_path / f"{head}{seed}", head=head, seed=seed, accuracy=base + seed / 50)
        for head, base in (("softmax", 0.8), ("graph", 0.9))
        for seed in (0, 1)
    ]
    text = report(tmp_path, *runs).text
    assert (
        "With 5 labels, the graph head is right on 91.0 % of 40 test samples, "
        "the softmax head on 81.0 %." in text
    )
    assert (
        "The lead of the graph head over the softmax head is 10.0 points "
        "(95 % interval 10.0 to 10.0 over 2 paired seeds)." in text
    )


def test_the_conclusion_says_when_other_seeds_could_undo_a_lead(tmp_path):
    runs = [
        make_run(tmp_path / f"{head}{seed}", head=head, seed=seed, accuracy=accuracy)
        for head, accuracies in (("softmax", (0.80, 0.90)), ("graph", (0.90, 0.82)))
        for seed, accuracy in enumerate(accuracies)
    ]
    text = report(tmp_path, *runs).text
    assert "Other seeds could undo the lead of the graph head over the softmax head: 1.0" in text


def test_the_conclusion_for_one_seed_each_tests_the_samples(tmp_path):
    runs = [make_run(tmp_path / head, head=head) for head in ("softmax", "graph")]
    text = report(tmp_path, *runs).text
    assert "heads are right on the same samples." in text
    assert "One seed each" in text


def test_the_error_among_the_kept_falls_as_doubtful_errors_are_refused():
    correct = np.array([True, True, False, False])
    error = kept_error(np.array([0.1, 0.2, 0.8, 0.9]), correct, np.array([1, 0.75, 0.5]))
    np.testing.assert_allclose(error, [1 / 2, 1 / 3, 0])


def test_samples_of_equal_doubt_are_refused_in_random_order():
    correct = np.array([False, True, True, True])
    kept = np.array([1, 0.5, 0.25])
    for shuffled in (correct, correct[::-1]):
        np.testing.assert_allclose(kept_error(np.zeros(4), shuffled, kept), [0.25] * 3)


def test_calibration_puts_each_confidence_in_its_bin(tmp_path):
    runs = load_runs([make_run(tmp_path / "run", head="softmax")])
    bins = calibration(runs, bins=4)
    p = runs[0].predictions
    for k in range(4):
        of_bin = (p.confidence >= k / 4) & (p.confidence < (k + 1) / 4)
        assert bins.share[k] == pytest.approx(of_bin.mean())
        if of_bin.any():
            assert bins.accuracy[k] == pytest.approx(p.correct[of_bin].mean())
            assert bins.confidence[k] == pytest.approx(p.confidence[of_bin].mean())


def test_the_per_class_table_counts_hits_and_misses(tmp_path):
    groups = group_by_seed(load_runs([make_run(tmp_path / "run")]))
    p = groups[0].runs[0].predictions
    for k, row in enumerate(per_class(groups[0])):
        hits = ((p.predicted == k) & (p.labels == k)).sum()
        assert (row.name, row.count) == (CLASSES[k], 4)
        assert row.precision == pytest.approx(hits / (p.predicted == k).sum())
        assert row.recall == pytest.approx(hits / 4)


def test_a_class_never_predicted_has_a_dash_for_precision(tmp_path):
    page = report(tmp_path, make_run(tmp_path / "run", classes=[*CLASSES, "yak", "zebu", "ape"]))
    assert page.tables[1][-1][:2] == ["ape", "–"]  # noqa: RUF001


def test_the_explorer_holds_each_samples_own_reasons(tmp_path):
    run = make_run(tmp_path / "run")
    p = load_runs([run])[0].predictions
    data = report(tmp_path, run).samples["runs"][0]
    assert data["index"] == p.index.tolist()
    assert data["labels"] == p.labels.tolist()
    assert [classes[0] for classes in data["classes"]] == p.predicted.tolist()
    np.testing.assert_allclose(np.max(data["probabilities"], 1), p.confidence, atol=1e-4)
    np.testing.assert_allclose(data["reasons"]["weights"], p.reason_weight, atol=1e-4)
    assert data["reasons"]["anchors"] == p.reason_anchor.tolist()
    assert data["neighbors"]["nodes"] == p.neighbor_index.tolist()


def test_votes_that_differ_from_the_probabilities_are_known_to_be_corrected(tmp_path):
    path = make_run(tmp_path / "run")
    assert not report(tmp_path, path).samples["runs"][0]["reasons"]["corrected"]
    with np.load(path / "predictions.npz") as file:
        arrays = dict(file)
    arrays["probabilities"] = arrays["probabilities"][:, ::-1]
    np.savez(path / "predictions.npz", **arrays)
    assert report(tmp_path, path).samples["runs"][0]["reasons"]["corrected"]


@pytest.mark.parametrize("head", ["softmax", "graph"])
def test_a_run_trained_and_evaluated_by_the_lab_has_a_report(tmp_path, head):
    run = Run.create(tmp_path / "run", Recipe(data="moons", head=head, labels=20, epochs=1))
    train(run)
    results = evaluate(run)
    page = report(tmp_path, run.path)
    contexts = results["contexts"].values()
    wanted = [f"{100 * context['accuracy']:.1f}" for context in contexts]
    assert page.tables[0][1][3:6] == wanted
    reasons = page.samples["runs"][0]["reasons"]
    assert (reasons is None) == (head == "softmax")


def test_the_sheet_shows_each_sample_at_its_place(tmp_path):
    run = make_run(tmp_path / "run")
    p = load_runs([run])[0].predictions
    page = report(tmp_path, run)
    side, columns = page.samples["sheet"]["side"], page.samples["sheet"]["columns"]
    found = re.search(r"data:image/png;base64,([^)\"]+)\)", page.source)
    assert found
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    data = page.samples["runs"][0]
    for place, picture in zip(data["tiles"], p.inputs, strict=True):
        y, x = side * (place // columns), side * (place % columns)
        shown = sheet[y : y + 6, x + 1 : x + 5]  # 6 × 4, centred in a square
        np.testing.assert_array_equal(shown, np.rint(picture[0] * 255))


def test_two_runs_share_the_pictures_of_the_same_samples():
    sheet, tiles = (
        Sheet(),
        as_tiles(np.random.default_rng(0).random((5, 1, 4, 4)), like=np.empty(0)),
    )
    assert sheet.add(tiles) == sheet.add(tiles) == [0, 1, 2, 3, 4]
    assert (sheet.rows, sheet.columns) == (2, 3)


@pytest.mark.parametrize(
    ("shape", "side", "channels"),
    [((3, 200, 100), LARGEST, 3), ((1, 28, 28), 28, 1), ((2, 8, 8), 8, 1), ((3, 5, 9), 9, 3)],
)
def test_images_of_any_shape_become_square_tiles(shape, side, channels):
    images = np.random.default_rng(0).random((2, *shape))
    assert as_tiles(images, like=images).shape == (2, side, side, channels)


@pytest.mark.parametrize("width", [1, 2, 3, 500])
def test_vectors_of_any_length_are_drawn_and_told_apart(width):
    vectors = np.random.default_rng(0).normal(size=(2, width))
    first, second = as_tiles(vectors, like=vectors)
    assert (first != second).any()


def test_the_page_loads_nothing(tmp_path):
    runs = [make_run(tmp_path / head, head=head) for head in ("softmax", "graph")]
    page = report(tmp_path, *runs)
    assert all(link.startswith(("#", "data:")) for link in page.loads)
    assert all(url.startswith(("data:", "#")) for url in re.findall(r"url\(([^)]+)\)", page.source))
    assert "@import" not in page.source


def test_the_same_runs_give_the_same_page(tmp_path):
    run = make_run(tmp_path / "run")
    first, second = (write_report([run], tmp_path / name) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


def test_a_report_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    output = tmp_path / "new" / "report.html"
    for seed in (0, 1):
        assert write_report([make_run(tmp_path / f"{seed}", seed=seed)], output) == output
    assert "seed 1" in output.read_text(encoding="utf-8")
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


def test_user_text_stays_text(tmp_path):
    run = make_run(tmp_path / "a<i>b", classes=[HOSTILE, "dog", "hen"], data=HOSTILE)
    page = report(tmp_path, run)
    assert HOSTILE not in page.source
    assert "<script>document" not in page.source
    assert "a<i>b" not in page.source
    assert page.samples["classes"][0] == HOSTILE  # and arrives whole
    assert page.tables[1][1][0] == HOSTILE
    assert HOSTILE in page.said


def refused(tmp_path, *runs) -> str:
    with pytest.raises(ValueError) as caught:
        write_report(runs, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    return str(caught.value)


def test_no_run_at_all_is_refused(tmp_path):
    assert "needs a run directory, got none" in refused(tmp_path)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    assert "must be a run directory, got one without recipe.toml" in refused(tmp_path, tmp_path)


def test_a_run_without_results_is_sent_to_evaluate(tmp_path):
    run = Run.create(tmp_path / "run", Recipe()).path
    assert f"make it with `weft evaluate {run}`" in refused(tmp_path, run)


def test_a_run_without_predictions_is_sent_to_evaluate(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "predictions.npz").unlink()
    assert f"run `weft evaluate {run}` again" in refused(tmp_path, run)


def test_runs_of_two_data_sets_are_refused(tmp_path):
    runs = [make_run(tmp_path / data, data=data) for data in ("digits", "moons")]
    message = refused(tmp_path, *runs)
    assert "runs on one data set, got digits in" in message
    assert "write one report for each" in message


def test_runs_of_two_sets_of_classes_are_refused(tmp_path):
    one = make_run(tmp_path / "one")
    other = make_run(tmp_path / "other", seed=1, classes=["cat", "dog", "fox"])
    assert "on the same classes" in refused(tmp_path, one, other)


def test_the_same_recipe_and_seed_twice_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    assert "each recipe and seed once, got the same in" in refused(tmp_path, run, run)


def test_an_output_that_is_a_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`output` must be a file, got the directory"):
        write_report([make_run(tmp_path / "run")], tmp_path)


@pytest.mark.parametrize(
    ("name", "spoil", "complaint"),
    [
        ("labels", lambda a: a + 1, "labels leaves the range 0 to 2"),
        ("probabilities", lambda a: a[:, :2], r"the probabilities are \(12, 2\), not \(12, 3\)"),
        ("probabilities", lambda a: a * np.nan, "the probabilities are not all finite"),
        ("abstention", lambda a: a[:3], "abstention has 3 rows, not 12"),
        ("anchor_features", lambda a: a[:3], "anchor_features has 3 rows, not 5"),
        ("reason_anchor", lambda a: a + 9, "reason_anchor leaves the range 0 to 4"),
        ("neighbor_index", lambda a: a - 9, "neighbor_index leaves the range 0 to 16"),
        ("index", lambda a: a.astype(object), "allow_pickle=False"),
        ("index", None, "predictions.npz lacks index"),
        ("reason_weight", None, "predictions.npz lacks reason_weight"),
    ],
)
def test_predictions_that_do_not_fit_together_are_refused(tmp_path, name, spoil, complaint):
    path = make_run(tmp_path / "run", without=[name] if spoil is None else ())
    if spoil is not None:
        with np.load(path / "predictions.npz") as file:
            arrays = dict(file)
        np.savez(path / "predictions.npz", **(arrays | {name: spoil(arrays[name])}))
    message = refused(tmp_path, path)
    assert re.search(complaint, message), message
    assert f"run `weft evaluate {path}` again" in message

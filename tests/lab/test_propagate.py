"""Labels of a few rows reach a whole file, and what was computed is not computed again."""

import json
from typing import get_args

import numpy as np
import pytest
import torch

from weft import cli
from weft.graph import ClassMass, ExactNeighbors, Laplace, knn_graph, laplace_learning
from weft.lab._equations import SpreadName
from weft.lab._readers import DataError
from weft.lab.propagate import propagate, read_features, read_labels

SETTINGS = {"k": 5, "normalization": ClassMass(below=0.03), "tolerance": 1e-8}


class Counted(ExactNeighbors):
    """Exact search that counts its calls."""

    calls = 0

    def __call__(self, features, k):
        type(self).calls += 1
        return super().__call__(features, k)

    def __repr__(self):
        return "Counted()"


@pytest.fixture
def files(tmp_path):
    """Three clusters of 200 points, one label in each."""
    generator = torch.Generator().manual_seed(0)
    centres = 8 * torch.eye(3, 6)
    classes = torch.arange(600) % 3
    points = centres[classes] + torch.randn(600, 6, generator=generator)
    labels = torch.full((600,), -1)
    labels[:3] = torch.tensor([4, 10, 2])
    np.save(tmp_path / "x.npy", points.numpy())
    np.save(tmp_path / "y.npy", labels.numpy())
    Counted.calls = 0
    return tmp_path


def run(files, labels="y.npy", features="x.npy", **changes):
    output = files / "out" / "p.npz"
    record = propagate(
        files / features,
        files / labels,
        output,
        Laplace(),
        Counted(),
        **{**SETTINGS, **changes},
    )
    with np.load(output, allow_pickle=False) as arrays:
        return record, dict(arrays)


def test_every_row_gets_the_label_of_its_cluster(files):
    record, arrays = run(files)
    assert arrays["labels"].tolist() == ["4", "10", "2"] * 200
    assert arrays["classes"].tolist() == ["2", "4", "10"]
    assert record["rows"] == 600
    assert record["labelled"] == record["classes"] == 3
    assert arrays["scores"].dtype == np.float32


def test_scores_are_those_of_the_functions(files):
    _, arrays = run(files)
    points = torch.from_numpy(np.load(files / "x.npy"))
    known = torch.arange(600) < 3
    one_hot = torch.zeros(600, 3)
    one_hot[[0, 1, 2], [1, 2, 0]] = 1
    expected = laplace_learning(knn_graph(points, 5), one_hot, known)
    assert np.abs(arrays["scores"] - expected.numpy()).max() < 1e-5


def test_neighbours_are_searched_once_for_the_same_points(files):
    run(files)
    again, arrays = run(files, tolerance=1e-6)
    assert Counted.calls == 1
    assert arrays["labels"].tolist() == ["4", "10", "2"] * 200
    assert again["rows"] == 600
    run(files, k=6)
    assert Counted.calls == 2


def test_other_points_are_searched_again(files):
    run(files)
    np.save(files / "x.npy", np.load(files / "x.npy") + 1)
    run(files)
    assert Counted.calls == 2


def test_half_written_neighbours_are_not_trusted(files):
    run(files)
    work = files / "out" / "p.work"
    assert json.loads((work / "job.json").read_text())["k"] == 5
    (work / "job.json").unlink()
    (work / "neighbors.npy").write_bytes(b"torn")
    run(files)
    assert Counted.calls == 2


def test_half_precision_rows_give_the_same_labels(files):
    np.save(files / "x.npy", np.load(files / "x.npy").astype(np.float16))
    _, arrays = run(files)
    assert arrays["labels"].tolist() == ["4", "10", "2"] * 200


def test_labels_may_come_as_text(files):
    (files / "y.csv").write_text("row,label\n0,cat\n1, dog \n2,emu\n")
    _, arrays = run(files, labels="y.csv")
    assert arrays["labels"].tolist() == ["cat", "dog", "emu"] * 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("row,label\n600,cat\n", r"y.csv must name rows 0..599, got 600"),
        ("row,label\nx,cat\n", r"y.csv is not an .npy of integers"),
        ("row\n1\n", r"y.csv is not an .npy of integers"),
        ("", r"y.csv must label at least one row, got none"),
    ],
)
def test_label_tables_of_another_layout_are_refused(files, content, message):
    (files / "y.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        run(files, labels="y.csv")


@pytest.mark.parametrize("array", [np.zeros(600), np.zeros(599, int), np.zeros((600, 1), int)])
def test_label_arrays_of_another_layout_are_refused(files, array):
    np.save(files / "bad.npy", array)
    with pytest.raises(DataError, match=r"bad.npy must be .* one for each of 600 rows, got"):
        read_labels(files / "bad.npy", 600)


@pytest.mark.parametrize("array", [np.zeros(5, np.float32), np.zeros((5, 2), np.uint8)])
def test_features_of_another_layout_are_refused(files, array):
    np.save(files / "bad.npy", array)
    with pytest.raises(DataError, match=r"bad.npy must be .*, got .* reshape and cast it"):
        read_features(files / "bad.npy")


@pytest.mark.parametrize("content", [None, b"no array", b""])
def test_files_that_are_missing_or_broken_are_named(files, content):
    path = files / "bad.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.npy is"):
        read_features(path)
    with pytest.raises(DataError, match=r"bad\.npy is"):
        read_labels(path, 5)


def test_a_pickle_is_not_opened(files):
    np.save(files / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"bad\.npy is not"):
        read_features(files / "bad.npy")


def test_the_output_must_be_an_npz(files):
    with pytest.raises(ValueError, match=r"`output` must be named .npz, got"):
        propagate(
            files / "x.npy", files / "y.npy", files / "p.csv", Laplace(), Counted(), **SETTINGS
        )


def test_the_command_prints_one_line_and_shows_its_stages_on_stderr(files, capsys):
    words = ["propagate", files / "x.npy", "--labels", files / "y.npy", "-o", files / "p.npz"]
    for extra in ([], ["--json", "--equation", "poisson"]):
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main([str(word) for word in (*words, *extra)])
    out, err = capsys.readouterr()
    line, record = out.splitlines()
    assert line.startswith(f"{files / 'p.npz'}: rows 600, edges ")
    assert json.loads(record)["labelled"] == 3
    assert "neighbours: 0." in err
    assert f"neighbours: from {files / 'p.work'}" in err  # the second time
    assert "solve: " in err
    with np.load(files / "p.npz") as arrays:
        assert arrays["labels"].tolist() == ["4", "10", "2"] * 200


@pytest.mark.parametrize("equation", get_args(SpreadName))
def test_every_equation_spreads_over_a_file_by_its_name(files, equation):
    output = files / "p.npz"
    words = ["propagate", files / "x.npy", "--labels", files / "y.npy", "-o", output]
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([*map(str, words), "--equation", equation, "--shares", "1,1,1"])
    with np.load(output) as arrays:
        right = arrays["labels"] == np.array(["4", "10", "2"] * 200)
    assert right.mean() > 0.9


def test_known_shares_decide_how_many_rows_a_class_gets(files):
    points = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    np.save(files / "x.npy", points.numpy())  # one cloud: no gap decides
    output = files / "p.npz"
    words = ["propagate", files / "x.npy", "--labels", files / "y.npy", "-o", output]
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([*map(str, words), "--shares", "2,2,1"])
    with np.load(output) as arrays:
        counts = [(arrays["labels"] == name).sum() for name in arrays["classes"]]
        assert arrays["classes"].tolist() == ["2", "4", "10"]  # the order of the shares
    np.testing.assert_allclose(counts, [240, 240, 120], atol=5)


def test_a_users_mistake_is_one_line_and_exit_code_2(files, capsys):
    good = [files / "x.npy", "--labels", files / "y.npy", "-o", files / "p.npz"]
    for words, message in (
        (["no.npy", "--labels", files / "y.npy", "-o", "p.npz"], "no.npy is missing: give"),
        ([files / "x.npy", "--labels", files / "y.npy", "-o", files / "p.csv"], "must be named"),
        ([files / "x.npy", "--labels", files / "y.npy", "-o", files / "p.npz", "--k", 600], "`k`"),
        ([*good, "--tolerance", 2], "`rtol` must lie between 0 and 1"),
        ([*good, "--shares", "1;1"], "`shares` must be numbers and commas"),
        ([*good, "--equation", "poisson_mbo"], "needs the classes' shares, got none"),
    ):
        with pytest.raises(SystemExit, match=r"^2$"):
            cli.main(["propagate", *map(str, words)])
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1

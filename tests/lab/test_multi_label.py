import dataclasses
import textwrap

import pytest
import torch

from weft.lab.data import DataError
from weft.lab.measures import SizeGroups
from weft.lab.multi_label import (
    MultiLabelDataset,
    compose_digits,
    load_label_matrix,
    load_multi_label,
)

HEADER = """\
    % two features, two labels
    @relation small
    @attribute height numeric
    @attribute 'warm' {0,1}
    @ATTRIBUTE width NUMERIC
    @attribute wet {0,1}
    @data
"""
XML = '<labels xmlns="http://x"><label name="wet"/><label name="warm"/></labels>'


@pytest.fixture
def root(tmp_path):
    """A data folder with a tiny data set, dense in train and sparse in test."""
    folder = tmp_path / "multilabel" / "small"
    folder.mkdir(parents=True)
    (folder / "small.xml").write_text(XML)
    write(folder, "train", "1.5,1,-2,0\n\n% a comment\n0,0,3e2,1\n")
    write(folder, "test", "{0 1.5,1 1}\n{}\n{2 4, 3 1}\n")
    return tmp_path


def write(folder, part, rows):
    (folder / f"small-{part}.arff").write_text(textwrap.dedent(HEADER) + rows)


def test_features_and_labels_are_told_apart_by_the_list_of_labels(root):
    data = load_multi_label("small", root)
    assert data.train_inputs.tolist() == [[1.5, -2], [0, 300]]
    assert data.train_targets.tolist() == [[True, False], [False, True]]
    assert data.label_names == ("warm", "wet")


def test_a_sparse_row_leaves_out_its_zeros(root):
    data = load_multi_label("small", root)
    assert data.test_inputs.tolist() == [[1.5, 0], [0, 0], [0, 4]]
    assert data.test_targets.tolist() == [[True, False], [False, False], [False, True]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,1,1\n", "line 8 must hold 4 numbers, .* there are 3"),
        ("1,1,one,1\n", "line 8 must hold 4 numbers"),
        ("{9 1}\n", "line 8 must hold 4 numbers, .* out of bounds"),
        ("{-1 1}\n", "line 8 must hold 4 numbers, .* there is no column -1"),
        ("", "must be an ARFF file, but has 4 attributes and 0 rows"),
    ],
)
def test_a_broken_row_is_named_with_its_line(root, rows, message):
    write(root / "multilabel" / "small", "test", rows)
    with pytest.raises(DataError, match=message):
        load_multi_label("small", root)


def test_missing_files_are_named(root):
    folder = root / "multilabel" / "small"
    (folder / "small-test.arff").unlink()
    with pytest.raises(DataError, match=r"small-test\.arff is missing"):
        load_multi_label("small", root)
    (folder / "small.xml").unlink()
    with pytest.raises(DataError, match=r"small\.xml must be there and list the labels"):
        load_multi_label("small", root)
    with pytest.raises(DataError, match=r"voc_mlt_train_labels\.npz must be an \.npz"):
        load_label_matrix("voc_mlt", root)


def test_a_label_without_its_column_is_refused(root):
    path = root / "multilabel" / "small" / "small.xml"
    path.write_text(XML.replace("</labels>", '<label name="windy"/></labels>'))
    with pytest.raises(DataError, match="got 2 of 3 labels: take files of one release"):
        load_multi_label("small", root)


def test_parts_that_do_not_fit_are_refused():
    data = compose_digits(0)
    with pytest.raises(DataError, match=r"`train_targets` .* must be \(600, 10\), .* \(600, 9\)"):
        dataclasses.replace(data, train_targets=data.train_targets[:, :9])
    with pytest.raises(DataError, match="must have finite inputs and boolean targets"):
        dataclasses.replace(data, test_inputs=data.test_inputs / 0)
    with pytest.raises(DataError, match=r"boolean targets, got torch\.float32 and torch\.float32"):
        MultiLabelDataset(
            "x",
            data.train_inputs,
            data.train_targets.float(),
            *[data.test_inputs] * 2,
            data.label_names,
        )


@pytest.mark.parametrize(
    ("name", "samples", "features", "labels", "frequencies"),
    [
        ("yeast", (1500, 917), 103, 14, (21, 1128)),
        ("scene", (1211, 1196), 294, 6, (165, 277)),
        ("bibtex", (4880, 2515), 1836, 159, (28, 691)),
    ],
)
def test_published_sizes_are_read(data_root, name, samples, features, labels, frequencies):
    data = load_multi_label(name, data_root)
    assert (len(data.train_inputs), len(data.test_inputs)) == samples
    assert data.train_inputs.shape[1] == data.test_inputs.shape[1] == features
    assert len(data.label_names) == labels
    counts = data.train_targets.sum(0)
    assert (counts.min(), counts.max()) == frequencies


@pytest.mark.parametrize(
    ("name", "shape", "frequencies", "groups"),
    [
        ("voc_mlt", (1142, 20), (4, 775), (6, 6, 8)),
        ("coco_mlt", (1909, 80), (6, 1128), (22, 33, 25)),
    ],
)
def test_label_matrices_fall_into_the_published_groups(data_root, name, shape, frequencies, groups):
    targets = load_label_matrix(name, data_root)
    assert targets.shape == shape
    counts = targets.sum(0)
    assert (counts.min(), counts.max()) == frequencies
    assert tuple(map(len, SizeGroups.by_count(counts))) == groups


def test_labels_are_the_digits_in_the_filled_tiles():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digit_of = {
        tuple(row): digit
        for row, digit in zip((bunch.data / 16).tolist(), bunch.target, strict=True)
    }
    data = compose_digits(seed=1)
    seen = []
    for inputs, targets in (
        (data.train_inputs, data.train_targets),
        (data.test_inputs, data.test_targets),
    ):
        pictures = set()
        for image, target in zip(inputs, targets, strict=True):
            filled = [tuple(tile.tolist()) for tile in image if tile.any()]
            assert 1 <= len(filled) <= 4
            assert {digit_of[tile] for tile in filled} == set(target.nonzero()[:, 0].tolist())
            pictures |= set(filled)
        seen.append(pictures)
    assert not seen[0] & seen[1]


def test_composed_training_labels_have_a_tail_and_test_labels_have_none():
    data = compose_digits(seed=0)
    counts = data.train_targets.sum(0).sort(descending=True).values
    assert counts[0] > 300
    assert counts[-1] < 30
    assert data.test_targets.sum(0).max() < 1.5 * data.test_targets.sum(0).min()


def test_composed_images_depend_on_the_seed_and_on_no_other_randomness():
    state = torch.get_rng_state()
    one = compose_digits(seed=3)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(99)
    assert one.train_inputs.equal(compose_digits(seed=3).train_inputs)
    assert not one.train_inputs.equal(compose_digits(seed=4).train_inputs)


@pytest.mark.parametrize("imbalance", [0.5, float("nan")])
def test_a_ratio_below_one_is_refused(imbalance):
    with pytest.raises(ValueError, match="`imbalance` must be a finite ratio of 1 or more, got"):
        compose_digits(0, imbalance=imbalance)

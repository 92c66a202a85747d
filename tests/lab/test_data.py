import csv
import gzip
import re
import struct
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from weft.lab.data import DataError, Dataset, load_data

RANDOM = np.random.default_rng(0)


def images(count, shape=(6, 5)):
    return RANDOM.integers(0, 256, (count, *shape), dtype=np.uint8)


def idx(array):
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def refusal(*args, **kwargs):
    """The message with which `load_data` refuses, which is one line."""
    with pytest.raises(DataError) as caught:
        load_data(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def idx_arrays():
    labels = np.arange(12, dtype=np.uint8) % 3
    return {
        "train-images-idx3-ubyte": images(12),
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": images(6),
        "t10k-labels-idx1-ubyte": labels[:6],
    }


@pytest.fixture
def idx_root(tmp_path, idx_arrays):
    """A data folder with a tiny `mnist`, half of it gzipped."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in idx_arrays.items():
        if "images" in name:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return tmp_path


# Bundled and generated


def test_digits_are_images_in_0_1_with_500_to_test():
    data = load_data("digits")
    assert data.image_shape == (1, 8, 8)
    assert (len(data.train_inputs), len(data.test_inputs)) == (1297, 500)
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0, 1)
    assert data.class_names == tuple("0123456789")
    assert data.test_labels.bincount().min() >= 48  # 500 shared out as the 1797 are


def test_the_test_part_of_digits_does_not_depend_on_the_seed():
    one, other = load_data("digits", seed=1), load_data("digits", seed=2)
    torch.testing.assert_close(one.test_inputs, other.test_inputs, rtol=0, atol=0)


def test_digits_in_train_and_test_are_all_digits_once():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    ours = torch.cat([data.train_inputs, data.test_inputs]).flatten(1) * 16
    assert Counter(map(tuple, ours.tolist())) == Counter(map(tuple, load_digits().data.tolist()))


def test_moons_are_vectors_that_depend_on_the_seed_alone():
    one, same, other = (load_data("moons", seed=seed) for seed in (1, 1, 2))
    assert one.image_shape is None
    assert one.train_inputs.shape == one.test_inputs.shape == (500, 2)
    torch.testing.assert_close(one.train_inputs, same.train_inputs, rtol=0, atol=0)
    assert not one.train_inputs.equal(other.train_inputs)


# IDX files


def test_idx_files_are_read_plain_and_gzipped(idx_root, idx_arrays):
    data = load_data("mnist", root=idx_root)
    train = torch.from_numpy(idx_arrays["train-images-idx3-ubyte"])
    torch.testing.assert_close(data.train_inputs, train.unsqueeze(1) / 255)
    assert data.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.class_names == ("0", "1", "2")


def test_the_data_folder_comes_from_the_environment_when_not_given(idx_root, monkeypatch):
    monkeypatch.setenv("WEFT_DATA", str(idx_root))
    assert load_data("mnist").image_shape == (1, 6, 5)
    monkeypatch.delenv("WEFT_DATA")
    assert "pass its root or set the environment variable WEFT_DATA" in refusal("mnist")


def test_a_missing_idx_file_is_named_with_the_layout(idx_root):
    path = idx_root / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.unlink()
    message = refusal("mnist", root=idx_root)
    assert message.startswith(f"{path} is missing: put train-images-idx3-ubyte, ")


def test_a_broken_idx_file_is_named_with_what_is_wrong(idx_root, idx_arrays):
    name = "train-images-idx3-ubyte"
    path = idx_root / "mnist" / f"{name}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert f"{path} cannot be read" in refusal("mnist", root=idx_root)
    path.write_bytes(gzip.compress(idx(idx_arrays[name])[:-7]))
    assert "must hold 12 x 6 x 5 values by its header, but holds 353" in refusal(
        "mnist", root=idx_root
    )
    path.write_bytes(gzip.compress(idx(idx_arrays["train-labels-idx1-ubyte"])))
    assert "uint8 with 3 axes, but starts with the bytes 00 00 08 01" in refusal(
        "mnist", root=idx_root
    )
    path.write_bytes(gzip.compress(b"\0\0\x08\x03\0"))
    assert "cut off" in refusal("mnist", root=idx_root)


# NPZ


def test_an_npz_with_parts_is_read_and_its_validation_part_left_alone(tmp_path):
    path = tmp_path / "colours.npz"
    pixels, names = images(6, (4, 5, 3)), np.array(["red", "blue"])
    labels = np.array([0, 1, 0, 1, 0, 1], np.uint8)
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels[:2], "y_test": labels[:2]}
    np.savez(path, **arrays, x_valid=pixels, y_valid=labels, class_names=names)
    data = load_data(str(path))
    assert data.class_names == ("red", "blue")
    assert data.image_shape == (3, 4, 5)
    want = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(data.train_inputs, want)
    assert len(data.train_inputs) == 6


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8)])
def test_grey_images_of_any_layout_get_one_channel_in_front(tmp_path, shape):
    path = tmp_path / "grey.npz"
    pixels = images(20, (8, 8))
    np.savez(path, x=(pixels / 255).reshape(20, *shape), y=np.arange(20) % 2)
    data = load_data(str(path))
    assert data.image_shape == (1, 8, 8)
    found = torch.cat([data.train_inputs, data.test_inputs]).flatten(1).mul(255).round()
    assert sorted(found.tolist()) == sorted(pixels.reshape(20, -1).tolist())


def test_vectors_keep_their_units_and_classes_their_values(tmp_path):
    path = tmp_path / "vectors.npz"
    x = RANDOM.normal(0, 1000, (20, 3))
    np.savez(path, x_train=x, y_train=np.tile([10, 9], 10), x_test=x[:2], y_test=np.array([9, 10]))
    data = load_data(str(path))
    torch.testing.assert_close(data.train_inputs, torch.from_numpy(x).float())
    assert data.class_names == ("9", "10")
    assert data.test_labels.tolist() == [0, 1]


def test_data_in_one_piece_are_split_by_class_and_by_seed(tmp_path):
    path = tmp_path / "one_piece.npz"
    labels = np.repeat(["a", "b"], [80, 20])
    np.savez(path, x=np.arange(200.0).reshape(100, 2), y=labels)
    one, same, other = (load_data(str(path), seed=seed) for seed in (0, 0, 1))
    assert one.test_labels.bincount().tolist() == [16, 4]
    assert sorted(one.train_inputs[:, 0].tolist() + one.test_inputs[:, 0].tolist()) == list(
        range(0, 200, 2)
    )
    assert one.test_inputs.equal(same.test_inputs)
    assert not one.test_inputs.equal(other.test_inputs)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((2, 2))}, "but holds x_train"),
        ({"x": np.zeros((2, 2)), "y": np.array([{}, {}])}, "without pickles: Object arrays"),
        ({"x": np.zeros((4, 2)), "y": np.zeros((4, 1), int)}, r"got inputs \(4, 2\) and labels"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3, int)}, "must have one label per input"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, "must have one label per input"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(4)}, "integers or strings, got float64: convert"),
        ({"x": np.full((4, 2), np.nan), "y": np.zeros(4, int)}, "must be finite and not empty"),
        ({"x": np.full((4, 9, 9), 2.0), "y": np.zeros(4, int)}, "from 2.0 to 2.0: rescale them"),
        ({"x": np.full((4, 9, 9), 256), "y": np.zeros(4, int)}, "integers in 0 to 255"),
        ({"x": np.zeros((4, 9, 9, 2)), "y": np.zeros(4, int)}, "must have 1 or 3 channels, got"),
        ({"x": np.zeros(4), "y": np.zeros(4, int)}, r"must be numbers, vectors \(n, d\) or images"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 0, 1])}, "a class of one sample"),
        (
            {"x": np.zeros((4, 2)), "y": np.array([0, 0, 2, 2]), "class_names": np.array(["a"])},
            "must lie in 0 to 0, one per class name, got . to 2",
        ),
        (
            {"x": np.zeros((2, 2)), "y": np.array(["a", "a"]), "class_names": np.array(["a"])},
            "must be indices into class_names, got <U1",
        ),
    ],
)
def test_an_npz_of_another_layout_is_refused_with_the_reason(tmp_path, arrays, message):
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    refused = refusal(str(path))
    assert refused.startswith(str(path)) or f"of {path} " in refused
    assert re.search(message, refused)


def test_a_class_seen_in_the_test_part_only_is_refused_by_name(tmp_path):
    path = tmp_path / "unseen.npz"
    x = np.zeros((3, 2))
    train, test = np.array(["cat", "dog", "cat"]), np.array(["cat", "emu", "dog"])
    np.savez(path, x_train=x, y_train=train, x_test=x, y_test=test)
    assert "has the class 'emu' in its test part only" in refusal(str(path))


def test_train_and_test_inputs_of_different_shapes_are_refused(tmp_path):
    path = tmp_path / "shapes.npz"
    y = np.array([0, 1])
    np.savez(path, x_train=np.zeros((2, 2)), y_train=y, x_test=np.zeros((2, 3)), y_test=y)
    assert "must have one shape, got (2,) and (3,)" in refusal(str(path))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_a_file_that_is_no_npz_is_refused_with_the_layout_wanted(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    assert f"{path} is not an .npz with arrays x_train, y_train" in refusal(str(path))


# CSV


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


ROWS = [[i, -i / 2, "cat" if i % 2 else "dog"] for i in range(10)]


@pytest.mark.parametrize("header", [[], [["width", "height", "species"]]])
def test_a_csv_is_read_with_and_without_a_header(tmp_path, header):
    data = load_data(write_csv(tmp_path / "pets.csv", header + ROWS))
    assert data.class_names == ("cat", "dog")
    found = torch.cat([data.train_inputs, data.test_inputs])
    assert sorted(found.tolist()) == [[i, -i / 2] for i in range(10)]
    odd = data.train_inputs[data.train_labels == 0, 0] % 2
    assert odd.eq(1).all()


def test_the_column_named_label_has_the_classes_wherever_it_stands(tmp_path):
    rows = [["label", "a"], *([i % 2 + 9, i] for i in range(10)), []]
    data = load_data(write_csv(tmp_path / "first.csv", rows))
    assert data.class_names == ("9", "10")
    assert data.train_inputs.shape == (8, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, "cat"], "line 11 must have 3 columns like the first, but has 2"),
        ([1, "many", "cat"], "line 11 must hold finite numbers and a class, but has 'many'"),
        ([1, "inf", "cat"], "but has 'inf' among its features"),
        ([1, "", "cat"], "but has '' among its features"),
        ([1, 2, " "], "line 11 must hold finite numbers and a class, but has no class"),
    ],
)
def test_a_bad_line_of_a_csv_is_named_by_its_number(tmp_path, row, message):
    assert message in refusal(write_csv(tmp_path / "bad.csv", [*ROWS, row]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no line with two columns"),
        ([[1], [2]], "has no line with two columns"),
        ([["a", "b", "label"]], "holds a header only"),
    ],
)
def test_a_csv_without_samples_is_refused(tmp_path, rows, message):
    assert message in refusal(write_csv(tmp_path / "empty.csv", rows))


def test_a_csv_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.csv"
    path.write_bytes(bytes(range(128, 256)))
    assert f"{path} is not a .csv of numbers with the class in the last" in refusal(str(path))


# Folders of images


def draw(folder, pixels, name="0.png"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name)


def test_a_folder_with_train_and_test_is_read_by_class(tmp_path):
    pixels = dict(zip(["train/b", "train/a", "test/a", "test/b"], images(4), strict=True))
    for where, image in pixels.items():
        draw(tmp_path / where, image)
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    data = load_data(str(tmp_path))
    assert data.class_names == ("a", "b")
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 1]
    want = torch.from_numpy(np.stack([pixels["train/a"], pixels["train/b"]]))
    torch.testing.assert_close(data.train_inputs, want.unsqueeze(1) / 255)


def test_a_folder_of_classes_is_split_and_one_colour_image_makes_all_rgb(tmp_path):
    for number in range(5):
        draw(tmp_path / "grey", images(1)[0], f"{number}.png")
        draw(tmp_path / "colour", images(1, (6, 5, 3))[0], f"{number}.png")
    data = load_data(str(tmp_path))
    assert data.image_shape == (3, 6, 5)
    assert data.class_names == ("colour", "grey")
    assert data.test_labels.bincount().tolist() == [1, 1]
    grey = data.train_inputs[data.train_labels == 1]
    assert grey.equal(grey[:, :1].expand_as(grey))


def test_a_folder_of_another_layout_is_refused_with_the_reason(tmp_path):
    folder = tmp_path / "pets"
    (folder / "cat").mkdir(parents=True)
    assert f"{folder} holds no CLASS/*.png: lay the images out as" in refusal(str(folder))
    draw(folder / "cat", images(1)[0])
    draw(folder / "dog", images(1, (6, 6))[0])
    assert "pets/dog/0.png has the shape (6, 6), but" in refusal(str(folder))
    draw(folder / "dog", images(1)[0].astype(np.uint16))
    assert "pets/dog/0.png is not an image of 8 bits" in refusal(str(folder))
    (folder / "dog" / "0.png").write_bytes(b"not a png")
    assert "pets/dog/0.png is not an image of 8 bits" in refusal(str(folder))


# Names


def test_an_unknown_name_is_refused_with_the_known_ones():
    assert "There are no data 'digit': name digits, moons, mnist" in refusal("digit")


@pytest.mark.parametrize("name", ["nowhere.npz", "nowhere.csv"])
def test_a_missing_file_is_named_with_its_layout(name):
    assert refusal(name).startswith(f"{name} is missing: give the path of a")


# The data set itself


def test_a_data_set_of_tensors_that_do_not_fit_is_refused():
    inputs, labels = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])
    good = dict(zip(["train_inputs", "test_inputs"], [inputs, inputs], strict=True))
    good |= {"train_labels": labels, "test_labels": labels}
    assert Dataset("mine", **good, class_names=("a", "b")).num_classes == 2
    for change, message in [
        ({"train_inputs": inputs.double()}, "`train_inputs` of mine must be float32 images"),
        ({"test_labels": labels.int()}, "`test_labels` of mine must be 4 int64"),
        ({"train_labels": labels + 1}, "must lie in 0 to 1, one per class name, got 1 to 2"),
        ({"train_labels": labels - 1}, "must lie in 0 to 1, one per class name, got -1 to 0"),
    ]:
        with pytest.raises(DataError, match=message):
            Dataset("mine", **(good | change), class_names=("a", "b"))


# Real files


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_idx_files_have_their_known_shapes(data_root, name):
    data = load_data(name, root=data_root)
    assert data.train_inputs.shape == (60000, 1, 28, 28)
    assert data.test_inputs.shape == (10000, 1, 28, 28)
    assert data.test_inputs.max() == 1
    assert data.num_classes == 10
    assert data.class_names[9] == {"mnist": "9", "fashion_mnist": "Ankle boot"}[name]


def test_the_real_cifar_subset_has_its_known_shapes(data_root):
    data = load_data("cifar10", root=data_root)
    assert data.train_inputs.shape == (10000, 3, 32, 32)
    assert data.test_labels.bincount().tolist() == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
    assert data.class_names[0] == "airplane"


def test_the_optical_digits_as_csv_have_64_features(data_root, tmp_path):
    path = tmp_path / "optdigits.csv"
    path.symlink_to(data_root / "optdigits" / "optdigits.tes")
    data = load_data(str(path))
    assert data.train_inputs.shape[1] == 64
    assert len(data.train_labels) + len(data.test_labels) == 1797

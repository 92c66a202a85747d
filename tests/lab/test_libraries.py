import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from weft.lab.data import DataError, load_data


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 6, 5), dtype=np.uint8)


def refusal(*args, **kwargs):
    """The message with which `load_data` refuses, which is one line."""
    with pytest.raises(DataError) as caught:
        load_data(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Library:
    """Samples as torchvision hands them out."""

    classes = ("one", "two")

    def __init__(self, root, train=True):
        if not (root / "there").exists():
            raise RuntimeError("Dataset not found.\nYou can use download=True")
        self.samples = [(Image.fromarray(image), i % 2) for i, image in enumerate(images(4))]
        self.samples = self.samples if train else self.samples[:2]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


class BySplit(Library):
    def __init__(self, root, split="train"):
        super().__init__(root, train=split == "train")


@pytest.fixture
def torchvision(monkeypatch):
    datasets = SimpleNamespace(Small=Library, BySplit=BySplit, InOnePiece=object)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=datasets))


@pytest.mark.parametrize("name", ["Small", "BySplit"])
@pytest.mark.usefixtures("torchvision")
def test_a_torchvision_data_set_is_read_from_the_data_folder(tmp_path, name):
    (tmp_path / "there").touch()
    data = load_data(f"torchvision:{name}", root=tmp_path)
    assert data.class_names == ("one", "two")
    assert data.image_shape == (1, 6, 5)
    assert (len(data.train_labels), len(data.test_labels)) == (4, 2)


@pytest.mark.usefixtures("torchvision")
def test_torchvision_data_that_cannot_be_read_are_refused_in_one_line(tmp_path):
    message = refusal("torchvision:Small", root=tmp_path)
    assert f"is not ready in {tmp_path} (Dataset not found.): nothing is downloaded" in message
    assert "no data set 'Nothing'" in refusal("torchvision:Nothing", root=tmp_path)
    assert "has no train and test part" in refusal("torchvision:InOnePiece", root=tmp_path)


def test_a_torchvision_built_for_another_torch_is_refused_in_one_line(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    message = refusal("torchvision:MNIST", root=tmp_path)
    assert "needs a torchvision that matches this PyTorch (operator nms does not exist)" in message


def test_hugging_face_data_without_the_library_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "install `datasets` and load the data once yourself" in refusal("hf:mnist")


def test_a_saved_hugging_face_data_set_is_read_and_none_is_downloaded(tmp_path):
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["one", "two"])}
    pixels = images(10)
    samples = {"image": [Image.fromarray(image) for image in pixels], "label": [0, 1] * 5}
    table = datasets.Dataset.from_dict(samples, features=datasets.Features(columns))
    table.save_to_disk(tmp_path / "saved")
    data = load_data(f"hf:{tmp_path / 'saved'}")
    assert data.class_names == ("one", "two")
    assert (len(data.train_labels), len(data.test_labels)) == (8, 2)
    assert "nothing is downloaded here" in refusal("hf:not-in-any-cache")

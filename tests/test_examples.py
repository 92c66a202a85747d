"""The examples run, and reach what they promise. Each library's example needs that library."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name):
    """Import an example by its path: the folder is no package."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_pytorch_learns_from_few_labels():
    example = load("few_labels")
    before, after = example.main(steps=0), example.main()
    assert after["whole"] > 0.955
    assert after["query"] > 0.93
    assert all(after[context] > before[context] + 0.01 for context in after)


# A trained model comes back from its file with its anchors: without them it would guess.


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_lightning_trains_saves_and_loads(tmp_path):
    pytest.importorskip("lightning", reason="needs the extra weft[interop]: lightning")
    assert load("lightning_trainer").main(str(tmp_path)) > 0.96


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_hugging_face_trains_saves_and_loads(tmp_path, capsys):
    pytest.importorskip("transformers", reason="needs the extra weft[interop]: transformers")
    pytest.importorskip("accelerate", reason="needs the extra weft[interop]: accelerate")
    assert load("hugging_face_trainer").main(str(tmp_path)) > 0.96


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_no_example_is_longer_than_80_lines(path):
    assert len(path.read_text().splitlines()) <= 80

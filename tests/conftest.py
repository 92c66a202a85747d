"""What all tests share: one thread, repeatable examples, the data folder, the devices."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# A shell that runs the tests in the background makes them, and all they start, deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Derandomized, a failure seen once is seen again; no deadline, a busy machine fails nothing.
hypothesis.settings.register_profile("weft", deadline=None, derandomize=True)
hypothesis.settings.load_profile("weft")

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device there is: a test that takes it runs once on each."""
    return torch.device(request.param)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Call the command line as a user does; returns exit code, stdout, stderr."""
    from weft import cli

    def run(*words: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; tests that want it skip where it is not."""
    here = Path(__file__).resolve().parents[1]
    root = Path(os.environ.get("WEFT_DATA", here.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no data folder at {root}: set WEFT_DATA to one")
    return root

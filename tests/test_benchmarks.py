"""Every benchmark runs from its command line and prints a table, at sizes that say nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("[!_]*.py"))


def run(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS.parent)


def results():
    return {path: path.stat().st_mtime_ns for path in BENCHMARKS.glob("results/*")}


def test_there_are_benchmarks():
    assert "layer.py" in SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_quick_run_prints_its_table_and_stores_nothing(script):
    stored = results()
    finished = run(BENCHMARKS / script, "--quick")
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.splitlines()) >= 2  # a header and a row
    assert results() == stored


def test_the_layer_is_compared_with_a_released_one_that_is_given(tmp_path):
    # A stand-in with the interface of the authors' module; its answer is weft's own.
    (tmp_path / "graphlearning.py").write_text(
        "class weightmatrix:\n    knnsearch = staticmethod(lambda *args, **kwargs: None)\n"
    )
    (tmp_path / "GLL.py").write_text(
        "from layer import Problem, weft\n"
        "class LaplaceLearningSparseHard:\n"
        "    @staticmethod\n"
        "    def apply(features, labels):\n"
        "        return weft(features, Problem.of_size(len(features)))\n"
    )
    finished = run(BENCHMARKS / "layer.py", "--quick", "--peer", tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "authors, exact neighbours" in finished.stdout

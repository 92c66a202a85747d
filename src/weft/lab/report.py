"""Write one self-contained page about evaluated runs: curves, accuracy, doubts and reasons."""

import os
from collections.abc import Sequence
from pathlib import Path

from weft.lab._report.loading import load_runs
from weft.lab._report.page import render


def write_report(run_dirs: Sequence[Path], output: Path) -> Path:
    """Write an HTML page about runs; it opens from disk and loads nothing else.

    Runs whose recipes differ in the seed alone are averaged, with 95 % t-intervals; the embedding
    and the explorer show the first of them. The same runs give the same page, byte for byte.

    Args:
        run_dirs: evaluated run directories of one data set.
        output: the file to write; missing directories are made, a file there is replaced whole.

    Returns:
        `output`.

    Raises:
        ValueError: there is no directory, one is not an evaluated run, two hold the same recipe
            and seed, they are of several data sets, or `output` is a directory.
    """
    output = Path(output)
    if output.is_dir():
        raise ValueError(
            f"`output` must be a file, got the directory {output}: name a file in it, "
            f"such as {output / 'report.html'}."
        )
    page = render(load_runs(run_dirs))
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(output.name + ".part")
    aside.write_text(page, encoding="utf-8")
    os.replace(aside, output)
    return output

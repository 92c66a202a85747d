"""The floors hold: a file imports from lower floors and its own room, and stays short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "weft"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up; each floor lists its rooms, each room the names directly under `weft`
# that make it ("" is the package itself).
FLOORS = (
    ({"", "_check"},),
    ({"graph"}, {"discrete"}, {"isometry"}, {"logits"}, {"robustness"}),
    ({"heads"}, {"estimators"}),
    ({"lab"},),
    ({"cli", "__main__"},),
)
PLACES = {
    name: (floor, room)
    for floor, rooms in enumerate(FLOORS)
    for room, names in enumerate(rooms)
    for name in names
}


def module_of(path: Path) -> list[str]:
    """`graph/_solve.py` -> ["weft", "graph", "_solve"]; a package keeps its `__init__`."""
    return ["weft", *path.relative_to(PACKAGE).with_suffix("").parts]


def imported(source: str, module: list[str]) -> Iterator[tuple[int, str]]:
    """Line and name under `weft` of every import of weft, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = module[: -node.level] if node.level else []
            origin = start + (node.module.split(".") if node.module else [])
            targets = [[*origin, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "weft":
                name = target[1] if len(target) > 1 else ""
                yield node.lineno, name if name in PLACES else ""  # `from weft import __version__`


def violations(source: str, module: list[str]) -> list[str]:
    """The imports of a file that its floor forbids."""
    own = module[1] if len(module) > 1 and module[1] != "__init__" else ""
    floor, room = PLACES[own]
    found = []
    for line, name in imported(source, module):
        other_floor, other_room = PLACES[name]
        if other_floor > floor or (other_floor == floor and other_room != room):
            found.append(
                f"{'.'.join(module)}:{line} (floor {floor}) imports {name} ({other_floor})"
            )
    return found


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_file_has_a_floor():
    homeless = {module_of(path)[1] for path in FILES} - {"__init__"} - PLACES.keys()
    assert not homeless, f"give {sorted(homeless)} a floor in FLOORS, and in CONTRIBUTING.md"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    assert violations(path.read_text(), module_of(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("weft.graph._solve", "from weft.heads import GraphHead"),
        ("weft.graph._solve", "def f():\n    import weft.discrete"),
        ("weft.graph._solve", "from ..logits import ClassStats"),
        ("weft.graph.__init__", "from .. import isometry"),
        ("weft.heads", "from weft import estimators"),
        ("weft.heads", "from . import lab"),
        ("weft._check", "from weft.graph._graph import Graph"),
        ("weft.__init__", "from weft.graph import Graph"),
    ],
)
def test_an_import_that_goes_up_or_across_is_found(module, source):
    assert len(violations(source, module.split("."))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("weft.graph._solve", "import torch\nfrom weft._check import ConvergenceError"),
        ("weft.graph._solve", "from weft.graph._graph import Graph\nfrom ._graph import Graph"),
        ("weft.graph.__init__", "from ._graph import Graph"),
        ("weft.lab.train", "from weft.heads import GraphHead\nfrom weft import __version__"),
        ("weft.__main__", "from weft.cli import main"),
        ("weft.__init__", "from weft._check import WeftWarning"),
    ],
)
def test_an_import_that_goes_down_or_stays_in_its_room_passes(module, source):
    assert violations(source, module.split(".")) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_longer_than_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300, "split it by meaning"


@pytest.mark.parametrize("room", ["graph", "discrete", "logits", "heads"])
def test_importing_numerics_or_heads_imports_no_optional_package(room):
    if not list(PACKAGE.glob(f"{room}/__init__.py")) + list(PACKAGE.glob(f"{room}.py")):
        pytest.skip(f"weft.{room} is not there yet")
    optional = {"sklearn", "matplotlib", "rich", "typer", "faiss", "safetensors"}
    optional |= {"rustworkx", "entmax", "pyamg", "networkx"}
    script = f"import sys, weft.{room}; print(*({optional} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr

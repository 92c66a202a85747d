"""What users import changes on purpose only: each room's `__all__` is pinned in a file.

After a change that is meant, write the file anew and look at its diff:

    .venv/bin/python tests/test_public_names.py > tests/public_names.txt
"""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import weft

PINNED = Path(__file__).with_name("public_names.txt")
PROGRAMS = {"lab", "cli"}  # used by their command line; its flags are pinned in their own test
ROOMS = sorted(
    room.name
    for room in pkgutil.iter_modules(weft.__path__)
    if not room.name.startswith("_") and room.name not in PROGRAMS
)


def listing() -> str:
    """A line `weft.room.name` for every public name of every room."""
    return "".join(
        f"weft.{room}.{name}\n"
        for room in ROOMS
        for name in sorted(importlib.import_module(f"weft.{room}").__all__)
    )


def test_public_names_are_those_of_the_file():
    assert listing().splitlines() == PINNED.read_text().splitlines(), __doc__


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_exists_and_is_documented(room):
    module = importlib.import_module(f"weft.{room}")
    public = {name: getattr(module, name) for name in module.__all__}
    assert [name for name, it in public.items() if inspect.isroutine(it) and not it.__doc__] == []
    # A class without a docstring would show that of its base, or the one a dataclass makes.
    classes = {name: it.__doc__ or "" for name, it in public.items() if inspect.isclass(it)}
    assert [name for name, doc in classes.items() if not doc or doc.startswith(f"{name}(")] == []


if __name__ == "__main__":
    print(listing(), end="")

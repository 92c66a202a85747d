"""The command line changes on purpose only: its commands and flags are pinned in a file.

After a change that is meant, write the file anew and look at its diff:

    .venv/bin/python tests/test_command_line_flags.py > tests/command_line_flags.txt
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

cli = pytest.importorskip("weft.cli", reason="weft.cli is not there yet")
PINNED = Path(__file__).with_name("command_line_flags.txt")


def listing(command: Any, name: str) -> Iterator[str]:
    """A line for every command, and for each of its arguments and options with its default."""
    yield name
    for parameter in command.params:
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        default = "required" if parameter.required else parameter.default
        yield f"    {names}: {default}"
    for child, subcommand in sorted(getattr(command, "commands", {}).items()):
        yield from listing(subcommand, f"{name} {child}")


def current() -> list[str]:
    return list(listing(get_command(cli.app), "weft"))


def test_commands_and_flags_are_those_of_the_file():
    assert current() == PINNED.read_text().splitlines(), __doc__


if __name__ == "__main__":
    print(*current(), sep="\n")

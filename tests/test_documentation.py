"""What the README and other pages show is true: Python blocks run, commands and flags exist.

The Python blocks of one page run in order, in one namespace and in an empty folder. What a
block needs and a reader does not, stands in a block inside an HTML comment before it.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
    *sorted(ROOT.glob("experiments/**/*.md")),
]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^ *```", re.M | re.S)
OPTIONAL = {"datasets", "lightning", "torchvision", "transformers"}  # extras not in `dev`


class Block(NamedTuple):
    line: int  # of its first line in the page
    text: str


def blocks(page: str, *languages: str) -> Iterator[Block]:
    """The fenced blocks of a page in one of `languages`, those in HTML comments too."""
    for fence in FENCE.finditer(page):
        if fence["language"] in languages:
            yield Block(
                page.count("\n", 0, fence.start("body")) + 1, textwrap.dedent(fence["body"])
            )


def commands(page: str) -> Iterator[tuple[int, list[str]]]:
    """Line and words of each command in the shell blocks of a page."""
    for block in blocks(page, "sh", "bash", "shell", "console"):
        joined = block.text.replace("\\\n", "  ")  # keeps later line numbers only roughly
        for offset, line in enumerate(joined.splitlines()):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            yield from ((block.line + offset, part) for part in split(words) if part)


def split(words: list[str]) -> Iterator[list[str]]:
    """The single commands of a line joined by `&&`, `|`, `;` or redirected."""
    start = 0
    for end, word in [*enumerate(words), (len(words), ";")]:
        if word in {"&&", "||", "|", ";", ">", "2>"}:
            yield words[start:end]
            start = end + 1


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": relative(page)}
    for block in blocks(page.read_text(), "python", "py"):
        # The empty lines before it make a traceback point into the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        try:
            exec(code, namespace)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"from line {block.line} on: {error.name} is not installed")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line, (program, *words) in commands(page.read_text()):
        asked = {word for word in words if "=" not in word and not word.startswith("-")}
        assert program != "make" or asked <= targets, f"{relative(page)}:{line}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_weft_commands_and_their_flags_exist(page):
    cli = pytest.importorskip("weft.cli", reason="weft.cli is not there yet")
    main = pytest.importorskip("typer.main")
    for line, words in commands(page.read_text()):
        if words[0].endswith("weft"):
            check(main.get_command(cli.app), words[1:], f"{relative(page)}:{line}")


def check(command: Any, words: list[str], where: str) -> None:
    """Follow the subcommands, then fail on a word that looks like a flag and is none."""
    name = "weft"
    while words and not words[0].startswith("-") and hasattr(command, "commands"):
        assert words[0] in command.commands, f"{where}: `{name}` has no command {words[0]!r}"
        command, name, words = command.commands[words[0]], f"{name} {words[0]}", words[1:]
    flags = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in words:
        is_flag = re.match(r"--?[a-zA-Z]", word)
        assert not is_flag or word.split("=")[0] in flags, f"{where}: `{name}` has no {word}"


def test_a_page_with_a_false_command_or_flag_is_found():
    page = "```sh\nweft run digits --hat graph && make demo  # and so on\n```\n"
    assert [words for _, words in commands(page)] == [
        ["weft", "run", "digits", "--hat", "graph"],
        ["make", "demo"],
    ]
    typer = pytest.importorskip("typer")
    app = typer.Typer()

    @app.callback()
    def main() -> None: ...

    @app.command()
    def run(data: str, *, head: str = "graph") -> None: ...

    command = typer.main.get_command(app)
    check(command, ["run", "digits", "--head", "graph"], "here")
    with pytest.raises(AssertionError, match="`weft run` has no --hat"):
        check(command, ["run", "digits", "--hat", "graph"], "here")
    with pytest.raises(AssertionError, match="`weft` has no command 'walk'"):
        check(command, ["walk", "digits"], "here")


def test_blocks_in_comments_and_lists_are_found():
    page = "<!--\n```python\nx = 1\n```\n-->\n- item\n\n    ```python\n    y = x\n    ```\n"
    assert list(blocks(page, "python")) == [Block(3, "x = 1\n"), Block(9, "y = x\n")]

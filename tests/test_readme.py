"""The README is true: its commands parse, those that touch nothing run, its tables are regenerated and compared.

`python -m tests.test_readme` writes the table of commands anew.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
_TABLE = re.compile(r"(<!-- commands: .*? -->\n).*?(<!-- end of commands -->)", re.DOTALL)


def command_lines() -> list[str]:
    """Every `llmops …` of the README: lines of shell blocks, and code in a sentence."""
    text = _TABLE.sub("", README.read_text())
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`((?:\w+=\S+ )*llmops [^`]+)`", text)
    return [line for line in lines if re.match(r"(\w+=\S+ )*llmops ", line)]


def arguments_of(line: str) -> list[str]:
    words = shlex.split(line)
    return words[words.index("llmops") + 1 :]


def root() -> Any:
    from llmops.cli.main import app

    return typer.main.get_command(app)


def leaves(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its whole name."""
    if getattr(command, "commands", None):
        for name, inner in command.commands.items():
            # `llmops serve GATEWAY` is a hidden command of its group: the group does it where no command is named.
            yield from leaves(inner, names if inner.hidden else (*names, name))
    else:
        yield " ".join(names), command


def commands_table() -> str:
    lines = ["| command | does |", "|---|---|"]
    for name, command in leaves(root()):
        usage = " ".join(
            [name, *((one.metavar or one.name).upper() for one in command.params if one.param_type_name == "argument")]
        )
        summary = (command.help or "").strip().split("\n\n")[0].replace("\n", " ")
        lines.append(f"| `llmops {usage}` | {summary} |".replace("@ALIAS|/", r"@ALIAS\|/"))
    return "\n".join(lines)


_RUNS = ("--dry-run", "--help", " explain ")
"""Marks of commands that touch nothing; these are run, the others parsed, as are those that need a registered model."""


@pytest.mark.parametrize("line", [line for line in command_lines() if "--help" not in line])
def test_every_command_parses(line: str) -> None:
    words = arguments_of(line)
    command: Any = root()
    names = []
    while getattr(command, "commands", None):
        assert words, line
        name, command, words = command.resolve_command(typer.Context(command), words)
        names.append(name)
    command.make_context(" ".join(names), words)


@pytest.mark.parametrize(
    "line",
    [line for line in command_lines() if any(mark in line for mark in _RUNS) and "models:/" not in line],
)
def test_a_command_that_touches_nothing_runs(line: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmops.cli.main", *arguments_of(line)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_table_of_commands_is_what_the_commands_say() -> None:
    found = _TABLE.search(README.read_text())
    assert found is not None
    assert found.group(0) == _TABLE.sub(rf"\g<1>{_escaped()}\n\g<2>", found.group(0)), (
        "write it anew: python -m tests.test_readme"
    )


def test_files_that_are_named_exist() -> None:
    text = README.read_text()
    for name in re.findall(r"`((?:tests|recipes|eval|configs|requirements)/[\w./-]+\.\w+)`", text):
        assert (REPOSITORY / name).is_file(), name
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert list((REPOSITORY / "tests").rglob(name)), name
    for name in re.findall(r"\]\((?!#)([^)]+)\)", text):
        assert (REPOSITORY / name).is_file(), name


def test_the_recipe_shown_loads(tmp_path: Path) -> None:
    from llmops.config import load
    from llmops.finetune.recipe import Recipe

    block = re.search(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    yaml.safe_load(block.group(1))
    (tmp_path / "recipe.yaml").write_text(block.group(1))
    load(tmp_path / "recipe.yaml", Recipe, what="recipe")


def _escaped() -> str:
    return commands_table().replace("\\", r"\\")


if __name__ == "__main__":
    README.write_text(_TABLE.sub(rf"\g<1>{_escaped()}\n\g<2>", README.read_text()))

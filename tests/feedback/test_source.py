"""What the source of the rating service never does: unpickle, put values into SQL, open archives, trust markup."""

from __future__ import annotations

import ast
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmops.data.filetypes import ENDINGS, filetype_of

PACKAGE = Path(__file__).parents[2] / "llmops" / "feedback"
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = sorted((PACKAGE.parent / "cli").glob("feedback*.py"))

TEXT = {"text", "execute", "exec_driver_sql", "scalar", "scalars", "literal_column", "prefix_with", "suffix_with"}
"""What takes SQL as a text."""
UNPICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch"}
ARCHIVES = {"zipfile", "tarfile", "shutil.unpack_archive", "zipimport"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def built(tree: ast.AST) -> Iterator[ast.expr]:
    """Arguments of calls that take SQL, where they are no plain text and no object of SQLAlchemy's."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in TEXT and made_of_parts(node.args[0]):
            yield node.args[0]


def made_of_parts(argument: ast.expr) -> bool:
    if isinstance(argument, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in argument.values)
    if isinstance(argument, ast.BinOp):
        return isinstance(argument.op, ast.Mod | ast.Add) and any(
            (isinstance(side, ast.Constant) and isinstance(side.value, str)) or made_of_parts(side)
            for side in (argument.left, argument.right)
        )
    return (
        isinstance(argument, ast.Call)
        and isinstance(argument.func, ast.Attribute)
        and argument.func.attr in {"format", "join", "replace", "format_map"}
    )


@pytest.mark.parametrize("path", [*MODULES, *COMMANDS], ids=lambda path: path.name)
def test_a_module_unpickles_nothing_opens_no_archive_and_binds_its_values(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = set(imported(tree))
    assert {name.partition(".")[0] for name in names} & UNPICKLING == set()
    assert names & ARCHIVES == set()
    assert [ast.unparse(one) for one in built(tree)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("connection.execute(text(f'SELECT {x}'))", 1),
        ("connection.execute('SELECT %s' % x)", 1),
        ("text('SELECT {}'.format(x))", 1),
        ("exec_driver_sql('DELETE FROM ' + table)", 1),
        ("connection.execute(' '.join(parts))", 1),
        ("text('SELECT :x').bindparams(x=x)", 0),
        ("connection.execute(select(t).where(t.c.x == x))", 0),
        ("text(f'SELECT 1')", 0),
    ],
)
def test_that_test_would_see_it(source: str, found: int) -> None:
    assert len(list(built(ast.parse(source)))) == found


def test_templates_escape_everything() -> None:
    """`|safe` and switched-off escaping appear in no template; pages.py's Markup alone is the renderer's own work."""
    for template in (PACKAGE / "ui").glob("*.html"):
        source = template.read_text()
        assert "|safe" not in source.replace(" ", ""), template.name
        assert "autoescape" not in source, template.name
        assert "<script>" not in source, f"{template.name}: no script within a page"
        assert " style=" not in source, f"{template.name}: no style within a page"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.jsonl.gz", "a.csv.bz2", "a.xlsx", "a.7z"])
def test_imports_read_no_archive_so_that_there_is_no_path_in_one_and_no_bomb(name: str) -> None:
    assert filetype_of(name) is None
    assert not any(name.endswith(ending) for ending in ENDINGS)


def test_an_archive_with_the_name_of_rows_is_refused(tmp_path: Path) -> None:
    """A zip whose member would land outside, called rows.jsonl: it is read as text, which it is not."""
    from llmops.data.filetypes import rows_in
    from llmops.errors import FileFaults

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../outside.jsonl", '{"prompt": "x"}')
    packed.seek(0)
    with pytest.raises(FileFaults):
        list(rows_in(packed, "jsonl", name="rows.jsonl"))
    assert not (tmp_path.parent.parent / "outside.jsonl").exists()

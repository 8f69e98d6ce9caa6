"""Rows are read the same from every place; a source at fault is named in two lines before anything is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from llmops.data.section import DataSection, Origin
from llmops.data.sources import check_columns, is_local, pin, read, source_digest
from llmops.errors import EnvironmentFault, FileFaults, InputError

ROWS = [{"q": f"Wie viele? {n} ü", "a": f"{n}"} for n in range(7)]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def columns(origin: Origin) -> list[dict[str, Any]]:
    return [found for _, found in read(origin)]


def age(path: Path) -> None:
    """Make a file old enough that its digest is remembered."""
    os.utime(path, (1e9, 1e9))


class FakeHub:
    """A hub with one data set whose newest commit is `newest`."""

    newest = "1" * 40

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str, str]] = []

    def commit(self, name: str, revision: str | None) -> str:
        return revision or self.newest

    def rows(self, name: str, *, config: str | None, split: str, commit: str) -> Iterator[Mapping[str, Any]]:
        self.asked.append((name, config, split, commit))
        return iter(ROWS)


@pytest.fixture
def memory() -> Iterator[str]:
    """An address in fsspec's memory file system, emptied afterwards."""
    import fsspec

    filesystem = fsspec.filesystem("memory")
    root = f"/sources-{os.getpid()}"
    yield f"memory:/{root}"
    if filesystem.exists(root):
        filesystem.rm(root, recursive=True)


def test_take_stops_after_so_many_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl")
    assert list(read(Origin(source=str(path), take=2))) == [(1, ROWS[0]), (2, ROWS[1])]


def test_a_folder_is_its_files_in_the_order_of_their_names_numbered_through(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_jsonl(tmp_path / "sub" / "b.jsonl", ROWS[2:])
    (tmp_path / "a.csv").write_text("q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in ROWS[:2]))
    for left_out in ("README.md", ".hidden.csv", "_SUCCESS", "dataset_info.json", "state.json"):
        (tmp_path / left_out).write_text("[1")
    assert list(read(Origin(source=str(tmp_path)))) == list(enumerate(ROWS, 1))


def test_format_reads_files_whose_ending_says_nothing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.txt")
    with pytest.raises(InputError, match="ending") as caught:
        columns(Origin(source=str(path)))
    assert "jsonl" in caught.value.fix
    assert columns(Origin(source=str(path), format="jsonl")) == ROWS
    assert columns(Origin(source=f"file://{path}", format="jsonl")) == ROWS


def test_a_missing_file_is_two_lines_with_the_nearest_name(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    with pytest.raises(InputError, match=r"did you mean `train\.jsonl`") as caught:
        columns(Origin(source=str(tmp_path / "trian.jsonl")))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(("name", "content"), [("a.csv", "q,a\n"), ("a.jsonl", ""), ("a.json", "[]")])
def test_a_source_without_rows_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="no rows"):
        columns(Origin(source=str(tmp_path / name)))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file with rows"):
        columns(Origin(source=str(tmp_path)))


def test_a_url_is_read_through_fsspec_as_file_and_as_folder(memory: str, tmp_path: Path) -> None:
    import fsspec
    import pyarrow
    import pyarrow.parquet

    with fsspec.open(f"{memory}/b.jsonl", "wb") as file:
        file.write(write_jsonl(tmp_path / "x.jsonl", ROWS[3:]).read_bytes())
    with fsspec.open(f"{memory}/a.parquet", "wb") as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:3]), file)
    assert columns(Origin(source=f"{memory}/b.jsonl")) == ROWS[3:]
    assert list(read(Origin(source=memory))) == list(enumerate(ROWS, 1))
    with pytest.raises(InputError, match="nothing at"):
        columns(Origin(source=f"{memory}/none.jsonl"))


def test_the_digest_of_a_url_changes_with_what_is_there(memory: str, tmp_path: Path) -> None:
    import fsspec

    origin = Origin(source=f"{memory}/a.jsonl")
    fsspec.filesystem("memory").pipe(origin.source, b'{"q": 1}\n')
    first = source_digest(origin, tmp_path)
    assert source_digest(origin, tmp_path) == first
    fsspec.filesystem("memory").pipe(origin.source, b'{"q": 22}\n')
    assert source_digest(origin, tmp_path) != first


def test_http_rows_are_those_of_the_file_and_a_dead_server_is_said(tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    write_jsonl(tmp_path / "a.jsonl")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = Origin(source=f"http://127.0.0.1:{server.server_port}/a.jsonl")
        assert columns(origin) == ROWS
        first = source_digest(origin, tmp_path)
        assert source_digest(origin, tmp_path) == first
        age(write_jsonl(tmp_path / "a.jsonl"))
        assert source_digest(origin, tmp_path) != first
        server.shutdown()
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        columns(origin)


@pytest.mark.parametrize(
    ("source", "package"),
    [("s3://b/a.csv", "s3fs"), ("lakefs://r/main/a.csv", "lakefs-spec"), ("gs://b/a.csv", "gcsfs")],
)
def test_a_store_whose_package_is_missing_names_the_package(source: str, package: str) -> None:
    if find_spec(package.replace("-", "_")):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(EnvironmentFault) as caught:
        columns(Origin(source=source))
    assert caught.value.fix == f"run `pip install {package}`"


def test_an_unknown_protocol_is_the_users_mistake() -> None:
    with pytest.raises(InputError, match="htps"):
        columns(Origin(source="htps://host/a.csv"))


def test_a_delta_table_is_read_at_a_version_and_the_version_is_recorded(tmp_path: Path) -> None:
    import pyarrow
    from deltalake import write_deltalake

    table = str(tmp_path / "table")
    parts = [{**row, "part": "x" if index < 4 else "y"} for index, row in enumerate(ROWS)]
    write_deltalake(table, pyarrow.Table.from_pylist(parts), partition_by=["part"])
    write_deltalake(table, pyarrow.Table.from_pylist([{"q": "new", "a": "8", "part": "y"}]), mode="append")
    first, newest = Origin(source=f"delta:{table}", revision="0"), Origin(source=table)
    assert sorted(columns(first), key=lambda row: str(row["a"])) == parts
    assert len(columns(newest)) == 8
    assert columns(newest) == columns(Origin(source=table, format="delta"))
    assert pin(newest).revision == "1"
    digests = {source_digest(origin, tmp_path) for origin in (first, newest)}
    assert len(digests) == 2
    assert any(digest.endswith("@1") for digest in digests)
    assert is_local(newest)


def test_what_is_no_delta_table_or_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Delta table"):
        columns(Origin(source=f"delta:{tmp_path}/none"))
    with pytest.raises(InputError, match="no version"):
        columns(Origin(source=f"delta:{tmp_path}", revision="main"))


def test_hub_rows_are_those_of_the_resolved_commit(tmp_path: Path) -> None:
    hub = FakeHub()
    origin = Origin(source="hub:org/name/german", split="test")
    pinned = pin(origin, hub=hub)
    assert pinned.revision == hub.newest
    assert list(read(pinned, hub=hub)) == list(enumerate(ROWS, 1))
    assert hub.asked == [("org/name", "german", "test", hub.newest)]
    assert source_digest(origin, tmp_path, hub=hub) == f"commit {hub.newest} german test"
    assert not is_local(origin)


def test_a_hub_name_of_one_part_is_one_data_set_and_of_four_is_none() -> None:
    hub = FakeHub()
    assert len(list(read(Origin(source="hub:org/name"), hub=hub))) == len(ROWS)
    with pytest.raises(InputError, match="names no data set"):
        list(read(Origin(source="hub:a/b/c/d"), hub=hub))


def test_the_hub_offline_is_two_lines_that_say_what_to_do() -> None:
    script = (
        "from llmops.data.section import Origin\nfrom llmops.data.sources import read\n"
        "from llmops.errors import EnvironmentFault\n"
        "for origin in (Origin(source='hub:org/name'), Origin(source='hub:org/name', revision='0' * 40)):\n"
        "    try:\n        list(read(origin))\n"
        "    except EnvironmentFault as fault:\n        print(fault)\n"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=offline, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stdout + done.stderr
    assert all(line.startswith("hub:org/name cannot be reached") for line in lines[::2])
    assert all("give its folder" in line for line in lines[1::2])


def test_an_embedded_domain_is_a_source_with_a_digest(tmp_path: Path) -> None:
    from llmops.builtin.domains import DOMAINS

    domain = next(iter(DOMAINS))
    origin = Origin(source=f"builtin:{domain}/train", take=3)
    assert all({"prompt", "completion"} <= found.keys() for found in columns(origin))
    other = Origin(source=f"builtin:{domain}/test")
    assert source_digest(origin, tmp_path) == source_digest(origin, tmp_path) != source_digest(other, tmp_path)


def test_a_file_that_has_not_changed_is_not_hashed_again(tmp_path: Path) -> None:
    path, cache = write_jsonl(tmp_path / "a.jsonl"), tmp_path / "cache"
    age(path)
    origin = Origin(source=str(path))
    digest = source_digest(origin, cache)
    (memory,) = cache.rglob("*.json")
    known = json.loads(memory.read_text())
    assert known["digest"] == digest
    # Only an answer from memory can say this.
    memory.write_text(json.dumps({**known, "digest": "remembered"}))
    assert source_digest(origin, cache) == "remembered"
    path.write_text(path.read_text().replace("viele", "wenig"))  # the same size
    age(path)  # and the same time of change
    assert source_digest(origin, cache) not in ("remembered", digest)


def test_a_file_written_a_moment_ago_is_hashed_each_time(tmp_path: Path) -> None:
    path, cache = write_jsonl(tmp_path / "a.jsonl"), tmp_path / "cache"
    source_digest(Origin(source=str(path)), cache)
    assert not list(cache.rglob("*.json"))


def test_a_folders_digest_covers_names_and_bytes_but_not_where_it_lies(tmp_path: Path) -> None:
    digests = []
    for name, inside in (("one", "a.jsonl"), ("two", "a.jsonl"), ("three", "b.jsonl")):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / inside)
        digests.append(source_digest(Origin(source=str(tmp_path / name)), tmp_path / "cache"))
    assert digests[0] == digests[1] != digests[2]


def section(*sources: dict[str, Any], **more: Any) -> DataSection:
    return DataSection.model_validate({"train": list(sources), **more})


def test_a_column_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl"))
    with pytest.raises(InputError) as caught:
        check_columns(section({"source": path, "prompt": "{qq}", "completion": "{a}"}))
    assert "no column `qq`" in caught.value.problem
    assert "its columns are: q, a" in caught.value.problem
    assert len(str(caught.value).splitlines()) == 2


def test_all_sources_at_fault_are_named_together_validation_too(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl"))
    with pytest.raises(InputError) as caught:
        check_columns(
            section(
                {"source": path, "prompt": "{q}", "completion": "{nope}"},
                {"source": "hub:org/name", "text": "not asked for here"},
                validation=[{"source": str(tmp_path / "gone.csv"), "text": "t"}],
            )
        )
    assert "nope" in caught.value.problem
    assert "gone.csv" in caught.value.problem


def test_a_column_that_only_later_rows_have_is_known(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"m": []}, {"m": [], "tools": []}])
    check_columns(section({"source": str(path), "messages": "m", "tools": "tools"}))


def test_a_broken_first_line_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(FileFaults, match="line 1"):
        check_columns(section({"source": str(tmp_path / "a.jsonl"), "text": "t"}))

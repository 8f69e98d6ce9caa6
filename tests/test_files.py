"""A file or a folder that is written holds the old content or the new, whole, whatever kills the process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.files import (
    canonical_json,
    digest_of,
    file_digest,
    folder_digest,
    new_folder,
    put_in_place,
    recover,
    write_bytes,
    write_json,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé漢\n\0"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole(folder: Path) -> str:
    """Which version a folder of `VERSIONS` holds; fails where it holds parts of one or of two."""
    contents = {(folder / name).read_text() for name in ("a", "b")}
    assert len(contents) == 1
    return contents.pop()


# Files.


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "x.json"
    write_text(file, "old")
    write_json(file, {"b": 1, "a": "é"})
    assert file.read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'
    assert names(file.parent) == ["x.json"]


def test_a_new_file_can_be_read_by_all_and_a_secret_one_stays_secret(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
    (tmp_path / "x").chmod(0o600)
    write_text(tmp_path / "x", "again")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


def test_a_value_json_cannot_hold_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", [float("nan")])
    assert json.loads((tmp_path / "x.json").read_text()) == [1]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"old")
    # A limit on file size fails a write half way, as a full disk does.
    script = """
import resource, sys
from pathlib import Path
from llmops.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_bytes(Path(sys.argv[1]), b"n" * 1_000_000)
except OSError:
    print("refused")
"""
    assert run(script, tmp_path / "x").stdout == "refused\n"
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


WRITE_FOREVER = """
import sys
from pathlib import Path
from llmops import files
target = Path(sys.argv[1])
if sys.argv[3] == "two moves":
    files._swap = lambda one, other: False
print("ready", flush=True)
number = 0
while True:
    number += 1
    if sys.argv[2] == "file":
        files.write_text(target, f"{number:07d}" * 20_000)
    else:
        with files.new_folder(target) as fresh:
            for name in ("a", "b"):
                (fresh / name).write_text(f"{number:07d}" * 5_000)
"""


def killed_while_writing(target: Path, kind: str, how: str, moment: float) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(target), kind, how], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment)
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("seed", range(4))
def test_a_file_killed_at_any_moment_is_whole(tmp_path: Path, seed: int) -> None:
    file = tmp_path / "x"
    write_text(file, "0000000" * 20_000)
    killed_while_writing(file, "file", "swap", random.Random(seed).uniform(0, 0.1))
    text = file.read_text()
    assert text == text[:7] * 20_000


@pytest.mark.parametrize("how", ["swap", "two moves"])
@pytest.mark.parametrize("seed", range(4))
def test_a_folder_killed_at_any_moment_is_whole(tmp_path: Path, seed: int, how: str) -> None:
    folder = tmp_path / "x"
    with new_folder(folder) as fresh:
        for name in ("a", "b"):
            (fresh / name).write_text("0000000" * 5_000)
    killed_while_writing(folder, "folder", how, random.Random(seed).uniform(0, 0.1))
    if how == "two moves":
        recover(folder)
    assert whole(folder) == whole(folder)[:7] * 5_000


# Folders.


def test_a_folder_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "x"
    with new_folder(folder) as fresh:
        (fresh / "a").write_text("new")
        assert not folder.exists()
    assert names(folder) == ["a"]
    assert names(folder.parent) == ["x"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_whose_filling_fails_leaves_the_one_before(tmp_path: Path) -> None:
    with new_folder(tmp_path / "x") as fresh:
        (fresh / "a").write_text("old")

    def fill() -> None:
        with new_folder(tmp_path / "x") as fresh:
            (fresh / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert (tmp_path / "x" / "a").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_folder_takes_the_place_of_a_file_or_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with new_folder(tmp_path / name) as fresh:
            (fresh / "a").write_text("new")
        assert names(tmp_path / name) == ["a"]
        assert not (tmp_path / name).is_symlink()
    assert names(tmp_path) == ["elsewhere", "file", "link"]
    assert names(tmp_path / "elsewhere") == []


# Replaces the folder argv[1], and dies in front of (or right after) the argv[3]-th change of a name.
DIE_AT_A_RENAME = """
import os, sys
from pathlib import Path
from llmops import files
target, how, die_at, after = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "after"
changes = 0

def counted(change):
    def call(*paths):
        global changes
        changes += 1
        if changes == die_at and not after:
            os._exit(99)
        try:
            return change(*paths)
        finally:
            if changes == die_at:
                os._exit(99)
    return call

os.rename = counted(os.rename)
files._swap = counted(files._swap) if how == "swap" else lambda one, other: False
fresh = target.parent / "fresh"
fresh.mkdir()
for name in ("a", "b"):
    (fresh / name).write_text("new")
files.put_in_place(fresh, target)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["swap", "two moves"])
def test_a_kill_at_any_change_of_names_loses_neither_folder(tmp_path: Path, how: str, when: str) -> None:
    for die_at in range(1, 10):
        folder = tmp_path / str(die_at) / "x"
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            (folder / name).write_text("old")
        done = run(DIE_AT_A_RENAME, folder, how, die_at, when)
        if done.returncode == 0:
            assert whole(folder) == "new"
            assert names(folder.parent) == ["x"]
            break
        assert done.returncode == 99, done.stderr
        if how == "two moves":
            recover(folder)
        assert whole(folder) in ("old", "new")
    assert die_at >= 3, "at least two changes of names were killed"


def test_recovery_changes_nothing_where_the_folder_is_there(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / ".x.old.abcdefgh" / "was").mkdir(parents=True)
    recover(tmp_path / "x")
    recover(tmp_path / "absent" / "y")
    assert names(tmp_path) == [".x.old.abcdefgh", "x"]


def test_the_next_folder_starts_from_what_a_kill_left_aside(tmp_path: Path) -> None:
    (tmp_path / ".x.old.abcdefgh" / "was").mkdir(parents=True)
    with new_folder(tmp_path / "x"):
        assert (tmp_path / "x").is_dir()
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("how", ["swap", "two moves"])
def test_processes_that_replace_one_folder_at_once_all_succeed(tmp_path: Path, how: str) -> None:
    script = WRITE_FOREVER.replace("while True", "while number < 40")
    racers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "x"), "folder", how]) for _ in range(3)]
    assert [racer.wait() for racer in racers] == [0, 0, 0]
    assert whole(tmp_path / "x") == "0000040" * 5_000
    assert names(tmp_path) == ["x"]


def test_a_folder_that_is_not_there_cannot_be_put_in_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "absent", tmp_path / "x")


# Digests.


@given(JSON)
def test_the_canonical_form_is_json_of_the_same_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=5))
def test_the_order_of_keys_does_not_change_a_digest(value: dict[str, object]) -> None:
    assert digest_of(dict(reversed(value.items()))) == digest_of(value)


def test_a_digest_is_sha256_of_the_canonical_form() -> None:
    # printf '{"a":1,"b":"é"}' | sha256sum
    assert canonical_json({"b": "é", "a": 1}) == '{"a":1,"b":"é"}'.encode()
    assert digest_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of([float("nan")])


def test_a_file_digest_is_sha256_of_its_bytes_in_any_number_of_blocks(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "long").write_bytes(b"a" * 3_000_000)
    assert file_digest(tmp_path / "long") == hashlib.sha256(b"a" * 3_000_000).hexdigest()


def test_a_folder_digest_names_the_model_and_not_what_describes_it(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "part" / "model.safetensors").write_bytes(b"weights")
    before = folder_digest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "README.md").write_text("# card")
    assert folder_digest(tmp_path) == before
    (tmp_path / "part" / "model.safetensors").rename(tmp_path / "model.safetensors")
    assert folder_digest(tmp_path) != before, "a file's name is part of the model"
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    (tmp_path / "part" / "model.safetensors").write_bytes(b"weights")
    assert folder_digest(tmp_path) != before


def test_half_filled_folders_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".out.new.old", tmp_path / ".out.new.young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "part").write_text("half")
    yesterday = time.time() - 2 * 86_400
    os.utime(old, (yesterday, yesterday))
    with new_folder(tmp_path / "out") as fresh:
        (fresh / "whole").write_text("")
    assert not old.exists()
    assert young.exists()

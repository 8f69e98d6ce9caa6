"""A secret is shown once and kept as a digest; the file is whole whoever writes it, and open to its owner alone."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from llmops.errors import EnvironmentFault, FileFaults, InputError
from llmops.serve.keys import create, digest, id_in, read, revoke

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "keys.json"


def test_the_secret_is_256_random_bits_and_only_its_digest_is_kept(file: Path) -> None:
    made, secret = create(file, "ann", now=NOW)
    assert id_in(secret) == made.id
    assert len(secret.rpartition(f"{made.id}-")[2]) == 43, "32 bytes in base64url"
    assert made.sha256 == sha256(secret.encode()).hexdigest() == digest(secret).hex()
    assert secret not in file.read_text()
    assert secret.rpartition("-")[2] not in file.read_text()
    assert len({create(file, "ann", now=NOW)[1] for _ in range(5)} | {secret}) == 6


def test_what_a_key_may_comes_back_as_it_was_written(file: Path) -> None:
    end = NOW + timedelta(days=3)
    made, _ = create(
        file, "ann", now=NOW, routes=["a", "b"], rpm=60, tpm=1000, budget_usd=2.5, expires=end, tags={"team": "x"}
    )
    plain, _ = create(file, "bob", now=NOW)
    assert read(file) == (made, plain)
    assert (made.routes, made.rpm, made.tpm, made.budget_usd, made.expires) == (("a", "b"), 60, 1000, 2.5, end)
    assert (plain.routes, plain.rpm, plain.tpm, plain.budget_usd, plain.expires, plain.tags) == (*[None] * 5, {})
    assert made.ended(end - timedelta(seconds=1)) is None
    assert made.ended(end) == "expired"


def test_the_file_is_its_owners_alone_and_permissions_that_were_changed_stay(file: Path) -> None:
    create(file, "ann", now=NOW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    create(file, "bob", now=NOW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [
        one.name for one in file.parent.iterdir() if one.name.startswith(".keys.json.") and one.suffix != ".lock"
    ] == []


def test_a_revoked_key_stays_in_the_file_and_is_found_by_id_or_name(file: Path) -> None:
    ann, _ = create(file, "ann", now=NOW)
    bob, _ = create(file, "bob", now=NOW)
    assert revoke(file, "ann", now=NOW).id == ann.id
    assert revoke(file, bob.id, now=NOW).id == bob.id
    assert [one.ended(NOW) for one in read(file)] == ["revoked", "revoked"]
    with pytest.raises(InputError, match="no valid key 'ann'"):
        revoke(file, "ann", now=NOW)


def test_a_name_that_two_have_must_be_told_apart(file: Path) -> None:
    both = [create(file, "ann", now=NOW)[0].id for _ in range(2)]
    with pytest.raises(InputError, match=f"2 keys are called 'ann': {both[0]}, {both[1]}"):
        revoke(file, "ann", now=NOW)


def test_a_key_that_ends_in_the_past_or_may_nothing_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match="which is over"):
        create(file, "ann", now=NOW, expires=NOW)
    with pytest.raises(InputError, match=r"rpm: .* greater than 0"):
        create(file, "ann", now=NOW, rpm=0)
    with pytest.raises(InputError, match="budget_usd"):
        create(file, "ann", now=NOW, budget_usd=float("nan"))
    assert not file.exists()


CREATING = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from llmops.serve.keys import create
for number in range(5):
    create(Path(sys.argv[1]), f"{sys.argv[2]}-{number}", now=datetime.now(UTC))
"""


def test_of_several_who_make_keys_at_once_none_is_lost(file: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", CREATING, str(file), str(me)]) for me in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert {one.name for one in read(file)} == {f"{me}-{number}" for me in range(3) for number in range(5)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("{", "Invalid JSON", id="no JSON"),
        pytest.param('{"keys": [{"id": "x"}]}', "keys.0.id", id="what is no key"),
        pytest.param('{"key": []}', "key: Extra inputs", id="a misspelt name"),
    ],
)
def test_a_file_that_is_none_is_told_and_never_overwritten(file: Path, content: str, told: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    for attempt in (lambda: read(file), lambda: create(file, "ann", now=NOW), lambda: revoke(file, "ann", now=NOW)):
        with pytest.raises(FileFaults, match=told):
            attempt()
    assert file.read_text() == content


def test_faults_are_told_without_digests(file: Path) -> None:
    create(file, "ann", now=NOW)
    content = json.loads(file.read_text())
    content["keys"][0]["sha256"] = "f00" * 20
    file.write_text(json.dumps(content))
    with pytest.raises(FileFaults) as told:
        read(file)
    assert "sha256" in str(told.value)
    assert "f00" not in str(told.value)


def test_a_missing_file_says_how_to_make_one(file: Path) -> None:
    with pytest.raises(EnvironmentFault) as told:
        read(file)
    assert "llmops serve key create" in told.value.fix

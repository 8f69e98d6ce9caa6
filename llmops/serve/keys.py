"""The keys of a gateway: made, listed and revoked in a JSON file that holds their digests, never the secrets.

A secret is 256 random bits, so its digest is one pass of sha256: slow hashes make guessing dear, which is needed where
people choose passwords; nobody guesses 256 bits, and a gateway checks a key with every request.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field, PositiveFloat, PositiveInt, ValidationError

from llmops.config import Settings
from llmops.errors import EnvironmentFault, Fault, FileFaults, InputError, nearest
from llmops.files import write_bytes

_PREFIX = "sk-llmops-"
_SECRET_BYTES = 32


class Key(Settings):
    """One key as the file keeps it."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    """Part of the secret; names the key in ledger, logs and commands."""
    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Whose it is, in the operator's words."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the whole secret."""
    created: AwareDatetime
    """When it was made."""
    routes: tuple[str, ...] | None = None
    """Routes it may ask; null allows all."""
    rpm: PositiveInt | None = None
    """Requests in any 60 seconds; null allows any number."""
    tpm: PositiveInt | None = None
    """Tokens in any 60 seconds, prompts and answers together; null allows any number."""
    budget_usd: PositiveFloat | None = None
    """US dollars in a calendar month (UTC); null allows any sum."""
    expires: AwareDatetime | None = None
    """When it ends; null never."""
    revoked: AwareDatetime | None = None
    """When it was revoked; null where it is valid."""
    tags: dict[str, str] = Field(default_factory=dict)
    """For the ledger, such as team: x."""

    def ended(self, at: datetime) -> str | None:
        """`revoked` or `expired` where it is no longer valid at this time."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= at else None


class _KeyFile(Settings):
    keys: tuple[Key, ...]


def read(file: Path) -> tuple[Key, ...]:
    """The keys in a file, the oldest first.

    Raises:
        EnvironmentFault: there is no such file, or it cannot be read.
        FileFaults: it is not what `llmops serve key create` writes.
    """
    fix = "restore the file from a backup, or move it away and make new keys with `llmops serve key create`"
    try:
        found = _KeyFile.model_validate_json(file.read_bytes()).keys
    except FileNotFoundError as error:
        raise EnvironmentFault(
            f"there is no file of keys {file}", fix="make the first one with `llmops serve key create NAME`"
        ) from error
    except OSError as error:
        raise EnvironmentFault(
            f"the keys in {file} cannot be read: {error.strerror}", fix="let the gateway's user read it"
        ) from error
    except ValidationError as error:
        # Without the values: they hold digests.
        told = error.errors(include_url=False, include_input=False, include_context=False)
        faults = [Fault(".".join(map(str, one["loc"])), one["msg"]) for one in told[:5]]
        raise FileFaults(str(file), faults, what="file of keys", fix=fix) from error
    if twice := _first_twice([key.id for key in found]):
        raise FileFaults(str(file), [Fault("keys", f"two have the id {twice}")], what="file of keys", fix=fix)
    return found


def create(
    file: Path,
    name: str,
    *,
    now: datetime,
    routes: Collection[str] | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    budget_usd: float | None = None,
    expires: datetime | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[Key, str]:
    """A new key in `file`, which is made when missing, readable to its owner alone; and its secret, kept nowhere.

    Raises:
        InputError: a value cannot be, such as an end in the past.
        EnvironmentFault: the file cannot be written.
    """
    if expires is not None and expires <= now:
        raise InputError(f"the key would end at {expires:%Y-%m-%d %H:%M} UTC, which is over", fix="choose a later time")
    key_id = secrets.token_hex(6)
    secret = f"{_PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    try:
        key = Key(
            id=key_id,
            name=name,
            sha256=digest(secret).hex(),
            created=now.replace(microsecond=0),
            routes=None if routes is None else tuple(routes),
            rpm=rpm,
            tpm=tpm,
            budget_usd=budget_usd,
            expires=expires,
            tags=dict(tags or {}),
        )
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise InputError(f"such a key cannot be: {said}", fix="mend the values named") from error
    with _alone(file):
        _write(file, (*(read(file) if file.exists() else ()), key))
    return key, secret


def revoke(file: Path, which: str, *, now: datetime) -> Key:
    """Revoke the key with this id or name; gateways refuse it within a second.

    Raises:
        InputError: no valid key is called so, or several are.
    """
    with _alone(file):
        keys = read(file)
        valid = [key for key in keys if key.revoked is None]
        meant = [key for key in valid if which in (key.id, key.name)]
        if len(meant) > 1:
            ids = ", ".join(key.id for key in meant)
            raise InputError(f"{len(meant)} keys are called {which!r}: {ids}", fix="name one by its id")
        if not meant:
            known = nearest(which, [word for key in valid for word in (key.id, key.name)])
            raise InputError(
                f"there is no valid key {which!r}{known}", fix="see `llmops serve key list` for ids and names"
            )
        revoked = meant[0].model_copy(update={"revoked": now.replace(microsecond=0)})
        _write(file, tuple(revoked if key is meant[0] else key for key in keys))
    return revoked


def digest(secret: str) -> bytes:
    """What the file keeps of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def id_in(secret: str) -> str:
    """The id in a secret; anything at all where it is none of ours."""
    return secret.removeprefix(_PREFIX).partition("-")[0]


def utc(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC)


def _write(file: Path, keys: tuple[Key, ...]) -> None:
    plain = [key.model_dump(mode="json", exclude_none=True) for key in keys]
    try:
        write_bytes(file, json.dumps({"keys": plain}, indent=2, ensure_ascii=False).encode() + b"\n", mode=0o600)
    except OSError as error:
        raise _unwritable(file, error) from error


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time changes the file."""
    from filelock import FileLock

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_name(f".{file.name}.lock"), mode=0o600)
        lock.acquire()
    except OSError as error:
        raise _unwritable(file, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(file: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"the keys in {file} cannot be written: {error.strerror}", fix="run the command as who owns the file"
    )


def _first_twice(names: list[str]) -> str | None:
    return next((name for place, name in enumerate(names) if name in names[:place]), None)

"""A dataset version: the rows a run sees, checked, split and written under the digest of what they are.

One pass over the sources; of the rows only hashes and sketches stay in memory.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmops.data.assembly import FILES, SPLITS, Assembly, Progress, fraction, prompt_hash
from llmops.data.checks import Contamination
from llmops.data.hub import Hub
from llmops.data.section import DataSection, Rows
from llmops.data.sources import folder_digests, pin, source_digest
from llmops.errors import InputError
from llmops.files import digest_of, put_in_place, sync_tree, write_json
from llmops.records import DatasetVersion, Finding, Row, SourceUse, Split

MADE_BY = 1
"""Raised whenever the same sources and section would give other rows, so that nothing old is taken for new."""

_STALE_S = 86_400  # work folders of killed runs are removed after a day


def prepare(
    section: DataSection,
    *,
    objects: Path,
    cache: Path,
    held_out: Mapping[str, Sequence[str]] = {},
    on_progress: Progress = lambda done, what: None,
    hub: Hub | None = None,
    prompts: bool = False,
) -> DatasetVersion:
    """Read, check, split and write the rows of `section`; the same section over the same sources is read once.

    Args:
        objects: the version becomes a folder in it, whole or not at all.
        cache: remembers digests of files, and which version a section gave.
        held_out: prompts of the suites in `checks.contamination`, by name of the suite.
        on_progress: called with rows read so far and None (how many there are is not known before the end).
        hub: where `hub:` sources are; None is the Hugging Face hub.
        prompts: take what the rows ask and not their answers, which they need not have.

    Raises:
        InputError: a source cannot be read, changes while it is read, or lacks a column; no row is left to
            train on; or personal data was found where the section refuses it.
        ValueError: the section names suites to keep apart, but `held_out` is empty.
    """
    if section.checks.contamination and not held_out:
        raise ValueError(f"held_out must hold the prompts of {section.checks.contamination}")
    train = [_pinned(spec, hub) for spec in section.train]
    validation = [_pinned(spec, hub) for spec in section.validation] if isinstance(section.validation, list) else []
    specs = [*validation, *train]
    digests = [source_digest(spec, cache, hub=hub) for spec in specs]
    parts = [MADE_BY, section.model_dump(mode="json"), digests, {name: list(held_out[name]) for name in held_out}]
    key = digest_of([*parts, "prompts"] if prompts else parts)
    found = remembered(cache, objects, key)
    if found is not None:
        return found

    with work_folder(objects) as work:
        with Assembly(section, work, Contamination(held_out), on_progress, prompts) as making:
            uses = [
                making.take(
                    spec, "validation" if index < len(validation) else None, digest, hub, folder_digests(spec, cache)
                )
                for index, (spec, digest) in enumerate(zip(specs, digests, strict=True))
            ]
        for spec, digest in zip(specs, digests, strict=True):
            if source_digest(spec, cache, hub=hub) != digest:
                raise InputError(f"{spec.source} changed while it was read", fix="run again when it is written")
        making.refuse_personal_data()
        making.give_each_side_a_prompt()
        making.refuse_nothing_left()
        version = DatasetVersion(
            digest=making.digest(),
            folder=objects,
            rows={**{split: making.rows[split] for split in SPLITS}, "dropped": making.rows["dropped"]},
            sources=tuple(uses),
            findings=making.findings.all(),
        )
        return keep(version, key, work, objects, cache)


def load_version(folder: Path) -> DatasetVersion:
    """The version a folder holds.

    Raises:
        InputError: the folder holds none, or its files are not those that were written.
    """
    try:
        written = json.loads((folder / "version.json").read_bytes())
        sizes = {name: (folder / name).stat().st_size for name in written["bytes"]}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{folder} holds no dataset version", fix="give a folder that `llmops data check` or a run has written"
        ) from error
    if sizes != written["bytes"]:
        raise InputError(f"{folder} is damaged: its files have changed", fix="remove the folder and prepare it again")
    return DatasetVersion(
        digest=written["digest"],
        folder=folder,
        rows=written["rows"],
        sources=tuple(SourceUse(**{**use, "files": tuple(use.get("files", ()))}) for use in written["sources"]),
        findings=tuple(Finding(**(found | {"named": tuple(found["named"])})) for found in written["findings"]),
        teacher=written.get("teacher", {}),
    )


def version_folder(objects: Path, digest: str) -> Path:
    """Where `prepare` puts the version with this digest."""
    return objects / f"dataset-{digest[:16]}"


def rows_of(version: DatasetVersion, split: Split) -> Iterator[Row]:
    """The rows of one split, in their order."""
    with (version.folder / f"{split}.jsonl").open("rb") as file:
        for line in file:
            yield Row(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Difference:
    """What makes `b` another version than `a`; the lists name up to five rows each as `source:line`."""

    added: int
    removed: int
    moved: int
    unchanged: int
    added_rows: tuple[str, ...]
    removed_rows: tuple[str, ...]
    moved_rows: tuple[str, ...]


def diff(a: DatasetVersion, b: DatasetVersion) -> Difference:
    """Rows by content: only in `b` (added), only in `a` (removed), in both on other sides of the split (moved)."""
    before, after = _counts(a), _counts(b)
    moved: Counter[str] = Counter()
    added: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for identity in {row for row, _ in (before | after)}:
        change = {split: after[identity, split] - before[identity, split] for split in SPLITS}
        gained = sum(value for value in change.values() if value > 0)
        lost = -sum(value for value in change.values() if value < 0)
        moved[identity] = min(gained, lost)
        added[identity] = gained - moved[identity]
        removed[identity] = lost - moved[identity]
    unchanged = (before & after).total()
    return Difference(
        added=added.total(),
        removed=removed.total(),
        moved=moved.total(),
        unchanged=unchanged,
        added_rows=_first_named(b, added),
        removed_rows=_first_named(a, removed),
        moved_rows=_first_named(b, moved),
    )


def held_out_by(prompt: str, share: float) -> bool:
    """Whether a prompt belongs to validation: its sha256 as a fraction of the largest lies below `share`."""
    return fraction(prompt_hash(prompt)) < share


# ── folders ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pinned(spec: Rows, hub: Hub | None) -> Rows:
    pinned: Any = pin(spec, hub=hub)
    return pinned


@contextmanager
def work_folder(objects: Path) -> Iterator[Path]:
    """A hidden folder beside the versions; gone afterwards unless it was put in place."""
    objects.mkdir(parents=True, exist_ok=True)
    _remove_stale(objects)
    work = Path(tempfile.mkdtemp(dir=objects, prefix=".dataset.new."))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_stale(objects: Path) -> None:
    for left in objects.glob(".dataset*.*"):
        if left.is_dir() and time.time() - left.stat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)


def keep(version: DatasetVersion, key: str, work: Path, objects: Path, cache: Path) -> DatasetVersion:
    """Give the finished work folder its name and remember which section it answers."""
    written = {name: getattr(version, name) for name in ("digest", "rows")}
    written |= {"key": key, "sources": [use.plain() for use in version.sources]}
    written |= {"findings": [asdict(found) for found in version.findings]}
    if version.teacher:
        written["teacher"] = dict(version.teacher)
    names = [f"{name}.jsonl" for name in FILES]
    write_json(work / "version.json", written | {"bytes": {name: (work / name).stat().st_size for name in names}})
    folder = version_folder(objects, version.digest)
    sync_tree(work)
    try:
        put_in_place(work, folder)
    except OSError:
        if load_version(folder).digest != version.digest:  # another process was faster with the same rows
            raise
    write_json(cache / "datasets" / f"{key}.json", {"digest": version.digest})
    return load_version(folder)


def remembered(cache: Path, objects: Path, key: str) -> DatasetVersion | None:
    """The version made last time from the same section and sources, if it is still there and whole."""
    memory = cache / "datasets" / f"{key}.json"
    if not memory.is_file():
        return None
    folder = version_folder(objects, json.loads(memory.read_bytes())["digest"])
    try:
        version = load_version(folder)
    except InputError:
        return None
    # Other sections can give the same rows by other ways; their report is not ours.
    return version if json.loads((folder / "version.json").read_bytes())["key"] == key else None


def _counts(version: DatasetVersion) -> Counter[tuple[str, Split]]:
    return Counter((row.id, split) for split in SPLITS for row in rows_of(version, split))


def _first_named(version: DatasetVersion, wanted: Counter[str]) -> tuple[str, ...]:
    named: list[str] = []
    left = Counter({identity: count for identity, count in wanted.items() if count})
    for split in SPLITS:
        for row in rows_of(version, split):
            if len(named) == 5 or not left:
                return tuple(named)
            if left[row.id] > 0:
                left[row.id] -= 1
                named.append(f"{row.source}:{row.line}")
    return tuple(named)

"""One pass over rows: each checked, put on its side of the split and written, or dropped with its reason.

Of the rows only hashes, sketches and places stay in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self, get_args

from llmops.data import privacy
from llmops.data.checks import Contamination, Findings
from llmops.data.dedup import Duplicates, NearDuplicates
from llmops.data.formats import Rejected, as_json, content_digest, prompt_key, rows, texts, with_content
from llmops.data.hub import Hub
from llmops.data.section import DataSection, Rows
from llmops.data.sources import read, with_columns_checked
from llmops.errors import InputError
from llmops.files import canonical_json, ordered_json
from llmops.records import DatasetVersion, Row, SourceUse, Split

SPLITS: tuple[Split, ...] = get_args(Split)
FILES = (*SPLITS, "dropped")
_REPORTED = 200  # rows between two calls of `on_progress`

Progress = Callable[[int, int | None], None]


@dataclass
class Assembly:
    """Rows on their way to the files of a version in the folder `work`, and what the checks remember.

    Use as a context around `take`, one source after another, validation sources first; the rest
    is called when it is left and the files are closed.
    """

    section: DataSection
    work: Path
    contamination: Contamination
    on_progress: Progress
    prompts: bool = False
    findings: Findings = field(default_factory=Findings)
    rows: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        checks = self.section.checks
        self._out: dict[str, BinaryIO] = {name: (self.work / f"{name}.jsonl").open("wb") for name in FILES}
        self._done = 0
        self._places: list[tuple[str, int, str, int]] = []  # of kept rows: source, line, split, offset
        self._duplicates = Duplicates()
        self._near: NearDuplicates | None = None
        self._validation_prompts: set[bytes] = set()
        self._least = self._most = b""  # hashes of prompts, the smallest and the largest
        self.findings.expect("unusable rows", "dropped")
        if checks.duplicates != "keep":
            self.findings.expect("duplicates", _DONE[checks.duplicates])
        if checks.near_duplicates != "keep":
            self.findings.expect("near duplicates", _DONE[checks.near_duplicates])
            self._near = NearDuplicates(checks.similarity, text_of=self._text_of)
        if checks.contamination:
            self.findings.expect("contamination", "dropped")
        if checks.personal_data != "keep":
            self.findings.expect("personal data", _DONE[checks.personal_data])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._out.values():
            file.close()

    def take(
        self, spec: Rows, split: Split | None, digest: str, hub: Hub | None, files: tuple[str, ...] = ()
    ) -> SourceUse:
        """Read one source; `split` None lets each row's prompt decide."""

        def note(check: str, line: int, why: str) -> None:
            self.findings.add(check, "reported", f"{spec.source}:{line}", why)

        records = with_columns_checked(spec, read(spec, hub=hub))
        count = self.take_rows(rows(spec, records, on_note=note, prompts=self.prompts), split)
        return SourceUse(spec.source, digest, count, files)

    def take_rows(self, given: Iterable[Row | Rejected], split: Split | None) -> int:
        """Check and write rows; says how many they were."""
        count = 0
        for row in given:
            count += 1
            self._done += 1
            if self._done % _REPORTED == 0:
                self.on_progress(self._done, None)
            if isinstance(row, Rejected):
                self._drop(row.check, row.reason, row.source, row.line, row.content)
            else:
                self._check(row, split)
        self.on_progress(self._done, None)
        return count

    def begin_with(self, before: DatasetVersion) -> None:
        """Go on from a version: what was found in its rows and dropped on the way to it stays on record."""
        self._out["dropped"].write((before.folder / "dropped.jsonl").read_bytes())
        self.rows["dropped"] += before.rows["dropped"]
        for found in before.findings:
            self.findings.begin_with(found)

    def _check(self, row: Row, split: Split | None) -> None:
        """The checks in their order; the first that drops a row names it."""
        checks = self.section.checks
        where = f"{row.source}:{row.line}"
        contaminated = self.contamination.why(row)  # before redaction, which could hide what is shared
        row = self._without_personal_data(row, where)
        prompt = prompt_hash(prompt_key(row))
        side = split or self._side(prompt)
        if contaminated is not None:
            return self._drop("contamination", contaminated, row.source, row.line, row.content)
        if split is None and isinstance(self.section.validation, list) and prompt in self._validation_prompts:
            return self._drop("leakage", "its prompt is in validation", row.source, row.line, row.content)
        at = len(self._places)
        for check, finder, action in (
            ("duplicates", self._duplicates, checks.duplicates),
            ("near duplicates", self._near, checks.near_duplicates),
        ):
            if action == "keep" or finder is None:
                continue
            text = _whole_text(row) if check == "duplicates" else "\n".join(text for _, text in texts(row))
            first = finder.first(text, at)
            if first is None:
                continue
            source, line, *_ = self._places[first]
            other = f"line {line}" if source == row.source else f"{source}:{line}"
            why = f"{'the same as' if check == 'duplicates' else 'nearly the same as'} {other}"
            if action == "drop":
                return self._drop(check, why, row.source, row.line, row.content)
            self.findings.add(check, "reported", where, why)
            break  # an exact duplicate is not a near one too
        if split == "validation":
            self._validation_prompts.add(prompt)
        self._least = min(self._least or prompt, prompt)
        self._most = max(self._most, prompt)
        self._places.append((row.source, row.line, side, self._out[side].tell()))
        self.rows[side] += 1
        self._out[side].write(_line(row))
        return None

    def _side(self, prompt: bytes) -> Split:
        share = self.section.validation
        return "validation" if isinstance(share, float) and fraction(prompt) < share else "train"

    def _without_personal_data(self, row: Row, where: str) -> Row:
        action = self.section.checks.personal_data
        if action == "keep":
            return row
        kinds = {(privacy.NAMES[hit.kind], place): None for place, text in texts(row) for hit in privacy.find(text)}
        if kinds:
            why = ", ".join(f"{kind} in the {place}" for kind, place in kinds)
            self.findings.add("personal data", _DONE[action], where, why)
        return with_content(row, privacy.redact_all(row.content)) if kinds and action == "redact" else row

    def _drop(self, check: str, reason: str, source: str, line: int, content: Mapping[str, Any]) -> None:
        self.findings.add(check, "dropped", f"{source}:{line}", reason)
        self.rows["dropped"] += 1
        digest = content_digest(content)
        shown = as_json(content)
        if self.section.checks.personal_data == "redact":
            shown = privacy.redact_all(shown)
        entry = {"source": source, "line": line, "check": check, "reason": reason, "digest": digest, "content": shown}
        self._out["dropped"].write(canonical_json(entry) + b"\n")

    def _text_of(self, at: int) -> str:
        """The text of a kept row, read back from where it was written."""
        _, _, side, offset = self._places[at]
        self._out[side].flush()
        with (self.work / f"{side}.jsonl").open("rb") as file:
            file.seek(offset)
            return "\n".join(text for _, text in texts(Row(**json.loads(file.readline()))))

    # ── after the pass ─────────────────────────────────────────────────────────────────────────────────────────────

    def refuse_personal_data(self) -> None:
        if self.section.checks.personal_data != "refuse":
            return
        found = next(one for one in self.findings.all() if one.check == "personal data")
        if found.rows:
            raise InputError(
                f"{found.rows} row(s) hold personal data: {'; '.join(found.named)}",
                fix="remove it from the source, or set data.checks.personal_data to redact or report",
            )

    def refuse_nothing_left(self) -> None:
        if self.rows["train"]:
            return
        reasons = ", ".join(
            f"{one.check} {one.rows}" for one in self.findings.all() if one.action == "dropped" and one.rows
        )
        example = next((one.named[0] for one in self.findings.all() if one.action == "dropped" and one.named), "")
        raise InputError(
            f"no row is left to train on; dropped: {reasons} (first: {example})",
            fix="look at the data and at data.checks; `llmops data check` names the rows",
        )

    def give_each_side_a_prompt(self) -> None:
        """With a share above zero and two prompts or more, neither side stays empty: the outermost hash moves."""
        share = self.section.validation
        if not isinstance(share, float) or not share or not self._least:
            return
        if self._least == self._most:
            if self.rows["validation"]:
                self._move("validation", "train", self._least)
        elif not self.rows["validation"]:
            self._move("train", "validation", self._least)
        elif not self.rows["train"]:
            self._move("validation", "train", self._most)

    def _move(self, source: Split, target: Split, prompt: bytes) -> None:
        kept = self.work / "kept.jsonl"
        with (
            (self.work / f"{source}.jsonl").open("rb") as lines,
            (self.work / f"{target}.jsonl").open("ab") as moved,
            kept.open("wb") as left,
        ):
            for line in lines:
                moves = prompt_hash(prompt_key(Row(**json.loads(line)))) == prompt
                (moved if moves else left).write(line)
                self.rows[target] += moves
                self.rows[source] -= moves
        os.replace(kept, self.work / f"{source}.jsonl")

    def digest(self) -> str:
        """sha256 over the kept rows in order, each with its side and weight; where they came from is left out."""
        sha = hashlib.sha256()
        for split in SPLITS:
            with (self.work / f"{split}.jsonl").open("rb") as lines:
                for line in lines:
                    row = json.loads(line)
                    sha.update(canonical_json([split, row["kind"], row["id"], row["weight"]]) + b"\n")
        return sha.hexdigest()


_DONE: dict[str, Any] = {"drop": "dropped", "report": "reported", "redact": "redacted", "refuse": "refused"}


def _whole_text(row: Row) -> str:
    """All that makes a row what it is; the tools it may use and the label of its answer belong to it."""
    parts = [f"{place}: {text}" for place, text in texts(row)]
    beside = [row.content[key] for key in ("tools", "label") if row.content.get(key) is not None]
    return "\n".join([*parts, canonical_json(beside).decode() if beside else ""])


def _line(row: Row) -> bytes:
    return ordered_json(asdict(row)) + b"\n"


def prompt_hash(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode()).digest()


def fraction(digest: bytes) -> float:
    return int.from_bytes(digest[:8], "big") / 2**64

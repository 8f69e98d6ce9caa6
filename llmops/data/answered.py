"""A version of prompts becomes one of conversations: somebody's answers are put to them, and checked as rows are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops.data.assembly import SPLITS, Assembly, Progress
from llmops.data.checks import Contamination
from llmops.data.formats import Rejected, content_digest
from llmops.data.section import DataSection
from llmops.data.versions import MADE_BY, keep, remembered, rows_of, work_folder
from llmops.files import digest_of
from llmops.records import DatasetVersion, Row, SourceUse

CHECK = "teacher's answers"
"""What a prompt does not pass whose answer is of no use."""


def with_answer(prompt: Row, text: str) -> Row:
    """The row that a prompt becomes with this answer."""
    content = {**prompt.content, "messages": [*prompt.content["messages"], {"role": "assistant", "content": text}]}
    return Row(content_digest(content), "messages", content, prompt.source, prompt.line, prompt.weight)


def without_answer(prompt: Row, reason: str, text: str = "") -> Rejected:
    """The prompt left out for this reason, with what was answered."""
    content = {**prompt.content, "answer": text} if text else prompt.content
    return Rejected(prompt.source, prompt.line, reason, content, CHECK)


def answered_key(
    prompts: DatasetVersion, section: DataSection, teacher: Mapping[str, Any], held_out: Mapping[str, Sequence[str]]
) -> str:
    """Names what these answers make of these prompts.

    Args:
        teacher: everything that the answers depend on beside the prompts.
    """
    held = {name: list(held_out[name]) for name in held_out}
    return digest_of([MADE_BY, "answered", prompts.digest, section.model_dump(mode="json"), dict(teacher), held])


def known(key: str, *, objects: Path, cache: Path) -> DatasetVersion | None:
    """The version that was made under this key, if it is still there and whole."""
    return remembered(cache, objects, key)


def put_answers(
    prompts: DatasetVersion,
    section: DataSection,
    answers: Callable[[Row], Iterable[Row | Rejected]],
    *,
    key: str,
    source: SourceUse,
    teacher: Mapping[str, Any],
    objects: Path,
    cache: Path,
    held_out: Mapping[str, Sequence[str]] = {},
    on_progress: Progress = lambda done, total: None,
) -> DatasetVersion:
    """The version of the answered rows, each on its prompt's side of the split.

    The answers go through the section's checks as if they had stood in its sources. What was dropped of the
    prompts stays on record beside what is dropped of the answers.

    Args:
        answers: what becomes of a prompt: a row for each useful answer, else why there is none.
        source: who answered, to stand among the version's sources.
        teacher: how, as the version records it.

    Raises:
        InputError: no row is left to train on, or personal data was found where the section refuses it.
    """
    with work_folder(objects) as work:
        with Assembly(section, work, Contamination(held_out), on_progress) as making:
            making.begin_with(prompts)
            making.findings.expect(CHECK, "dropped")
            for split in reversed(SPLITS):  # validation first, as everywhere
                making.take_rows((made for row in rows_of(prompts, split) for made in answers(row)), split)
        making.refuse_personal_data()
        making.give_each_side_a_prompt()
        making.refuse_nothing_left()
        version = DatasetVersion(
            digest=making.digest(),
            folder=objects,
            rows={**{split: making.rows[split] for split in SPLITS}, "dropped": making.rows["dropped"]},
            sources=(*prompts.sources, source),
            findings=making.findings.all(),
            teacher=teacher,
        )
        return keep(version, key, work, objects, cache)

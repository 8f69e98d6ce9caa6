"""The stage before training where another model teaches: it answers the prompts of the data, none of them twice.

Every answer is kept as it comes, by the digest of teacher, decoding and prompt: an interrupted run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from llmops.client import Patience, address, key_in
from llmops.data.answered import CHECK, answered_key, known, put_answers, with_answer, without_answer
from llmops.data.formats import Rejected
from llmops.data.section import DataSection
from llmops.data.versions import prepare, rows_of
from llmops.errors import EnvironmentFault
from llmops.eval.engines.engine import Answer
from llmops.eval.items import Item
from llmops.eval.safety import is_refusal
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import digest_of, write_json
from llmops.finetune.distillation import Answers, EndpointTeacher, ModelTeacher
from llmops.finetune.method import Distill
from llmops.finetune.prices import read_prices
from llmops.finetune.recipe import Recipe
from llmops.hardware import device_of, machine
from llmops.lifecycle.measure import Subject, located, served, subject
from llmops.lifecycle.prepare import held_out
from llmops.records import DatasetVersion, Row, SourceUse, Split
from llmops.registry.licence_chain import Licensed, of_teacher
from llmops.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who teaches.

    Attributes:
        name: for people.
        digest: of the model's bytes and its base's, or of what its server says of it.
        subject: what answers; None where it cannot be reached now, and `fault` says why.
    """

    settings: ModelTeacher | EndpointTeacher
    name: str
    digest: str
    subject: Subject | None
    fault: EnvironmentFault | None = None

    def licences(self, workspace: Workspace) -> list[Licensed]:
        """What the answers rest on."""
        here = self.subject is not None and self.subject.here
        source = self.subject.source if self.subject is not None and here else None
        return of_teacher(self.name, source, self.settings.licence, workspace=workspace)


def teacher_of(settings: ModelTeacher | EndpointTeacher, workspace: Workspace, listener: Listener) -> Teacher:
    """The teacher, found and ready to be asked.

    Raises:
        InputError: there is no such model, or its server does not have it.
        EnvironmentFault: a model of this machine cannot be loaded.
    """
    if isinstance(settings, ModelTeacher):
        found = subject(*located(settings.model, workspace, listener), workspace, through=settings.through, keep=True)
        digest = digest_of([found.source.digest, found.base.digest if found.base else None])
        return Teacher(settings, settings.model, digest, found)
    name = f"{settings.model} at {address(settings.endpoint)}"
    seen = workspace.cache / "teachers" / f"{digest_of(name)}.json"
    try:
        asked = served(
            settings.model,
            address(settings.endpoint),
            workspace,
            key=key_in(settings.api_key_env) if settings.api_key_env else None,
            concurrency=settings.concurrency,
            patience=Patience(attempts=settings.attempts),
            spares=True,
        )
    except EnvironmentFault as fault:
        if not seen.is_file():
            raise
        return Teacher(settings, name, json.loads(seen.read_bytes())["digest"], None, fault)
    write_json(seen, {"teacher": name, "digest": asked.source.digest})
    return Teacher(settings, name, asked.source.digest, asked)


def dataset_of(recipe: Recipe, teacher: Teacher | None, workspace: Workspace, listener: Listener) -> DatasetVersion:
    """The rows that a recipe trains on: those of its sources, or their prompts with the teacher's answers.

    Raises:
        As `prepare` and `taught`.
    """
    held = held_out(recipe.data)
    prepared = prepare(
        recipe.data,
        objects=workspace.objects,
        cache=workspace.cache,
        held_out=held,
        on_progress=lambda done, total: listener.advance("reading rows", done, total),  # the total is not known
        prompts=recipe.only_prompts,
    )
    if not (isinstance(recipe.method, Distill) and recipe.method.answers is not None):
        return prepared
    assert teacher is not None
    return taught(
        prepared, recipe.data, teacher, recipe.method.answers, held_out=held, workspace=workspace, listener=listener
    )


def taught(
    prompts: DatasetVersion,
    section: DataSection,
    teacher: Teacher,
    how: Answers,
    *,
    held_out: Mapping[str, Sequence[str]],
    workspace: Workspace,
    listener: Listener,
) -> DatasetVersion:
    """The prompts with the teacher's answers, as a dataset version whose lineage names the teacher.

    Raises:
        EnvironmentFault: the teacher cannot be reached, or fails too often; what it answered is kept.
        InputError: none of its answers is of use.
    """
    identity = {"teacher": teacher.digest, "answers": how.model_dump(mode="json")}
    key = answered_key(prompts, section, identity, held_out)
    before = known(key, objects=workspace.objects, cache=workspace.cache)
    if before is not None:
        listener.say(f"teacher: {teacher.name} has answered every prompt before")
        return before
    if teacher.subject is None:
        assert teacher.fault is not None
        raise teacher.fault
    rows = [row for split in get_args(Split) for row in rows_of(prompts, split)]
    items = {row.id: asked_by(row) for row in rows}
    listener.say(f"teacher: {teacher.name} is asked {len(items):,} prompts" + _each(how.samples))
    asked, crowded = _fitting(list(items.values()), teacher.subject)
    given: dict[str, list[Answer]] = {}
    seconds, kept = 0.0, 0
    for number in range(how.samples):
        generation = Generation(max_tokens=how.max_tokens, temperature=how.temperature, seed=how.seed + number)
        made = teacher.subject.engine(asked, generation, listener=listener)
        seconds, kept = seconds + made.seconds, kept + len(made.kept)
        for answer in made.answers:
            given.setdefault(answer.item, []).append(answer)
    every = [answer for answers in given.values() for answer in answers]
    record = {
        "name": teacher.name,
        "digest": teacher.digest,
        "revision": teacher.subject.source.revision,
        "answers": how.model_dump(mode="json"),
        **_spent(teacher.settings, every, seconds),
    }
    version = put_answers(
        prompts,
        section,
        lambda row: _rows(row, given.get(items[row.id].id, []), how, crowded),
        key=key,
        source=SourceUse(f"teacher {teacher.name}", teacher.digest, len(every)),
        teacher=record,
        objects=workspace.objects,
        cache=workspace.cache,
        held_out=held_out,
        on_progress=lambda done, total: listener.advance("checking answers", done, total),
    )
    listener.say(_told(version, record, kept, len(every)))
    return version


def asked_by(row: Row) -> Item:
    """A prompt as something a model is asked; prompts of one text are one item."""
    messages = tuple(row.content["messages"])
    prompt = "\n\n".join(str(turn["content"]) for turn in messages if turn["role"] == "user")
    return Item(digest_of(list(messages)), messages, prompt, (), {})


def _fitting(items: Sequence[Item], subject: Subject) -> tuple[list[Item], frozenset[str]]:
    """The items that leave room for an answer in the teacher's context, and the ids of the others.

    A server decides that itself.
    """
    if not subject.here:
        return list(items), frozenset()
    from transformers import AutoConfig

    from llmops.eval.loading import asked_ids, load_tokenizer, whole_folder

    base = subject.base.folder if subject.base else None
    whole = whole_folder(subject.source.folder, base)
    config = AutoConfig.from_pretrained(str(whole), local_files_only=True).get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    if context is None:
        return list(items), frozenset()
    tokenizer = load_tokenizer(subject.source.folder, base=base)
    crowded = {item.id for item in items if len(asked_ids(tokenizer, item.messages, "chat")) >= context}
    return [item for item in items if item.id not in crowded], frozenset(crowded)


def _rows(prompt: Row, answers: Sequence[Answer], how: Answers, crowded: frozenset[str]) -> Iterator[Row | Rejected]:
    """What the answers make of their prompt."""
    if asked_by(prompt).id in crowded:
        yield without_answer(prompt, "it leaves no room for an answer in the teacher's context")
    for answer in answers:
        why = _useless(answer, how)
        yield with_answer(prompt, answer.text) if why is None else without_answer(prompt, why, answer.text)


def _useless(answer: Answer, how: Answers) -> str | None:
    """Why nothing is learned from an answer; None where something is."""
    if answer.finish == "refused":
        return "the teacher's server declined it"
    if answer.finish == "length":
        return f"the answer was cut at {how.max_tokens} tokens"
    if not answer.text.strip():
        return "the answer is empty"
    if how.refusals == "drop" and is_refusal(answer.text):
        return "the teacher declines to answer"
    return None


def _spent(
    settings: ModelTeacher | EndpointTeacher, answers: Sequence[Answer], seconds: float
) -> dict[str, float | int | None]:
    """What the answers took: tokens of all of them, seconds of those made now, and the price where one is known."""
    read = sum(answer.prompt_tokens or 0 for answer in answers)
    written = sum(answer.tokens or 0 for answer in answers)
    usd: float | None = None
    if isinstance(settings, EndpointTeacher):
        prices = (settings.usd_per_million_read, settings.usd_per_million_written)
        usd = (read * prices[0] + written * prices[1]) / 1e6 if any(prices) else None
    elif (listed := read_prices()) is not None and (hourly := listed.of(device_of(machine()))) is not None:
        usd = hourly * seconds / 3600
    return {"prompt_tokens": read or None, "answer_tokens": written, "seconds": round(seconds, 3), "usd": usd}


def _told(version: DatasetVersion, record: Mapping[str, Any], kept: int, made: int) -> str:
    lost = sum(found.rows for found in version.findings if found.check == CHECK)
    read = f"{record['prompt_tokens']:,} tokens read and " if record["prompt_tokens"] else ""
    cost = "" if record["usd"] is None else f", {record['usd']:.4f} USD"
    return (
        f"teacher: {made:,} answers ({kept:,} of them kept from before), {read}{record['answer_tokens']:,} written"
        f"{cost}; {lost:,} are of no use and left out"
    )


def _each(samples: int) -> str:
    return f", {samples} answers each" if samples > 1 else ""

"""Who answers the items of suites, by how a user names it, and the reports of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from llmops.eval.cache import AnswerCache
from llmops.eval.engines.endpoint import SEEN, endpoint
from llmops.eval.engines.engine import Engine
from llmops.eval.engines.recorded import Recorded
from llmops.eval.items import Item
from llmops.eval.loading import base_of
from llmops.eval.measured import Measured, read
from llmops.eval.run import evaluate
from llmops.eval.suite import Suite
from llmops.events import Listener
from llmops.records import ModelSource
from llmops.registry.reference import resolve
from llmops.workspace import Workspace

Suites = Sequence[tuple[Suite, Sequence[Item]]]
Through = Literal["transformers", "vllm"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and the engine that answers with it."""

    source: ModelSource
    engine: Engine


def subject(
    model: ModelSource, base: ModelSource | None, workspace: Workspace, *, through: Through, keep: bool
) -> Subject:
    """A model on this machine's disk.

    Args:
        base: what an adapter answers on; None for a whole model.
        keep: answers are kept, and those kept before are not asked for again.
    """
    from llmops.eval.engines.transformers import generate as by_transformers
    from llmops.eval.engines.vllm import generate as by_vllm

    cache = AnswerCache(workspace.cache / "answers", model.digest, base.digest if base else None) if keep else None
    generate = by_vllm if through == "vllm" else by_transformers
    return Subject(model, partial(generate, model.folder, base=base.folder if base else None, cache=cache))


def loaded(
    reference: str, workspace: Workspace, listener: Listener, *, through: Through = "transformers", keep: bool = True
) -> Subject:
    """The model that a reference names; an adapter answers on the base it names."""

    def making(done: int, total: int, what: str) -> None:
        listener.advance(what, done, total)

    source = resolve(reference, workspace=workspace, on_progress=making, say=listener.say)
    named = base_of(source.folder)
    base = resolve(named, workspace=workspace, on_progress=making, say=listener.say) if named else None
    return subject(source, base, workspace, through=through, keep=keep)


def served(
    model: str, url: str, workspace: Workspace, *, key: str | None = None, concurrency: int = 16, keep: bool = True
) -> Subject:
    """The model that a server has under this name; its bytes are not seen."""
    engine = endpoint(url, model, key=key, concurrency=concurrency)
    cache = AnswerCache(workspace.cache / "answers", engine.digest) if keep else None
    return Subject(ModelSource(model, Path(), SEEN, engine.digest), partial(engine, cache=cache))


def recorded(name: str, file: Path, *, prompt: str, answer: str) -> Subject:
    """The answers that stand in a file, as those of a model called `name`."""
    engine = Recorded(file, prompt=prompt, answer=answer)
    return Subject(ModelSource(name, file.parent, None, engine.digest()), engine)


def measure(
    asked: Subject, suites: Suites, *, folder: Path, listener: Listener, judged: Path | None = None
) -> dict[str, Measured]:
    """Its reports by the suite's name, their files in `folder`.

    Args:
        judged: folder in which the verdicts of judges are kept; None keeps none.
    """
    found = {}
    for suite, items in suites:
        report = evaluate(
            suite, items, asked.source, generate=asked.engine, out=folder, listener=listener, judged=judged
        )
        assert report.file is not None
        found[suite.name] = read(report.file)
    return found

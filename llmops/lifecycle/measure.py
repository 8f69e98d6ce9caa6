"""A model by its reference, measured on suites: resolved, answered, scored, written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llmops.eval.cache import AnswerCache
from llmops.eval.engines.transformers import generate
from llmops.eval.items import Item
from llmops.eval.loading import base_of
from llmops.eval.measured import Measured, read
from llmops.eval.run import evaluate
from llmops.eval.suite import Suite
from llmops.events import Listener
from llmops.registry.reference import resolve
from llmops.workspace import Workspace

Suites = Sequence[tuple[Suite, Sequence[Item]]]


def measure(
    reference: str,
    suites: Suites,
    *,
    folder: Path,
    workspace: Workspace,
    listener: Listener,
    keep: bool = True,
) -> dict[str, Measured]:
    """The reports of a model by the suite's name; an adapter answers on the base it names.

    Args:
        folder: gets the reports' files.
        keep: answers are kept, and those kept before are not asked for again.
    """

    def making(done: int, total: int, what: str) -> None:
        listener.advance(what, done, total)

    source = resolve(reference, workspace=workspace, on_progress=making, say=listener.say)
    named = base_of(source.folder)
    base = resolve(named, workspace=workspace, on_progress=making, say=listener.say) if named else None
    cache = AnswerCache(workspace.cache / "answers", source.digest, base.digest if base else None) if keep else None
    found = {}
    for suite, items in suites:
        engine = partial(generate, source.folder, base=base.folder if base else None, cache=cache)
        report = evaluate(suite, items, source, generate=engine, out=folder, listener=listener)
        assert report.file is not None
        found[suite.name] = read(report.file)
    return found

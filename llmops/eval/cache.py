"""Answers kept on disk as they are made, so that an interrupted evaluation goes on and a repeated one asks nothing.

There is one file for everything an answer may depend on beside its prompt: the model's bytes, its base's, the engine
with all it says about itself, and the decoding. Answers of another model lie in another file and are never seen.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmops.errors import EnvironmentFault
from llmops.eval.engines.engine import Answer, Generated
from llmops.eval.items import Item
from llmops.eval.suite import Generation
from llmops.events import Listener
from llmops.files import canonical_json, digest_of, write_bytes


@dataclass(frozen=True, slots=True)
class AnswerCache:
    """The kept answers of one model, in files below `folder`.

    Attributes:
        model: digest of what answers.
        base: digest of what it is an adapter of; None for a whole model.
    """

    folder: Path
    model: str
    base: str | None = None

    def opened(self, engine: Mapping[str, str], generation: Generation) -> Kept:
        """What is kept of answers that `engine` makes by decoding so.

        Args:
            engine: everything else an answer may depend on; a difference in any of it is another file.

        Raises:
            EnvironmentFault: the cache cannot be read or written.
        """
        key = {
            "model": self.model,
            "base": self.base,
            "engine": dict(engine),
            "generation": generation.model_dump(mode="json"),
        }
        head = canonical_json({"key": key})
        kept = Kept(self.folder / f"{digest_of(key)}.jsonl")
        try:
            kept.read(head)
        except OSError as error:
            raise _unusable(kept.file, error) from error
        return kept


@dataclass(slots=True)
class Kept:
    """Answers by the digest of their prompts; without a file they are forgotten at the end."""

    file: Path | None = None
    _known: dict[str, Answer] = field(default_factory=dict)

    def read(self, head: bytes) -> None:
        """Take in the file, which begins with the line `head`; a missing one is begun.

        A line that a kill or a power cut left torn is no JSON and is passed over.
        """
        assert self.file is not None
        if not self.file.is_file():
            write_bytes(self.file, head + b"\n")
            return
        first, *lines = self.file.read_bytes().split(b"\n")
        if first != head:
            raise EnvironmentFault(
                f"the kept answers in {self.file} are not of this model, engine and decoding: the file was renamed "
                "or changed",
                fix="delete it; its answers are made again",
            )
        for line in lines:
            try:
                held = json.loads(line)
                self._known.setdefault(held["prompt"], Answer(**held["answer"]))
            except (ValueError, TypeError, KeyError):
                continue

    def of(self, items: Iterable[Item], prompts: Mapping[str, str]) -> dict[str, Answer]:
        """The answers that are kept, by the items' ids.

        Args:
            prompts: digest of what the model is asked, by the items' ids.
        """
        return {
            item.id: replace(self._known[prompts[item.id]], item=item.id)
            for item in items
            if prompts[item.id] in self._known
        }

    def add(self, answers: Sequence[Answer], prompts: Mapping[str, str]) -> None:
        """Keep `answers`; when this returns they are on the disk.

        Raises:
            EnvironmentFault: the file cannot be written.
        """
        for answer in answers:
            self._known.setdefault(prompts[answer.item], answer)
        if self.file is None:
            return
        # It begins with a line end, so that a torn line before it spoils nothing; written at once, since another
        # process may keep its answers in the same file.
        lines = b"".join(b"\n" + _line(prompts[answer.item], answer) for answer in answers) + b"\n"
        try:
            handle = os.open(self.file, os.O_WRONLY | os.O_APPEND)
            try:
                if os.write(handle, lines) < len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise _unusable(self.file, error) from error


def answer_new(
    items: Sequence[Item],
    generation: Generation,
    engine: Mapping[str, str],
    *,
    prompts: Mapping[str, str],
    ask: Callable[[Sequence[Item], Callable[[Sequence[Answer]], None]], float],
    cache: AnswerCache | None,
    listener: Listener,
) -> Generated:
    """The answers that are kept, and for the other items those that `ask` makes, kept as they come.

    Args:
        prompts: digest of what the model is asked, by the items' ids.
        ask: answers the items it is given, hands over answers as it has them, and returns the seconds they took;
            it is not called where nothing is left to ask.
        cache: of the model; None keeps nothing.
    """
    kept = cache.opened(engine, generation) if cache else Kept()
    known = kept.of(items, prompts)
    answers = dict(known)

    def keep(some: Sequence[Answer]) -> None:
        answers.update({answer.item: answer for answer in some})
        kept.add(some, prompts)

    if known:
        listener.say(f"{len(known):,} of {len(items):,} answers come from the cache")
    rest = [item for item in items if item.id not in known]
    seconds = ask(rest, keep) if rest else 0.0
    return Generated(tuple(answers[item.id] for item in items), seconds, dict(engine), frozenset(known))


def prompt_digest(item: Item, asked: Any, generation: Generation) -> str:
    """sha256 over what the model is asked, such as token ids; where answers are drawn, an item has draws of its own."""
    return digest_of({"asked": asked, "item": item.id if generation.temperature else None})


def _line(prompt: str, answer: Answer) -> bytes:
    return canonical_json({"prompt": prompt, "answer": asdict(answer)})


def _unusable(file: Path | None, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"the kept answers in {file} cannot be used: {error.strerror}", fix="free the path, or go without: --no-cache"
    )

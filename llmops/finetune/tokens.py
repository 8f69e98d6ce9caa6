"""Rows become token ids with a loss mask, streamed to one file per split that training maps into memory.

`trained[j]` says that token j is a label, predicted from the tokens before it; the first token of a
sequence never is. Which tokens of a conversation those are is decided in `masks.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from llmops.data.chat import TemplateRefused, encode_text, template_digest, tokenizer_digest
from llmops.errors import InputError
from llmops.files import digest_of
from llmops.finetune.masks import Encoded, Masker, Tokenized, Turn, Unmaskable, cannot_be_masked
from llmops.finetune.method import ANSWER, LABELLED, SFT, AnyMethod, Item
from llmops.finetune.row_sequences import Conversation, conversations, mismatched, value_of
from llmops.finetune.token_file import Writer, read_arrays
from llmops.records import MaskReport, Row

_FORMAT = 1  # raise it when the same rows would become other tokens, masks or files
_CHUNK = 256  # rows tokenized together
_FIRST = 20  # when all of the first rows fail alike, it is not the rows


@dataclass(frozen=True, slots=True)
class Lost:
    """A row that is not trained on; `check` names the kind of reason."""

    id: str
    source: str
    line: int
    check: Literal["longer than max_length", "no trained token", "chat template"]
    reason: str


_HOLDS = {
    "messages": "a conversation",
    "text": "plain text",
    "preference": "a preference (chosen and rejected)",
    "labelled": "an answer with a label",
}


@dataclass(frozen=True)
class TokenStore:
    """Sequences of a split on disk; only what is asked for is read.

    Attributes:
        lengths: `(sequences,)` tokens of each.
        trained_counts: `(sequences,)` labels of each.
        weights: `(sequences,)` how often one epoch sees each.
        values: `(sequences,)` what its row says of each, as the method's item tells; zeros where rows say nothing.
        digest: sha256 over all arrays of the file.
    """

    path: Path
    digest: str
    lengths: NDArray[np.int64]
    trained_counts: NDArray[np.int64]
    weights: NDArray[np.float32]
    values: NDArray[np.float32]
    _offsets: NDArray[np.int64] = field(repr=False)
    _ids: NDArray[np.int32] = field(repr=False)
    _trained: NDArray[np.uint8] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The store in a file that `encode` wrote.

        Raises:
            InputError: there is none, or it is torn.
        """
        digest, maps = read_arrays(path)
        offsets = np.array(maps["offsets"])
        counts = np.zeros(len(offsets) - 1, dtype=np.int64)
        for at in range(0, len(counts), _CHUNK * 16):
            until = min(at + _CHUNK * 16, len(counts))
            part = maps["trained"][offsets[at] : offsets[until]]
            counts[at:until] = np.add.reduceat(part, offsets[at:until] - offsets[at], dtype=np.int64)
        weights = np.array(maps["weights"])
        values = np.array(maps["values"]) if "values" in maps else np.zeros_like(weights)
        return cls(path, digest, np.diff(offsets), counts, weights, values, offsets, maps["ids"], maps["trained"])

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Ids and mask of one sequence, `(tokens,)` each; views of the file, not to be written."""
        begin, end = self._offsets[index], self._offsets[index + 1]
        return self._ids[begin:end], self._trained[begin:end].view(np.bool_)


def encoding_key(dataset_digest: str, tokenizer: Any, max_length: int, item: Item = ANSWER) -> str:
    """Names what `encode` makes of a dataset: another key wherever one token or one mask could differ."""
    return digest_of(
        {
            **({} if item == ANSWER else {"item": item.name}),
            "format": _FORMAT,
            "dataset": dataset_digest,
            "tokenizer": tokenizer_digest(tokenizer),
            "template": template_digest(tokenizer),
            "max_length": max_length,
        }
    )


def encode(
    rows: Iterable[Row],
    tokenizer: Any,
    *,
    max_length: int,
    path: Path,
    method: AnyMethod = SFT,
    seed_samples: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[TokenStore, MaskReport, list[Lost]]:
    """Encode all rows into the file `path`, which appears whole or not at all. Memory does not grow with the rows.

    A conversation is one sequence (see `Masker.sequences` for when it is several) and is never cut. A text
    longer than `max_length` becomes several windows; each begins with the last token of the one before, so
    that every token but the text's first is a label once. A row whose item has several sequences gives all of
    them, one behind another, or none.

    Args:
        method: whose rows these are; its item says what a row becomes.
        max_length: tokens a sequence may have.
        seed_samples: draws the five rows the report shows.
        on_progress: is told how many rows are done.

    Raises:
        InputError: the template cannot be masked, refuses all of the first rows, or there is none; no row
            is left; a row of a kind that the method does not train on.
    """
    if max_length < 2:
        raise ValueError("a sequence needs at least two tokens: one to predict and one to predict it from")
    encoder = _Encoder(tokenizer, max_length, method, random.Random(seed_samples))
    with Writer(path, values=method.item != ANSWER) as out:
        done = 0
        remaining = iter(rows)
        while chunk := list(islice(remaining, _FIRST if done == 0 else _CHUNK)):
            for row, sequences in encoder.chunk(chunk):
                value = value_of(row)
                for sequence in sequences:
                    out.add(sequence.ids, sequence.trained, row.weight, value)
            if done == 0:
                encoder.refuse_if_all_failed(len(chunk))
            done += len(chunk)
            on_progress(done)
        if not encoder.kept:
            raise encoder.nothing_left(done)
        out.finish()
    store = TokenStore.open(path)
    return store, encoder.report(store), encoder.lost


class _Encoder:
    """Rows to sequences, and the account of what became of them."""

    def __init__(self, tokenizer: Any, max_length: int, method: AnyMethod, draw: random.Random) -> None:
        self.tokenizer, self.max_length, self.method, self.draw = tokenizer, max_length, method, draw
        self.masker = Masker(tokenizer)
        self.lost: list[Lost] = []
        self.kept = 0
        self.conversations = False
        self.samples: list[tuple[int, list[Encoded]]] = []
        self.refused: InputError | None = None
        self.before: list[Row] = []  # the last row of the chunk before, where answers of others are needed

    def chunk(self, rows: list[Row]) -> Iterator[tuple[Row, list[Encoded]]]:
        """The rows that are kept, in order, with their sequences."""
        prepared = [(row, self._rendered(told)) for row, told in zip(rows, self._told(rows), strict=True)]
        texts = [
            text
            for _, rendered in prepared
            if isinstance(rendered, list)
            for turns in rendered
            for turn in turns
            for text in (turn.prompt, turn.through)
        ]
        tokenized = self.masker.tokenize(texts)
        for row, rendered in prepared:
            if isinstance(rendered, TemplateRefused):
                self.refused = self.refused or rendered
                self._lose(row, "chat template", rendered.problem)
                continue
            try:
                sequences = self._windows(row) if rendered is None else self._sequences(rendered, tokenized)
            except Unmaskable as why:
                self.refused = self.refused or cannot_be_masked(str(why))
                self._lose(row, "chat template", str(why))
                continue
            longest = max((len(sequence.ids) for sequence in sequences), default=0)
            whole = all if self.method.item.sequences > 1 else any
            if longest > self.max_length:
                self._lose(row, "longer than max_length", f"{longest} tokens, {self.max_length} are allowed")
            elif not whole(sequence.trained.any() for sequence in sequences):
                self._lose(row, "no trained token", "nothing in it is said by the assistant")
            else:
                kept = [sequence for sequence in sequences if sequence.trained.any()]
                self._sample(kept if self.method.item.sequences > 1 else kept[:1])
                self.kept += 1
                yield row, kept

    def _told(self, rows: list[Row]) -> list[list[Conversation] | None]:
        """The conversations of each row, one for each sequence of its item; None for plain text."""
        for row in rows:
            if row.kind not in self.method.rows:
                raise InputError(
                    f"{row.source}:{row.line} holds {_HOLDS[row.kind]}, which method {self.method.kind} does not "
                    "train on",
                    fix=f"give the data section rows that hold {' or '.join(_HOLDS[kind] for kind in self.method.rows)}"
                    ", or choose the method that goes with these",
                )
        self.conversations = self.conversations or any(row.kind != "text" for row in rows)
        told = [None if row.kind == "text" else conversations(row) for row in rows]
        if self.method.item == LABELLED:
            others = mismatched([*self.before, *rows])[len(self.before) :]
            told = [[*(own or ()), other] for own, other in zip(told, others, strict=True)]
            self.before = rows[-1:]
        return told

    def _rendered(self, told: list[Conversation] | None) -> list[list[Turn]] | TemplateRefused | None:
        """The answers of each conversation as text, or why the template refuses one; None for plain text."""
        if told is None:
            return None
        try:
            return [self.masker.turns(one.content, after=one.given) for one in told]
        except TemplateRefused as refused:
            return refused

    def _sequences(self, rendered: list[list[Turn]], tokenized: Mapping[str, Tokenized]) -> list[Encoded]:
        made = [self.masker.sequences(turns, tokenized) for turns in rendered]
        if self.method.item.sequences > 1 and any(len(sequences) != 1 for sequences in made):
            raise Unmaskable(
                "the template renders earlier turns of an answer otherwise once later ones follow, so that the answer "
                f"is no one sequence, as method {self.method.kind} needs it"
            )
        one_behind_another = [sequence for sequences in made for sequence in sequences]
        trained = len(one_behind_another) - len(self.method.item.measured)
        # What is only measured may be cut; what is trained never is.
        cut = [
            Encoded(one.ids[: self.max_length], one.trained[: self.max_length]) for one in one_behind_another[trained:]
        ]
        return one_behind_another[:trained] + cut

    def _windows(self, row: Row) -> list[Encoded]:
        ids = np.asarray(encode_text(self.tokenizer, row.content["text"], end=True), dtype=np.int32)
        if len(ids) < 2:
            return [Encoded(ids, np.zeros(len(ids), dtype=np.bool_))]
        made = []
        for begin in range(0, len(ids) - 1, self.max_length - 1):
            part = ids[begin : begin + self.max_length]
            trained = np.ones(len(part), dtype=np.bool_)
            trained[0] = False
            made.append(Encoded(part, trained))
        return made

    def _lose(
        self, row: Row, check: Literal["longer than max_length", "no trained token", "chat template"], reason: str
    ) -> None:
        self.lost.append(Lost(row.id, row.source, row.line, check, reason))

    def _sample(self, sequences: list[Encoded]) -> None:
        """Keep five of all rows, each as likely as any other (reservoir sampling, algorithm R)."""
        if len(self.samples) < 5:
            self.samples.append((self.kept, sequences))
        elif (place := self.draw.randrange(self.kept + 1)) < 5:
            self.samples[place] = (self.kept, sequences)

    def refuse_if_all_failed(self, seen: int) -> None:
        """When no row of the first ones can be used for one and the same kind of reason, the template is at fault."""
        if len(self.lost) < seen or not self.conversations:
            return
        checks = {one.check for one in self.lost}
        if checks == {"chat template"} and self.refused is not None:
            raise self.refused
        if checks == {"no trained token"} and self.masker.used_marks:
            raise cannot_be_masked("its {% generation %} marks hold nothing")

    def _balance(self, store: TokenStore) -> list[str]:
        if self.method.item != LABELLED:
            return []
        labels = store.values[:: LABELLED.sequences]
        note = balance(int(labels.sum()), int((labels == 0).sum()))
        return [note] if note else []

    def nothing_left(self, done: int) -> InputError:
        if not done:
            return InputError("there is no row to train on", fix="look into the sources of the data section")
        counts: dict[str, int] = {}
        for one in self.lost:
            counts[one.check] = counts.get(one.check, 0) + 1
        named = ", ".join(f"{count} for: {check}" for check, count in sorted(counts.items()))
        fix = "raise batch.max_length" if "longer than max_length" in counts else "look into the rows named above"
        first = self.lost[0]
        return InputError(
            f"all {done} rows are lost ({named}); the first is {first.source}:{first.line}: {first.reason}", fix=fix
        )

    def report(self, store: TokenStore) -> MaskReport:
        counts = {check: sum(one.check == check for one in self.lost) for check in {one.check for one in self.lost}}
        marks: Literal["generation-marks", "prefixes"] = "generation-marks" if self.masker.used_marks else "prefixes"
        return MaskReport(
            rows=self.kept,
            tokens=int(store.lengths.sum()),
            trained_tokens=int(store.trained_counts.sum()),
            longest=int(store.lengths.max()),
            lost_too_long=counts.get("longer than max_length", 0),
            lost_untrained=counts.get("no trained token", 0),
            template_digest=template_digest(self.tokenizer) if self.conversations else None,
            mask_from=marks if self.conversations else "text",
            samples=tuple(
                "\n".join(marked_text(self.tokenizer, one) for one in sequences)
                for _, sequences in sorted(self.samples, key=lambda kept: kept[0])
            ),
            sequences=len(store),
            lost_refused=counts.get("chat template", 0),
            notes=(*self.masker.notes, *self._balance(store)),
        )


def balance(wanted: int, unwanted: int) -> str | None:
    """What to know of so many labels of each kind; None where they count alike as they are.

    n · λ_w : m · λ_u should lie between 1 and 4/3 (Ethayarajh et al. 2024, eq. 8).
    """
    if not wanted or not unwanted:
        return f"labels: all {wanted + unwanted} answers are {'wanted' if wanted else 'unwanted'}; KTO needs both kinds"
    least, most = unwanted / wanted, 4 / 3 * unwanted / wanted
    if least <= 1 <= most:
        return None
    return (
        f"labels: {wanted} wanted and {unwanted} unwanted; both kinds count alike with method.desirable_weight "
        f"{least:.2g} to {most:.2g}"
    )


def marked_text(tokenizer: Any, sequence: Encoded) -> str:
    """The sequence as text, special tokens shown, trained spans between ⟦ and ⟧."""
    parts = []
    borders = np.flatnonzero(np.diff(sequence.trained)) + 1
    for begin, end in zip([0, *borders], [*borders, len(sequence.ids)], strict=True):
        text = tokenizer.decode(
            sequence.ids[begin:end].tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        parts.append(f"⟦{text}⟧" if sequence.trained[begin] else text)
    return "".join(parts)

"""Many requests from a file, answered into another: begun anew after any kill, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from llmops.errors import InputError
from llmops.events import Listener
from llmops.files import digest_of, file_digest, write_json
from llmops.lifecycle.batch_input import Form, Request, Scanned, requests_in, scan
from llmops.lifecycle.batch_journal import Journal, difference
from llmops.lifecycle.batch_output import ANSWER, check_output, remove_torn, write_output

_TELL_COST_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request.

    Attributes:
        status: of the HTTP answer; None where none came.
        body: of the answer, also of a refusal; None where it is no JSON or none came.
        error: `code` and `message` of a failure; None where it was answered.
    """

    request: Request
    status: int | None
    body: Any
    error: Mapping[str, str] | None = None
    request_id: str | None = None


class Asker(Protocol):
    """Whatever answers requests with the one model it was made for."""

    identity: Mapping[str, Any]
    """What the answers depend on beside the requests."""

    def allowed(self, request: Request) -> str | None:
        """What it cannot answer in a request, before anything is asked; None where it can."""

    def __call__(self, requests: Iterator[Request], keep: Callable[[Outcome], None], listener: Listener) -> None:
        """Take requests as there is room and hand over what came of each, in any order.

        Raises:
            LlmopsError: no further request would be answered, either.
        """


@dataclass(frozen=True, slots=True)
class Batched:
    """A finished batch.

    Attributes:
        seconds: at work, in all processes that took part; `usd` what they cost.
        digest: sha256 of the output.
    """

    output: Path
    rows: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    usd: float | None
    digest: str


def batch(
    source: Path,
    output: Path,
    form: Form,
    ask: Asker,
    *,
    listener: Listener,
    answer: str = "answer",
    usd_per_hour: float | None = None,
    retry_failed: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Batched:
    """Answer every row of `source` into `output`: exactly one line for each, in the same order.

    Results go to `OUT.journal` as they come; the output appears when all have one. Killed at any instant and called
    again with the same arguments, it goes on; finished, it says so and asks nothing. Requests that failed for good have
    an error as their line, and the journal stays so that `retry_failed` can ask them again.

    Raises:
        FileFaults: rows that are no requests, or ids that stand there twice; nothing was asked.
        InputError: the journal or output there is another batch's, or the output cannot be written as asked.
    """
    scanned = scan(source, form, allowed=ask.allowed)
    check_output(output, scanned, answer)
    how = {name: value for name, value in asdict(form).items() if name != "model"}
    identity = {"input": scanned.digest, "model": form.model, **how, "answer": answer, **ask.identity}
    record, journal_file = output.with_name(output.name + ".batch.json"), output.with_name(output.name + ".journal")
    if not journal_file.exists():
        finished = _finished(output, record, identity)
        if finished is not None:
            listener.say(f"{output} is complete: nothing was asked")
            return finished
    with Journal(journal_file, identity, scanned.rows) as journal:
        remove_torn(output)
        if journal.done:
            listener.say(f"{journal.done:,} of {scanned.rows:,} were answered before")
        if retry_failed:
            listener.say(f"{journal.forget_failed():,} that failed are asked again")
        before, started = journal.seconds, clock()
        if journal.done < scanned.rows:
            _answer(scanned, form, ask, journal, identity, usd_per_hour, listener, clock)
        seconds = before + clock() - started
        usd = None if usd_per_hour is None else usd_per_hour * seconds / 3600
        tokens = _tokens(journal, scanned)
        found: Batched | None = None

        def settle(digest: str) -> None:
            nonlocal found
            found = Batched(output, scanned.rows, journal.failed, *tokens, round(seconds, 3), usd, digest)
            write_json(record, {"batch": identity, **asdict(found), "output": output.name})

        write_output(output, scanned, journal, answer, settle)
        assert found is not None
        if not journal.failed:
            journal.remove()
    return found


def _answer(
    scanned: Scanned,
    form: Form,
    ask: Asker,
    journal: Journal,
    identity: Mapping[str, Any],
    usd_per_hour: float | None,
    listener: Listener,
    clock: Callable[[], float],
) -> None:
    batch_id = digest_of(dict(identity))
    first, started = journal.done, clock()
    told = started

    def keep(outcome: Outcome) -> None:
        nonlocal told
        row = outcome.request.row
        result = _line(outcome, batch_id) if scanned.kind == "openai" else _cells(outcome)
        journal.add(row, result, failed=outcome.error is not None)
        now = clock()
        if usd_per_hour is not None and now - told > _TELL_COST_S:
            told = now
            so_far = usd_per_hour * (journal.seconds + now - started) / 3600
            left = usd_per_hour * (now - started) / (journal.done - first) * (scanned.rows - journal.done) / 3600
            listener.say(f"{so_far:.2f} USD so far, about {so_far + left:.2f} USD in the end")
        listener.advance("answers", journal.done, scanned.rows)

    ask((request for request in requests_in(scanned, form) if request.row not in journal), keep, listener)
    if journal.done < scanned.rows:
        raise InputError(
            f"{scanned.file} changed while it was read: {scanned.rows - journal.done:,} rows are gone",
            fix="leave the input alone while a batch runs, then begin it anew with another OUT",
        )


def _line(outcome: Outcome, batch_id: str) -> dict[str, Any]:
    """A line of OpenAI's output format; a refusal has both the server's answer and an error."""
    request = outcome.request
    name = "batch_req_" + hashlib.sha256(f"{batch_id}:{request.row}".encode()).hexdigest()[:24]
    response = None
    if outcome.status is not None:
        response = {"status_code": outcome.status, "request_id": outcome.request_id or name, "body": outcome.body}
    return {"id": name, "custom_id": request.custom_id, "response": response, "error": outcome.error}


def _cells(outcome: Outcome) -> dict[str, Any]:
    """The columns that are added to a row, by what follows the answer's name."""
    if outcome.error is not None:
        return {**dict.fromkeys(ANSWER), "_error": f"{outcome.error['code']}: {outcome.error['message']}"}
    choice = outcome.body["choices"][0]
    # A chat's content is null where it only called a tool.
    text = choice.get("text") or (choice.get("message") or {}).get("content") or ""
    prompt, completion = _usage(outcome.body)
    return {
        "": text,
        "_finish_reason": choice.get("finish_reason"),
        "_prompt_tokens": prompt,
        "_completion_tokens": completion,
        "_error": None,
    }


def _usage(body: Any) -> tuple[int | None, int | None]:
    """Tokens of prompt and answer as the server counts them, by either of the names they have."""
    usage = body.get("usage") if isinstance(body, dict) else None
    found = usage if isinstance(usage, dict) else {}

    def count(*names: str) -> int | None:
        return next((found[name] for name in names if type(found.get(name)) is int), None)

    return count("prompt_tokens", "input_tokens"), count("completion_tokens", "output_tokens")


def _tokens(journal: Journal, scanned: Scanned) -> tuple[int, int]:
    """Of all prompts and answers."""
    prompt = completion = 0
    for result in journal.results():
        if scanned.kind == "openai":
            read, wrote = _usage((result["response"] or {}).get("body"))
        else:
            read, wrote = result["_prompt_tokens"], result["_completion_tokens"]
        prompt += read or 0
        completion += wrote or 0
    return prompt, completion


def _finished(output: Path, record: Path, identity: Mapping[str, Any]) -> Batched | None:
    """The batch whose output stands there; None where there is none.

    Raises:
        InputError: what stands there is something else.
    """
    if not output.exists():
        return None

    try:
        held = json.loads(record.read_bytes())
        begun, found = held.pop("batch"), Batched(**{**held, "output": output})
    except (OSError, ValueError, KeyError, TypeError):
        begun, found = None, None
    if found is None or found.digest != file_digest(output):
        raise InputError(f"{output} is there already, and no batch left it so", fix="move it away, or give another OUT")
    changed = difference(begun, identity)
    if changed:
        raise InputError(
            f"{output} is the output of another batch; what differs: {'; '.join(changed)}",
            fix="move it away, or give another OUT",
        )
    return found

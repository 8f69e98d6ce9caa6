"""Requests in the ledger with what the gateway kept of them, for the tests of what is drawn from there."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Engine, insert

from llmops.feedback.campaign import FromLedger
from llmops.serve import ledger_tables
from llmops.serve.entry import Captured
from tests.serve.entries import an_entry


def keep(engine: Engine, question: str, *answers: str, **said: Any) -> str:
    """A request that was kept, with shadow copies for the further answers; the request's id."""
    first = an_entry(**said)
    entries = [first] + [
        an_entry(**{**said, "shadow_of": first.id, "version": f"models:/big/{n}"}) for n, _ in enumerate(answers[1:])
    ]
    with engine.begin() as connection:
        for entry, text in zip(entries, answers, strict=True):
            asked = {"messages": [{"role": "user", "content": question}], "temperature": 0.7}
            answer = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
            connection.execute(insert(ledger_tables.requests()).values(**ledger_tables.request_row(entry)))
            kept = Captured(entry.id, 0.1, asked, answer, time.time() + 1000)
            connection.execute(insert(ledger_tables.captured()).values(**ledger_tables.captured_row(kept)))
    return first.id


def ledger(**settings: Any) -> FromLedger:
    return FromLedger(**{"from": "ledger", **settings})

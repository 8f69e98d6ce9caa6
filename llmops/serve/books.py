"""All that a gateway writes down of its requests, as its file asks for it: ledger, log, traces, and what keys spent."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from llmops.database import open_database
from llmops.serve.entry import Captured, Entry
from llmops.serve.gatekeeper import KeyFile
from llmops.serve.hooks import Everybody, Feedback, Gatekeeper
from llmops.serve.ledger import Ledger
from llmops.serve.ledger_usage import spent
from llmops.serve.limits import Spending
from llmops.serve.metrics import Metrics
from llmops.serve.request_log import JsonLines, RequestLog
from llmops.serve.settings import Gateway
from llmops.serve.traces import Traces
from llmops.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Engine

_told = logging.getLogger("llmops.gateway")


class Books:
    """The gateway's recorder (`hooks.Recorder`), and the parts that live as long as it does.

    Attributes:
        log: where others may write lines, too.
        metrics: for the application.
    """

    def __init__(self, settings: Gateway, *, workspace: Workspace) -> None:
        """Open what `settings` ask for; nothing is written before `start`.

        Raises:
            EnvironmentFault: a package for traces is missing.
        """
        telemetry = settings.telemetry
        self._spending = Spending()
        self._keys: KeyFile | None = None
        self._traces = Traces(telemetry.traces, telemetry.trace_share) if telemetry.traces else None
        self.log = RequestLog(telemetry.log)
        self._lines = JsonLines(self.log)
        self.ledger = Ledger(
            lambda: open_database(workspace),
            behind_rows=settings.ledger.behind_rows,
            keep_days=settings.ledger.keep_days,
            on_open=self._read_spending,
            tell=self._tell,
        )
        self.metrics = Metrics(
            self.ledger.status, keys_problem=lambda: None if self._keys is None else self._keys.problem
        )

    def start(self) -> None:
        """Begin to write, what the program itself tells included."""
        _told.addHandler(self._lines)
        self.ledger.start()

    def gatekeeper(self, settings: Gateway) -> Gatekeeper:
        """Who would let in as `settings` say; while the file of keys is the same, what keys took is not forgotten.

        Raises:
            LlmopsError: the file of keys cannot be read.
        """
        if settings.keys is None:
            return Everybody()
        if self._keys is not None and self._keys.file == settings.keys.file:
            return self._keys
        return KeyFile(settings.keys.file, self._spending, tell=self._tell)

    def follow(self, gatekeeper: Gatekeeper) -> None:
        """From now on this one lets in; the metrics say of it where its file cannot be read."""
        self._keys = gatekeeper if isinstance(gatekeeper, KeyFile) else None

    def record(self, entry: Entry) -> None:
        self.ledger.record(entry)
        self.log.record(entry)
        if self._traces is not None:
            self._traces.record(entry)

    def capture(self, captured: Captured, *, redact: bool) -> None:
        self.ledger.capture(captured, redact=redact)

    def feedback(self, given: Feedback) -> None:
        """See `Ledger.feedback`."""
        self.ledger.feedback(given)

    def close(self, *, wait_s: float = 10.0) -> int:
        """Write what waits; the rows that could not be written in `wait_s` are lost, and their number is returned."""
        lost = self.ledger.close(wait_s=wait_s)
        if lost:
            self._tell(f"{lost} rows of the ledger could not be written and are lost")
        if self._traces is not None:
            self._traces.close()
        _told.removeHandler(self._lines)
        self.log.close()
        return lost

    def _read_spending(self, engine: Engine) -> None:
        now = time.time()
        self._spending.begin(now, spent(engine, now))

    def _tell(self, line: str) -> None:
        self.log.say(line, level="warning")

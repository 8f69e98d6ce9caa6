"""Records a run in MLflow without ever stopping or slowing it.

Calls only put an event into a list; a thread sends them in batches. What cannot be sent is kept in
`unsent.jsonl` in the run's folder, tried again, and named at the end.
"""

from __future__ import annotations

import getpass
import itertools
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmops.files import write_text
from llmops.registry.connection import PATIENCE_S
from llmops.registry.sending import PARAM_LIMITS, Down, Event, Sender, flat, metrics_event, now_ms
from llmops.workspace import Workspace

Status = Literal["FINISHED", "FAILED", "KILLED"]

_NAMED = 20


@dataclass(frozen=True, slots=True)
class Unsent:
    """What MLflow does not have at the end of a run; falsy when it has everything.

    Attributes:
        run_id: the MLflow run, None where the server never made one.
        kept: events by kind in `file`, sent when the run is next resumed or asked for again.
        rejected: values the server refused, each with its reason.
        lost: events left out because the server was too slow for all of them.
        reason: why the last attempt failed.
    """

    run_id: str | None
    kept: Mapping[str, int]
    file: Path | None
    rejected: tuple[str, ...]
    lost: int
    reason: str | None

    def __bool__(self) -> bool:
        return bool(self.kept or self.rejected or self.lost)

    def lines(self) -> list[str]:
        """For people: nothing when all was sent."""
        said = []
        if self.kept:
            what = ", ".join(f"{count} {kind}" for kind, count in self.kept.items())
            said.append(f"MLflow: not sent ({self.reason}): {what}; kept in {self.file}, sent on the next run of this")
        for one in self.rejected[:_NAMED]:
            said.append(f"MLflow: refused: {one}")
        if len(self.rejected) > _NAMED:
            said.append(f"MLflow: refused: {len(self.rejected) - _NAMED} more")
        if self.lost:
            said.append(f"MLflow: {self.lost} events left out, the server was too slow")
        return said


class Tracker:
    """The record of one run. Every method returns at once and none raises, whatever the server does.

    Args:
        folder: the run's folder; holds `mlflow.json` (the run's id, by which a resumed run goes on)
            and `unsent.jsonl`.
        every_s: time between two sendings.
        room: events waiting in memory; more are left out and counted.
        patience_s: how long a server may take to answer that it is there.
    """

    def __init__(
        self,
        workspace: Workspace,
        folder: Path,
        *,
        every_s: float = 2.0,
        room: int = 20_000,
        patience_s: float = PATIENCE_S,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._sender = Sender(workspace.tracking_uri, workspace.artifacts_uri, folder, patience_s=patience_s)
        self._file = folder / "unsent.jsonl"
        self._every_s = every_s
        self._room = room
        self._pending: deque[Event] = deque()
        self._later: list[Event] = []
        self._lock = threading.Lock()  # held for moments only: callers wait for it
        self._handover = threading.Lock()  # who may write `_file`: the thread, until it is abandoned
        self._begun = threading.Event()
        self._closing = threading.Event()
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._refused: list[str] = []
        self._lost = 0
        self._failures = 0
        self._retry_at = 0.0
        self._reason: str | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, once the server has made the run."""
        return self._sender.run_id

    def wait_for_id(self, *, within_s: float = 10.0) -> str | None:
        """The run's id after the first sending, for what follows at once on a short run; None where it failed."""
        if self._thread.ident is not None:
            self._begun.wait(within_s)
        return self.run_id

    def start(
        self,
        run_name: str,
        experiment: str,
        params: Mapping[str, Any],
        *,
        tags: Mapping[str, str] | None = None,
        resume_id: str | None = None,
    ) -> None:
        """Begin, or go on with the run whose id is in the folder or is `resume_id`.

        Args:
            params: may be nested; a value longer than the server takes is cut there and kept whole in
                the artifact `params.json`.
        """
        user: dict[str, str] = {}
        with suppress(OSError, KeyError):  # containers without an entry for the user
            user["mlflow.user"] = getpass.getuser()
        event = {"experiment": experiment, "run_name": run_name, "time": now_ms(), "tags": user | dict(tags or {})}
        self._put({"kind": "start", "resume_id": resume_id, **event})
        values = flat(params)
        self._put({"kind": "params", "values": values})
        if any(len(value) > min(PARAM_LIMITS) for value in values.values()):
            self.document("params.json", values)
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Numbers measured at `step`; None is left out, NaN and infinity are kept."""
        self._put(metrics_event(step, values))

    def tags(self, values: Mapping[str, str]) -> None:
        self._put({"kind": "tags", "values": {key: str(value) for key, value in values.items()}})

    def artifact(self, path: Path, *, under: str = "") -> None:
        """A file, uploaded into the folder `under` of the run's artifacts; it must stay until `finish`."""
        self._put({"kind": "artifact", "path": str(path.absolute()), "under": under})

    def document(self, name: str, content: Any) -> None:
        """Text, or anything JSON can say, as the artifact `name` (`reports/mask.json`)."""
        if not isinstance(content, str):
            try:
                content = json.dumps(content, indent=2, ensure_ascii=False, default=str)
            except (TypeError, ValueError) as error:
                self._refused.append(f"document {name}: {error}")
                return
        self._put({"kind": "document", "name": name, "content": content})

    def finish(self, status: Status = "FINISHED", *, deadline_s: float = 30.0) -> Unsent:
        """Send what is left within `deadline_s`, and say what MLflow does not have."""
        if self._thread.ident is None:
            return Unsent(None, {}, None, tuple(self._refused), self._lost, None)
        if not self._closing.is_set():
            self._put({"kind": "finish", "status": status, "time": now_ms()})
            self._closing.set()
        self._thread.join(deadline_s)
        with self._handover:
            if self._thread.is_alive():
                self._abandoned = True
                self._reason = self._reason or f"no answer within {deadline_s:g} s"
            with self._lock:
                rest = [*self._pending, *self._later]
                self._pending.clear()
                self._later.clear()
            self._append(rest)
        kept = Counter(event["kind"] for event in self._kept())
        refused = (*self._refused, *self._sender.rejected)
        return Unsent(self.run_id, kept, self._file if kept else None, refused, self._lost, self._reason)

    def _put(self, event: Event) -> None:
        with self._lock:
            if self._closing.is_set() or len(self._pending) >= self._room:
                self._lost += 1
            else:
                self._pending.append(event)

    def _work(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.is_set()  # read first: what was put before `finish` is then in the pass
            self._pass(last=closing)
            self._begun.set()
            if not closing:
                self._closing.wait(self._every_s)

    def _pass(self, *, last: bool) -> None:
        """Send all that waits; where the server is down, move it to the file."""
        if time.monotonic() < self._retry_at and not last:
            self._keep()
            return
        try:
            self._send_kept()
            while batch := self._first(1000):
                self._later += self._sender.send(batch)
                self._drop(len(batch))
            if last and self._later:
                self._later = self._sender.send(self._later)
                self._reason = "; ".join(dict.fromkeys(event["reason"] for event in self._later)) or None
            else:
                self._reason = None
            self._failures = 0
        except Down as down:
            self._reason = str(down)
            self._retry_at = time.monotonic() + min(60.0, 5.0 * 2**self._failures)
            self._failures += 1
            self._keep()

    def _first(self, count: int) -> list[Event]:
        with self._lock:
            return list(itertools.islice(self._pending, count))

    def _drop(self, count: int) -> None:
        """Forget events that arrived, unless `finish` has taken them meanwhile."""
        with self._handover, self._lock:
            if not self._abandoned:
                for _ in range(count):
                    self._pending.popleft()

    def _keep(self) -> None:
        """Move what waits into the file, so that a kill loses nothing that waited long."""
        with self._handover:
            if self._abandoned:
                return
            batch = self._first(self._room)
            self._append(batch)
            with self._lock:
                for _ in batch:
                    self._pending.popleft()

    def _append(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(event) + "\n" for event in events)
        except OSError as error:  # a full disk: the run's own checkpoints will say so too
            self._lost += len(events)
            self._reason = f"{self._reason or 'MLflow is down'}; {self._file} cannot be written ({error.strerror})"

    def _kept(self) -> Iterator[Event]:
        """Events in the file; a line cut short by a kill is skipped."""
        try:
            lines = self._file.read_bytes().split(b"\n")
        except OSError:
            return
        for line in lines:
            with suppress(ValueError):
                yield json.loads(line)

    def _send_kept(self) -> None:
        events = list(self._kept())
        for first in range(0, len(events), 500):
            try:
                self._later += self._sender.send(events[first : first + 500])
            except Down:
                if first:
                    self._replace(events[first:])
                raise
        if events:
            self._replace([])

    def _replace(self, events: list[Event]) -> None:
        with self._handover:
            if self._abandoned:
                return
            if events:
                write_text(self._file, "".join(json.dumps(event) + "\n" for event in events))
            else:
                self._file.unlink(missing_ok=True)

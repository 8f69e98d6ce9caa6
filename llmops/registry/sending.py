"""Turns recorded events of a run into MLflow calls; what the server refuses is tried alone and named.

Sending an event twice changes nothing: metrics carry their time, parameters their value.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from llmops.errors import LlmopsError
from llmops.files import write_json
from llmops.registry.connection import connect, first_line, is_remote, without_credentials

Event = dict[str, Any]
"""`kind` and what belongs to it: start, params, metrics, tags, document, artifact or finish."""

Entity = TypeVar("Entity")

PARAM_LIMITS = (6000, 500, 250)
"""Lengths that servers of different ages accept for a parameter, newest first."""

_AT_ONCE = {"metrics": 500, "params": 50, "tags": 50}
_REFUSALS = {400, 409, 413, 422}


class Down(Exception):
    """Nothing can be sent now; the text says why."""


class Sender:
    """Sends events of one run to the MLflow at `uri`; the run's id is kept in `folder`/mlflow.json.

    Attributes:
        run_id: None until the server has made the run.
        rejected: what the server will never take, each with its reason.
    """

    def __init__(self, uri: str, artifacts_uri: str, folder: Path, *, patience_s: float) -> None:
        self.uri = uri
        self.artifacts_uri = artifacts_uri
        self.id_file = folder / "mlflow.json"
        self.run_id: str | None = None
        self.rejected: list[str] = []
        self._patience_s = patience_s
        self._client: Any = None

    def send(self, events: Sequence[Event]) -> list[Event]:
        """Send in order; returns artifacts whose store failed, to be tried later.

        Raises:
            Down: the server takes nothing now. Some events may have arrived; sending all again is safe.
        """
        try:
            if self._client is None:
                self._client = connect(self.uri, patience_s=self._patience_s)
            return self._send(events)
        except LlmopsError as error:
            raise Down(error.problem) from error
        except Exception as error:  # whatever a driver or server comes up with must not end the thread
            raise Down(first_line(error)) from error

    def _send(self, events: Sequence[Event]) -> list[Event]:
        later: list[Event] = []
        metrics: list[Any] = []
        for event in events:
            if event["kind"] == "metrics":
                metrics += self._metrics(event)
                continue
            self._log("metrics", metrics)
            metrics = []
            match event["kind"]:
                case "start":
                    self._start(event)
                case "params":
                    self._params(event["values"])
                case "tags":
                    self._tags(event["values"])
                case "document" | "artifact":
                    if not self._artifact(event):
                        later.append(event)
                case "finish":
                    self._client.set_terminated(self._run(), status=event["status"], end_time=event["time"])
        self._log("metrics", metrics)
        return later

    def _run(self) -> str:
        if self.run_id is None:
            raise Down("the run could not be made on the server")
        return self.run_id

    def _start(self, event: Event) -> None:
        """Go on with the run of this folder, or make one where there is none (any more)."""
        known = event.get("resume_id") or self.run_id or self._recorded_id()
        if known is not None and self._goes_on(known):
            self.run_id = known
        else:
            run = self._client.create_run(
                self._experiment(event["experiment"]),
                start_time=event["time"],
                run_name=event["run_name"],
            )
            self.run_id = run.info.run_id
        # Written at once: a kill after this line resumes under the same id.
        write_json(self.id_file, {"run_id": self.run_id, "store": without_credentials(self.uri)})
        self._tags(event["tags"])

    def _recorded_id(self) -> str | None:
        try:
            recorded = json.loads(self.id_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same_store = recorded.get("store") == without_credentials(self.uri)
        return recorded.get("run_id") if same_store else None

    def _goes_on(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.get_http_status_code() in {400, 404}:
                return False
            raise
        if run.info.lifecycle_stage != "active":
            return False
        self._client.update_run(run_id, status="RUNNING")
        return True

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = None if is_remote(self.uri) else f"{self.artifacts_uri}/{quote(name, safe='')}"
            try:
                return self._client.create_experiment(name, artifact_location=location)
            except MlflowException:
                found = self._client.get_experiment_by_name(name)  # another run was quicker
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _metrics(self, event: Event) -> Iterable[Any]:
        from mlflow.entities import Metric

        for key, text in event["values"].items():
            try:
                value = float(text)
            except ValueError:
                self.rejected.append(f"metric {key} at step {event['step']}: {text!r} is no number")
                continue
            yield Metric(_key(key), value, event["time"], event["step"])

    def _params(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        limit, *shorter = PARAM_LIMITS

        def shortened(param: Any) -> Iterable[Any]:
            for length in shorter:
                if len(param.value) > length:
                    yield Param(param.key, _cut(param.value, length))

        self._log("params", [Param(_key(key), _cut(value, limit)) for key, value in values.items()], shortened)

    def _tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._log("tags", [RunTag(_key(key), _cut(value, 5000)) for key, value in values.items()])

    def _log(
        self,
        kind: str,
        entities: Sequence[Entity],
        instead: Callable[[Entity], Iterable[Entity]] = lambda entity: (),
    ) -> None:
        """One request for many; on a refusal halves, down to the single value that is refused.

        Args:
            instead: other forms of a refused value, tried in order.
        """
        from mlflow.exceptions import MlflowException

        size = _AT_ONCE[kind]
        if len(entities) > size:
            for first in range(0, len(entities), size):
                self._log(kind, entities[first : first + size], instead)
            return
        if not entities:
            return
        try:
            self._client.log_batch(self._run(), **{kind: entities}, synchronous=True)
        except MlflowException as error:
            if error.get_http_status_code() not in _REFUSALS:
                raise
            if len(entities) > 1:
                middle = len(entities) // 2
                self._log(kind, entities[:middle], instead)
                self._log(kind, entities[middle:], instead)
                return
            for other in instead(entities[0]):
                try:
                    self._client.log_batch(self._run(), **{kind: [other]}, synchronous=True)
                    return
                except MlflowException as again:
                    if again.get_http_status_code() not in _REFUSALS:
                        raise
            key = getattr(entities[0], "key", "")
            self.rejected.append(f"{kind.removesuffix('s')} {key}: {first_line(error)}")

    def _artifact(self, event: Event) -> bool:
        """Whether it arrived, or never will. A broken artifact store must not hold up the metrics."""
        try:
            if event["kind"] == "document":
                self._client.log_text(self._run(), event["content"], event["name"])
                return True
            path = Path(event["path"])
            if not path.is_file():
                self.rejected.append(f"artifact {path}: the file is not there any more")
                return True
            self._client.log_artifact(self._run(), str(path), event["under"] or None)
        except Down:
            raise
        except Exception as error:  # S3, GCS, disks: each store has errors of its own
            event["reason"] = first_line(error)
            return False
        return True


def metrics_event(step: int, values: Mapping[str, Any]) -> Event:
    """What was measured at `step`; numbers as text, which keeps every digit, NaN and infinity in JSON."""
    return {
        "kind": "metrics",
        "time": now_ms(),
        "step": int(step),
        "values": {key: _number(value) for key, value in values.items() if value is not None},
    }


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as `a.b.0.c` → text; lists of plain values stay one JSON value."""
    out: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out |= flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            out |= flat({str(index): item for index, item in enumerate(value)}, f"{name}.")
        elif isinstance(value, str):
            out[name] = without_credentials(value)
        else:
            out[name] = without_credentials(json.dumps(value, ensure_ascii=False, default=str))
    return out


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _number(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return repr(float(value)) if isinstance(value, int | float) else str(value)


def _cut(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[: limit - 1] + "…"


def _key(key: str) -> str:
    """MLflow allows letters, digits and `_-. /:` in names, at most 250 of them."""
    return re.sub(r"[^\w\-. /:]", "_", key)[:250]

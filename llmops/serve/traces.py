"""Spans of requests for an OpenTelemetry collector, by the conventions for generative AI; made and sent by threads.

One span for each request, of the kind SERVER: it is a call that came over HTTP as much as one of a model.
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread
from typing import TYPE_CHECKING, Any

from llmops.errors import EnvironmentFault
from llmops.serve.entry import Entry
from llmops.serve.following import Following

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""`gen_ai.operation.name` by endpoint."""
_NS = 1_000_000_000
_EXPORT_S = 5.0
_END_S = 2.0


class Traces:
    """Sends a share of requests; a collector that is down costs their spans and nothing else."""

    def __init__(self, collector: str, share: float) -> None:
        """Send to `collector`, an address of OTLP over HTTP without `/v1/traces`.

        Args:
            share: of requests (0 to 1) that begin a trace; one that is part of its caller's is sent as that is.

        Raises:
            EnvironmentFault: the packages are missing.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise EnvironmentFault(
                f"`telemetry.traces` needs a package that is not installed ({error.name})",
                fix="run `pip install 'llmops[gateway]'`",
            ) from error
        resource = Resource.create({"service.name": "llmops-gateway"})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=resource, shutdown_on_exit=False
        )
        self._exporter = OTLPSpanExporter(collector.rstrip("/") + "/v1/traces", timeout=_EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("llmops.serve")
        self._following = Following(self._spans, name="traces")

    def record(self, entry: Entry) -> None:
        """Leave a finished request to be sent."""
        self._following.put(entry.id, entry)

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        self._following.close()
        # It would wait for half a minute for a collector that is down.
        ending = Thread(target=self._provider.shutdown, name="end of traces", daemon=True)
        ending.start()
        ending.join(_END_S)
        if ending.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
            ending.join(_END_S)

    def _spans(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            _span(self._tracer, one)


def _span(tracer: Tracer, entry: Entry) -> None:
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({"traceparent": entry.trace} if entry.trace else {})
    operation = OPERATIONS.get(entry.endpoint)
    began = int(entry.at * _NS)
    span = tracer.start_span(
        f"{operation or 'POST'} {entry.route or entry.endpoint}",
        context=parent,
        kind=SpanKind.SERVER,
        attributes=attributes(entry),
        start_time=began,
    )
    if entry.status >= 500:
        # Of the server's own span only its own faults are errors, by the conventions for HTTP.
        span.set_status(Status(StatusCode.ERROR, entry.error))
    if entry.first_token is not None:
        span.add_event("first token", timestamp=began + int(entry.first_token * _NS))
    span.end(end_time=began + int((entry.total or 0.0) * _NS))


def attributes(entry: Entry) -> dict[str, Any]:
    """A request by the conventions' names, and by ours where they have none; what is not known is left out."""
    told: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS.get(entry.endpoint),
        "gen_ai.provider.name": "llmops",
        "gen_ai.request.model": entry.route,
        "gen_ai.request.stream": entry.stream,
        "gen_ai.response.model": entry.version,
        "gen_ai.response.time_to_first_chunk": entry.first_token if entry.stream else None,
        "gen_ai.usage.input_tokens": entry.prompt_tokens,
        "gen_ai.usage.output_tokens": entry.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": entry.cached_tokens,
        "gen_ai.conversation.id": entry.session,
        "error.type": (entry.error or str(entry.status)) if entry.status >= 400 else None,
        "http.request.method": "POST",
        "http.response.status_code": entry.status,
        "url.path": entry.endpoint,
        "llmops.request_id": entry.id,
        "llmops.key": entry.key,
        "llmops.engine": entry.engine,
        "llmops.reason": entry.reason,
        "llmops.retries": entry.retries,
        "llmops.fallback": entry.fallback,
        "llmops.from_cache": entry.from_cache,
        "llmops.cost_usd": entry.usd,
    }
    return {name: value for name, value in told.items() if value is not None}

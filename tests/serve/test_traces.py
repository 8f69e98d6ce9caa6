"""A collector gets one span per request by the conventions for generative AI; one that is down costs nothing else."""

from __future__ import annotations

import gzip
import logging
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from llmops.serve.traces import Traces, attributes
from tests.local_server import free_port
from tests.patience import once_in_three, wait_until
from tests.serve.entries import an_entry


class Collector(socketserver.ThreadingTCPServer):
    """OTLP over HTTP as a collector takes it."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.paths: set[str] = set()
        super().__init__(("127.0.0.1", 0), Receiving)


class Receiving(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        sent = ExportTraceServiceRequest.FromString(body)
        self.server.paths.add(self.path)
        for resource in sent.resource_spans:
            self.server.services |= {
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            }
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def told(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def address(collector: Collector) -> str:
    return f"http://127.0.0.1:{collector.server_address[1]}"


def test_a_request_is_one_span_with_its_times_its_parent_and_the_conventions_names(collector: Collector) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    traces = Traces(address(collector), 1.0)
    entry = an_entry(at=1e9, first_token=0.25, total=1.5, stream=True, session="s", trace=f"00-{trace}-{parent}-01")
    traces.record(entry)
    traces.close()
    (span,) = collector.spans
    assert (collector.paths, collector.services) == ({"/v1/traces"}, {"llmops-gateway"})
    assert (span.name, span.kind) == ("chat auto", 2), "SPAN_KIND_SERVER"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (10**18, 10**18 + 1_500_000_000)
    assert [(one.name, one.time_unix_nano) for one in span.events] == [("first token", 10**18 + 250_000_000)]
    attributes = told(span)
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "auto"
    assert attributes["gen_ai.response.model"] == "models:/m/3"
    assert attributes["gen_ai.usage.input_tokens"] == 12
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 4
    assert attributes["gen_ai.conversation.id"] == "s"
    assert attributes["llmops.request_id"] == entry.id
    assert span.status.code == 0


def test_our_names_of_the_conventions_are_theirs() -> None:
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    ours = {name for name in attributes(an_entry(stream=True, session="s")) if name.startswith("gen_ai.")}
    assert len(ours) == 10
    assert ours <= known
    operations = {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
    assert attributes(an_entry(endpoint="/v1/completions"))["gen_ai.operation.name"] in operations
    assert attributes(an_entry(endpoint="/v1/embeddings"))["gen_ai.operation.name"] in operations


def test_the_servers_own_failure_is_an_error_and_the_clients_is_not(collector: Collector) -> None:
    traces = Traces(address(collector), 1.0)
    traces.record(an_entry(status=502, error="stream_cut", trace="nonsense"))
    traces.record(an_entry(status=429, error="rate_limit_exceeded"))
    traces.close()
    by_status = {told(span)["http.response.status_code"]: span for span in collector.spans}
    assert (by_status[502].status.code, told(by_status[502])["error.type"]) == (2, "stream_cut")
    assert (by_status[429].status.code, told(by_status[429])["error.type"]) == (0, "rate_limit_exceeded")
    assert by_status[502].parent_span_id == b""


def test_of_a_share_about_so_many_are_sent_and_all_that_callers_trace(collector: Collector) -> None:
    traces = Traces(address(collector), 0.25)
    for _ in range(800):
        traces.record(an_entry(route="alone"))
    for number in range(50):
        traces.record(an_entry(route="traced", trace=f"00-{number + 1:032x}-{1:016x}-01"))
        traces.record(an_entry(route="untraced", trace=f"00-{number + 1:032x}-{1:016x}-00"))
    traces.close()
    names = [span.name for span in collector.spans]
    assert names.count("chat traced") == 50
    assert names.count("chat untraced") == 0
    assert 130 < names.count("chat alone") < 270, "200 expected, with a standard deviation of 12"


@once_in_three
def test_a_collector_that_is_down_slows_nobody_and_ends_in_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # the exporter says in the log that it cannot send
    traces = Traces(f"http://127.0.0.1:{free_port()}", 1.0)
    best = 1.0
    for _ in range(10):  # the best of ten, since others use this machine
        some = [an_entry() for _ in range(60)]
        begun = time.perf_counter()
        for one in some:
            traces.record(one)
        best = min(best, (time.perf_counter() - begun) / len(some))
    assert best < 100e-6
    wait_until(lambda: len(traces._following._waiting) == 0)
    begun = time.monotonic()
    traces.close()
    assert time.monotonic() - begun < 7

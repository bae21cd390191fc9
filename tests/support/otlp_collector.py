"""A strict stand-in for an OpenTelemetry collector: OTLP over HTTP on loopback, whose requests are parsed and checked.

Source of the rules: https://opentelemetry.io/docs/specs/otlp/#otlphttp and the proto files of OTLP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

KINDS = {
    SpanMessage.SpanKind.Value(f"SPAN_KIND_{name}"): name for name in ("INTERNAL", "CLIENT", "PRODUCER", "CONSUMER")
}
PROTOBUF = "application/x-protobuf"
FIRST_NS = 1_577_836_800 * 10**9  # 2020: an earlier time is one in another unit


@dataclass(frozen=True)
class ReceivedSpan:
    """One span; ids are hex, times Unix ns. `links` are pairs of trace and span id."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]
    is_error: bool
    resource: Mapping[str, Any] = field(repr=False)

    @property
    def context(self) -> tuple[str, str]:
        return self.trace_id, self.span_id


class OtlpCollector:
    """Accepts spans, or fails in one of the ways of `mode`; every request that is not valid OTLP is in `faults`."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.headers: list[Mapping[str, str]] = []
        self.faults: list[str] = []
        self.requests = 0
        self.mode = "accept"  # or "refuse" (401), "unavailable" (503), "hang"; "discard" does not look at what comes
        self._ids: set[str] = set()
        self._released = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        await self._runner.cleanup()
        if error is None:
            assert self.faults == []

    def named(self, beginning: str) -> list[ReceivedSpan]:
        """The spans whose name begins like this."""
        return [span for span in self.spans if span.name.startswith(beginning)]

    async def _handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        self.headers.append(request.headers)
        if self.mode == "hang":
            await self._released.wait()
        if self.mode in ("refuse", "unavailable"):
            return web.Response(status=401 if self.mode == "refuse" else 503)
        body = await request.read()  # aiohttp has decompressed it
        if self.mode == "discard":
            return web.Response(content_type=PROTOBUF)
        self.faults += list(_request_faults(request))
        message = ExportTraceServiceRequest.FromString(body)
        for resource in message.resource_spans:
            described = _attributes(resource.resource.attributes)
            if not described.get("service.name"):
                self.faults.append("the resource has no service.name")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._add(span, described)
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type=PROTOBUF)

    def _add(self, span: SpanMessage, resource: Mapping[str, Any]) -> None:
        self.faults += [f"{span.name}: {fault}" for fault in _span_faults(span, self._ids)]
        self._ids.add(span.span_id.hex())
        self.spans.append(
            ReceivedSpan(
                name=span.name,
                kind=KINDS.get(span.kind, str(span.kind)),
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                attributes=_attributes(span.attributes),
                links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                is_error=span.status.code == Status.STATUS_CODE_ERROR,
                resource=resource,
            )
        )


def _request_faults(request: web.Request) -> Iterator[str]:
    if (request.method, request.path) != ("POST", "/v1/traces"):
        yield f"{request.method} {request.path} instead of POST /v1/traces"
    if request.content_type != PROTOBUF:
        yield f"content type {request.content_type}"


def _span_faults(span: SpanMessage, known: set[str]) -> Iterator[str]:
    """Each rule that the span breaks."""
    keys = [attribute.key for attribute in span.attributes]
    rules = {
        "an invalid trace id": len(span.trace_id) == 16 and any(span.trace_id),
        "an invalid span id": len(span.span_id) == 8 and any(span.span_id),
        "a span id that another span has": span.span_id.hex() not in known,
        "an invalid parent": len(span.parent_span_id) in (0, 8) and span.parent_span_id != span.span_id,
        "no name": bool(span.name),
        f"the kind {span.kind}": span.kind in KINDS,
        "wrong times": FIRST_NS < span.start_time_unix_nano <= span.end_time_unix_nano,
        "an attribute that is there twice or has no name": len(keys) == len(set(keys)) and all(keys),
        "attributes or links were dropped": not span.dropped_attributes_count and not span.dropped_links_count,
        "an invalid link": all(len(link.trace_id) == 16 and len(link.span_id) == 8 for link in span.links),
    }
    yield from (fault for fault, holds in rules.items() if not holds)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    value: AnyValue = pair.value
    name = value.WhichOneof("value")
    assert name in {"string_value", "bool_value", "int_value", "double_value"}, f"{pair.key}: {name}"
    return getattr(value, name)

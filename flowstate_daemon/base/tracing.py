"""OpenTelemetry traces: where the time of an email goes, from the program that enqueues it to the settled job.

Needs the extra `otel`. It is imported only when `tracing.enabled` is set (`daemon/builders.py: build_tracing`); other
modules name its classes in annotations. Names and attributes follow the semantic conventions for messaging
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/). No attribute contains an address, a code, a
key or the text of an email. The SDK itself reads the standard variables OTEL_*.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

import msgspec
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers
from opentelemetry.util.types import AttributeValue

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.redaction import redact_text

log = structlog.get_logger()

SERVICE_NAME = "flowstate-daemon"
SYSTEM = "bull"  # no value of the conventions fits; they allow others
OTHER_KIND = "other"
NS_PER_S, NS_PER_MS = 10**9, 10**6
MAX_TRACEPARENT_BYTES = 128  # 55 in version 00; later versions may be longer
# What a span may contain: an id that a producer chose may contain anything, such as an address.
SAFE_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
FLUSH_TIMEOUT_S = 1.0  # at the end, for a collector that is slow or away
MAX_REASON_LENGTH = 200
MAX_INTEGER = 2**63 - 1  # of an attribute in OTLP: the exporter leaves out one that is larger
ERRORS = frozenset({"failed", "retried", "abandoned"})
REMEDY = "check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_HEADERS; emails are not affected"

_PROPAGATOR = TraceContextTextMapPropagator()


class _JobData(msgspec.Struct):
    """The member of a job's data that carries the trace, still encoded."""

    traceparent: msgspec.Raw = msgspec.Raw()


_JOB_DATA = msgspec.json.Decoder(_JobData)
_TEXT = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What spans say about this daemon. `provider_url` is None when emails are not sent over HTTP.

    `headers` are those of requests to the collector, `name=value,…`; without them the SDK uses its own variables.
    """

    queue: str
    version: str
    instance: str
    kinds: frozenset[str] = frozenset()
    provider_url: str | None = None
    headers: str = ""


class Tracing:
    """The traces of one process. A background thread exports them; an exporter that fails delays nothing."""

    def __init__(self, options: TraceOptions, metrics: Metrics, clock: Clock) -> None:
        own = {
            "service.name": SERVICE_NAME,
            "service.version": options.version,
            "service.instance.id": options.instance,
        }
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer(SERVICE_NAME, options.version)
        self._processor: BatchSpanProcessor | None = None
        self._options = options
        self._kinds = options.kinds
        self._metrics = metrics
        self.clock = clock
        self._attributes = {"messaging.system": SYSTEM, "messaging.destination.name": options.queue}
        self._origin, self._provider_attributes = _describe_url(options.provider_url)

    def open(self) -> None:
        """Start to export."""
        headers = parse_env_headers(self._options.headers, liberal=True) or None
        exporter = ReportingExporter(OTLPSpanExporter(headers=headers), self._metrics)
        self._processor = CountingProcessor(exporter, self._metrics)
        self._provider.add_span_processor(self._processor)

    async def close(self) -> None:
        """Export what is left, for FLUSH_TIMEOUT_S at most."""
        if self._processor is None:
            return
        loop, ended, processor = asyncio.get_running_loop(), asyncio.Event(), self._processor

        def shut_down() -> None:
            processor.shutdown()  # type: ignore[no-untyped-call]  # of the SDK
            with suppress(RuntimeError):  # the loop has been closed since
                loop.call_soon_threadsafe(ended.set)

        # Not `to_thread`: the end of the event loop would wait for that thread, and so for the collector.
        threading.Thread(target=shut_down, name="trace-flush", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await ended.wait()
        except TimeoutError:
            log.warning("traces_not_exported", reason="the collector does not respond", remedy=REMEDY)

    def set_kinds(self, kinds: Iterable[str]) -> None:
        """The kinds of a new configuration: emails of others are `other` from now on."""
        self._kinds = frozenset(kinds)

    def start_email(self, job_id: str, name: str, data: bytes, *, created_ms: int, attempt: int) -> EmailTrace | None:
        """The trace of one attempt, which has just been claimed; None when it is not sampled.

        It continues the trace of the producer if the job's data has a valid `traceparent`. `created_ms` is Unix ms, 0
        if unknown.
        """
        now_s, now_ms = self.clock.monotonic(), self.clock.now_ms()
        parent = read_traceparent(data)
        attributes: dict[str, AttributeValue] = {
            **self._attributes,
            **self._message_attributes(job_id, name),
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.client.id": self._options.instance,
            "flowstate.attempt": min(attempt, MAX_INTEGER),
        }
        span = self._tracer.start_span(
            f"process {self._options.queue}",
            parent or Context(),
            SpanKind.CONSUMER,
            attributes,
            start_time=now_ms * NS_PER_MS,
        )
        if not span.is_recording():
            return None
        trace = EmailTrace(self, span, now_ms * NS_PER_MS - round(now_s * NS_PER_S))
        if attempt == 1 and 0 < created_ms <= now_ms:
            own = parent or set_span_in_context(span, Context())
            waited = self._tracer.start_span("wait", own, start_time=created_ms * NS_PER_MS)
            waited.end(now_ms * NS_PER_MS)
        return trace

    def _message_attributes(self, job_id: str | None, kind: str) -> dict[str, str]:
        """The id and the kind of an email, if they are safe to show."""
        known = {"flowstate.kind": kind if kind in self._kinds else OTHER_KIND}
        if job_id is not None and SAFE_ID.fullmatch(job_id):
            known["messaging.message.id"] = job_id
        return known

    def start_request(self, path: str, mails: int, traces: Sequence[EmailTrace]) -> RequestTrace:
        """The span of one request, which is about to start.

        With one email it belongs to that email's trace. A batch has a trace of its own, with a link to each email.
        """
        links = [Link(trace.span_context) for trace in traces] if mails > 1 else []
        kind = SpanKind.INTERNAL if self._options.provider_url is None else SpanKind.CLIENT
        attributes = {**self._provider_attributes, "messaging.batch.message_count": mails}
        name = "outbox"
        if self._options.provider_url is not None:
            name = f"POST {path}"
            attributes |= {"http.request.method": "POST", "url.full": f"{self._origin}{path}"}
        parent = Context() if mails > 1 or not traces else traces[0].context
        start = self.clock.now_ms() * NS_PER_MS
        span = self._tracer.start_span(name, parent, kind, attributes, links, start_time=start)
        for trace in traces:
            trace.request = span if mails > 1 else None
        return RequestTrace(self, span, start, self.clock.monotonic())

    @contextmanager
    def enqueueing(self, kinds: Sequence[str], parents: Sequence[str | None]) -> Iterator[list[EnqueueTrace]]:
        """The spans of emails that are added to the queue together, one for each, in the trace of its parent."""
        attributes = {**self._attributes, "messaging.operation.name": "add", "messaging.operation.type": "send"}
        start = self.clock.now_ms() * NS_PER_MS
        traces = [
            EnqueueTrace(
                self._tracer.start_span(
                    f"send {self._options.queue}",
                    parse_traceparent(parent) or Context(),
                    SpanKind.PRODUCER,
                    {**attributes, **self._message_attributes(None, kind)},
                    start_time=start,
                )
            )
            for kind, parent in zip(kinds, parents, strict=True)
        ]
        error: BaseException | None = None
        try:
            yield traces
        except BaseException as raised:
            error = raised
            raise
        finally:
            end = self.clock.now_ms() * NS_PER_MS
            for trace in traces:
                trace.end(error, end)

    def step(self, name: str, parent: Context, start: int, end: int, link: Span | None = None) -> None:
        """A finished part of an email's processing; times are Unix ns."""
        links = () if link is None else (Link(link.get_span_context()),)
        self._tracer.start_span(name, parent, links=links, start_time=start).end(max(start, end))


class EmailTrace:
    """The span of one attempt of an email, from its claim until it is settled, and the steps within."""

    __slots__ = ("_error", "_offset_ns", "_settling_ns", "_span", "_tracing", "context", "request")

    def __init__(self, tracing: Tracing, span: Span, offset_ns: int) -> None:
        self._tracing = tracing
        self._span = span
        self._offset_ns = offset_ns  # from monotonic to Unix time
        self._settling_ns: int | None = None
        self._error: str | None = None
        self.context = set_span_in_context(span, Context())
        self.request: Span | None = None  # of a batch

    @property
    def span_context(self) -> SpanContext:
        return self._span.get_span_context()

    def _unix_ns(self, monotonic_s: float) -> int:
        return self._offset_ns + round(monotonic_s * NS_PER_S)

    def step(self, name: str, start_s: float, end_s: float | None = None) -> None:
        """A step from one monotonic time to another, by default to now."""
        end_s = self._tracing.clock.monotonic() if end_s is None else end_s
        self._tracing.step(name, self.context, self._unix_ns(start_s), self._unix_ns(end_s))

    def timed(self, name: str, work: Callable[[], object]) -> None:
        """Do the work as a step. Raises what it raises."""
        started = self._tracing.clock.monotonic()
        try:
            work()
        finally:
            self.step(name, started)

    def sent(self, queued_s: float, sent_s: float | None) -> None:
        """The email waited for a request from `queued_s`, and if `sent_s` is not None, a request contained it."""
        self.step("dispatch", queued_s, sent_s)
        if sent_s is not None and self.request is not None:
            end = self._unix_ns(self._tracing.clock.monotonic())
            self._tracing.step("request", self.context, self._unix_ns(sent_s), end, self.request)

    def failed(self, error: BaseException) -> None:
        """The attempt ended with this error, whatever it will mean for the job. Its text may contain anything."""
        self._error = type(error).__name__

    def settling(self) -> None:
        """The result is known and waits to be written."""
        self._settling_ns = self._unix_ns(self._tracing.clock.monotonic())

    def end(self, outcome: str) -> None:
        """The result is written, or will not be."""
        end = self._unix_ns(self._tracing.clock.monotonic())
        if self._settling_ns is not None:
            self._tracing.step("settle", self.context, self._settling_ns, end)
        self._span.set_attribute("flowstate.outcome", outcome)
        if outcome in ERRORS:
            self._span.set_attribute("error.type", self._error or outcome)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(end)


class RequestTrace:
    """The span of one request to the provider."""

    __slots__ = ("_span", "_start_ns", "_started_s", "_tracing")

    def __init__(self, tracing: Tracing, span: Span, start_ns: int, started_s: float) -> None:
        self._tracing = tracing
        self._span = span
        self._start_ns = start_ns
        self._started_s = started_s

    def end(self, result: str | None) -> None:
        """`result` is the class of the response, as in the metrics; None without a response."""
        if result is not None:
            self._span.set_attribute("flowstate.result", result)
        if result not in ("accepted", "already_accepted", None):
            self._span.set_attribute("error.type", result or "")
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._start_ns + round((self._tracing.clock.monotonic() - self._started_s) * NS_PER_S))


class EnqueueTrace:
    """The span of one email that is added to the queue, and what its job must contain."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, set_span_in_context(span, Context()))
        self.traceparent = headers.get("traceparent")

    def added(self, job_id: str, outcome: str) -> None:
        """The job is in the queue, or was not needed."""
        if SAFE_ID.fullmatch(job_id):
            self._span.set_attribute("messaging.message.id", job_id)
        self._span.set_attribute("flowstate.outcome", outcome)

    def end(self, error: BaseException | None, end_ns: int) -> None:
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(end_ns)


class CountingProcessor(BatchSpanProcessor):
    """The SDK's processor, which drops spans when its queue is full (OTEL_BSP_…). Counts what it gets."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics) -> None:
        super().__init__(exporter)
        self._flowstate_metrics = metrics

    def on_end(self, span: ReadableSpan) -> None:
        self._flowstate_metrics.spans_finished()
        super().on_end(span)


class ReportingExporter(SpanExporter):
    """Counts what the collector accepts. Logs once when it begins to fail, and when it works again."""

    SILENCED: ClassVar[Sequence[str]] = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal", "urllib3")

    def __init__(self, exporter: SpanExporter, metrics: Metrics) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self._failing = False
        self._message = LastMessage()
        for name in self.SILENCED:
            logger = logging.getLogger(name)
            logger.propagate = False  # one line for each try would fill the log
            logger.addHandler(self._message)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not affect emails
            self._message.text = type(error).__name__
            result = SpanExportResult.FAILURE
        accepted = result is SpanExportResult.SUCCESS
        self._metrics.spans_exported(len(spans), accepted=accepted)
        if not accepted and not self._failing:
            log.warning("traces_not_exported", reason=self._message.text, remedy=REMEDY)
        elif accepted and self._failing:
            log.info("traces_exported_again")
        self._failing = not accepted
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class LastMessage(logging.Handler):
    """Keeps the last message of the exporter, as it may be logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "the collector did not accept them"

    def emit(self, record: logging.LogRecord) -> None:
        self.text = redact_text(record.getMessage())[:MAX_REASON_LENGTH]


def read_traceparent(data: bytes) -> Context | None:
    """The context of the producer in a job's data, JSON; None if there is none or it is not valid. Never raises."""
    try:
        raw = bytes(_JOB_DATA.decode(data).traceparent)
        return parse_traceparent(_TEXT.decode(raw)) if 0 < len(raw) <= MAX_TRACEPARENT_BYTES else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def parse_traceparent(text: str | None) -> Context | None:
    """The context that a `traceparent` names (https://www.w3.org/TR/trace-context/); None if it is not valid.

    `tracestate` is not read: spans would repeat whatever a producer has put there.
    """
    if text is None or len(text) > MAX_TRACEPARENT_BYTES:
        return None
    context = _PROPAGATOR.extract({"traceparent": text}, Context())
    return context or None


def _describe_url(url: str | None) -> tuple[str, Mapping[str, str | int]]:
    """A URL without its login, and its attributes."""
    if url is None:
        return "", {}
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    port = {"server.port": parts.port} if parts.port else {}
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}", {"server.address": parts.hostname or "", **port}

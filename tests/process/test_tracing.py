"""OpenTelemetry traces of the whole process: from `enqueue` to the settled job, and a collector that fails."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import REMOVE, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend, error
from tests.support.kind_folders import BADGE, write_kind
from tests.support.otlp_collector import OtlpCollector, ReceivedSpan
from tests.support.waiting import eventually

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
CODE = "482913"
Traced = Callable[..., Daemon]


@pytest.fixture
async def collector() -> AsyncIterator[OtlpCollector]:
    async with OtlpCollector() as collector:
        yield collector


@pytest.fixture
def traced(make_daemon: MakeDaemon, collector: OtlpCollector) -> Traced:
    """Creates daemons that export their traces soon."""

    def make(**settings: str) -> Daemon:
        return make_daemon(**(tracing_environment(collector.url) | settings))

    return make


def tracing_environment(url: str) -> dict[str, str]:
    return {
        "FLOWSTATE_TRACING_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
    }


def queue_of(connection: Connection, keys: Keys) -> BullQueue:
    return BullQueue(connection, keys, Clock(), token="test")


def welcome(number: int, **data: object) -> NewJob:
    content = {"type": "welcome", "to": f"person-{number}@example.org", "context": {"name": "Ada"}, **data}
    return NewJob("welcome", content, priority=5, attempts=2, remove_on_complete=REMOVE)


async def settled(collector: OtlpCollector, count: int) -> list[ReceivedSpan]:
    await eventually(lambda: len(collector.named("process ")) >= count, f"{count} traces", within_s=30)
    return collector.named("process ")


async def test_trace_leads_from_the_producer_to_the_provider(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys, provider: FakeResend
) -> None:
    """One trace has the producer's span as root, and all steps in their order; names and attributes are standard."""
    resource = "deployment.environment.name=test"
    async with traced(OTEL_SERVICE_NAME="mailer", OTEL_RESOURCE_ATTRIBUTES=resource) as daemon:
        await daemon.ready()
        await queue_of(connection, keys).add(welcome(1, traceparent=PARENT))
        (process,) = await settled(collector, 1)
        spans = {span.name: span for span in collector.spans}
        assert {span.trace_id for span in collector.spans} == {TRACE}
        assert set(spans) == {process.name, "wait", "render", "dispatch", "POST /emails", "settle"}
        assert process.name == f"process {keys.prefix}:email"
        assert (process.kind, process.parent_id, spans["wait"].parent_id) == ("CONSUMER", SPAN, SPAN)
        for name in ("render", "dispatch", "POST /emails", "settle"):
            assert spans[name].parent_id == process.span_id
            assert process.start <= spans[name].start <= spans[name].end
        assert spans["POST /emails"].kind == "CLIENT"
        order = ["wait", "render", "dispatch", "settle"]
        assert sorted(order, key=lambda name: spans[name].start) == order
        assert spans["wait"].end == process.start
        assert process.attributes == {
            "messaging.system": "bull",
            "messaging.destination.name": f"{keys.prefix}:email",
            "messaging.message.id": "1",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.client.id": "test",
            "flowstate.attempt": 1,
            "flowstate.kind": "welcome",
            "flowstate.outcome": "sent",
        }
        request = spans["POST /emails"].attributes
        assert request["url.full"] == f"{provider.url}/emails"
        assert request["flowstate.result"] == "accepted"
        assert request["messaging.batch.message_count"] == 1
        assert process.resource["service.name"] == "mailer"
        assert process.resource["service.instance.id"] == "test"
        assert process.resource["deployment.environment.name"] == "test"


async def test_batch_has_a_trace_of_its_own_with_links(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys
) -> None:
    """The request links to each of its emails, and the part `request` of each email links to it."""
    async with traced() as daemon:
        await queue_of(connection, keys).add_many([welcome(number) for number in range(5)])
        await daemon.ready()
        processes = await settled(collector, 5)
        (request,) = collector.named("POST ")
        assert (request.name, request.parent_id) == ("POST /emails/batch", "")
        assert set(request.links) == {process.context for process in processes}
        assert len({process.trace_id for process in processes} | {request.trace_id}) == 6
        parts = collector.named("request")
        assert {part.parent_id for part in parts} == {process.span_id for process in processes}
        assert {part.links for part in parts} == {(request.context,)}


async def test_retries_and_failures_are_errors_without_texts(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys, provider: FakeResend
) -> None:
    """Each attempt has a span with the class of the error; what the provider says is not repeated."""
    provider.script(error(500, "internal_server_error", "person-1@example.org has a problem"), times=None)
    async with traced() as daemon:
        await daemon.ready()
        await queue_of(connection, keys).add(welcome(1, traceparent=PARENT))
        first, second = sorted(await settled(collector, 2), key=lambda span: span.start)
        assert [span.attributes["flowstate.outcome"] for span in (first, second)] == ["retried", "failed"]
        assert [span.attributes["flowstate.attempt"] for span in (first, second)] == [1, 2]
        assert first.is_error
        assert second.is_error
        assert first.attributes["error.type"] == "RetryableError"
        assert len(collector.named("wait")) == 1
        assert all(span.is_error for span in collector.named("POST "))
        assert_no_personal_data(collector)


HOSTILE = [
    "",
    5,
    None,
    {"nested": ["x" * 1000]},
    "x" * 50_000,
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-zz",
    f"{PARENT}\r\nauthorization: Bearer x",
    f"\uff10\uff10-{TRACE}-{SPAN}-01",
    [PARENT],
]


async def test_hostile_values_break_no_job(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys, provider: FakeResend, redis: Redis
) -> None:
    """Each email is sent, in a trace of its own; ids and names of jobs that contain addresses are not repeated.

    A number of attempts that is larger than an attribute can be is cut.
    """
    bull = queue_of(connection, keys)
    worn = await bull.add(welcome(95))
    await redis.hset(keys.job(worn.id), "attemptsMade", "9" * 30)
    async with traced() as daemon:
        await daemon.ready()
        await bull.add_many([welcome(number, traceparent=value) for number, value in enumerate(HOSTILE)])
        lone = await bull.add(welcome(98))
        await redis.hset(
            keys.job(lone.id),
            "data",
            '{"traceparent": "\\ud800", "to": "person-98@example.org", "context": {"name": "\\ud83d"}}',
        )
        job_id = "reset:person-97@example.org"
        await bull.add(
            NewJob("welcome", {"to": "person-97@example.org", "context": {}}, job_id=job_id, remove_on_complete=REMOVE)
        )
        await bull.add(NewJob("person-96@example.org", {"to": "person-96@example.org", "context": {"otpCode": CODE}}))
        processes = await settled(collector, len(HOSTILE) + 4)
        await eventually(lambda: len(provider.accepted) == len(HOSTILE) + 3, "all of them are sent")
        assert TRACE not in {span.trace_id for span in collector.spans}
        assert len({span.trace_id for span in processes}) == len(processes)
        assert [span.attributes["flowstate.kind"] for span in processes].count("other") == 1
        assert max(span.attributes["flowstate.attempt"] for span in processes) == 2**63 - 1
        assert_no_personal_data(collector)


def assert_no_personal_data(collector: OtlpCollector) -> None:
    """No span contains an address, a code or a key."""
    text = repr([(span.name, span.attributes, span.resource) for span in collector.spans])
    assert not re.search(rf"example\.org|person-|{CODE}|re_[a-z]|Bearer", text), text


async def test_reload_names_new_kinds(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys, tmp_path: Path
) -> None:
    """A kind that a reload adds has its name in the spans from then on."""
    config = tmp_path / "flowstate.toml"
    config.write_text("")
    folder = write_kind(tmp_path / "kinds", "badge", BADGE)
    async with traced(FLOWSTATE_CONFIG=str(config)) as daemon:
        await daemon.ready()
        config.write_text(f'[mail]\nkinds_dir = "{folder}"\n')
        daemon.send(signal.SIGHUP)
        await eventually(lambda: daemon.events("reloaded"), "reloaded")
        context = {"badgeName": "Early bird", "points": 1}
        badge = {"type": "badge", "to": "person-1@example.org", "context": context}
        await queue_of(connection, keys).add(NewJob("badge", badge, remove_on_complete=REMOVE))
        (process,) = await settled(collector, 1)
        assert process.attributes["flowstate.kind"] == "badge"


async def test_sampling_follows_the_producer(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys, provider: FakeResend
) -> None:
    """What the producer has not sampled is not exported; the standard variables choose another sampler."""
    async with traced() as daemon:
        await daemon.ready()
        await queue_of(connection, keys).add(welcome(1, traceparent=f"00-{TRACE}-{SPAN}-00"))
        await queue_of(connection, keys).add(welcome(2, traceparent=f"00-{'a' * 32}-{SPAN}-01"))
        await eventually(lambda: len(provider.accepted) == 2, "both are sent")
        (process,) = await settled(collector, 1)
        assert process.trace_id == "a" * 32
        assert not [span for span in collector.spans if span.trace_id == TRACE]


@pytest.mark.parametrize("mode", ["refuse", "unavailable", "hang", "away"])
async def test_collector_that_fails_holds_up_no_email(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys, provider: FakeResend, mode: str
) -> None:
    """Emails are sent at once, one line says so, spans are counted, and the daemon ends in time."""
    collector.mode = mode
    address = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"} if mode == "away" else {}
    async with traced(**address, OTEL_BSP_MAX_QUEUE_SIZE="64", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="16") as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 100)
        await eventually(lambda: len(provider.accepted) == 100, "all emails are sent", within_s=10)
        await eventually(lambda: len(daemon.events("traces_not_exported")) == 1, "the log names it", within_s=20)
        (line,) = daemon.events("traces_not_exported")
        assert line["remedy"]
        assert await daemon.is_ready()
        page = (await daemon.look("/metrics"))[1]
        assert 'flowstate_trace_spans_total{result="exported"} 0.0' in page
        assert re.search(r'flowstate_trace_spans_total\{result="failed"\} [1-9]', page)
        await enqueue(connection, keys, 20, first=100)
        await eventually(lambda: len(provider.accepted) == 120, "later ones too", within_s=10)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended(within_s=8.0) == 0
        assert len(daemon.events("library_log")) == 0
        assert "Traceback" not in daemon.log_text()


async def test_collector_that_works_again_is_logged(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys
) -> None:
    """One line when it begins to fail, and one when it works again."""
    collector.mode = "refuse"
    async with traced() as daemon:
        await daemon.ready()
        for number in range(3):
            before = collector.requests
            await enqueue(connection, keys, 1, first=number)
            await eventually(lambda before=before: collector.requests > before, "another export")  # type: ignore[misc]
        collector.mode = "accept"
        await enqueue(connection, keys, 1, first=9)
        await eventually(lambda: len(daemon.events("traces_exported_again")) == 1, "it works again")
        assert len(daemon.events("traces_not_exported")) == 1


async def test_last_spans_are_exported_at_the_end(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys, provider: FakeResend
) -> None:
    """Also those that would have waited for the next export."""
    async with traced(OTEL_BSP_SCHEDULE_DELAY="3600000") as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 3)
        await eventually(lambda: len(provider.accepted) == 3, "all emails are sent")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended(within_s=8.0) == 0
        assert len(collector.named("process ")) == 3


async def command(*arguments: str, **environment: str) -> tuple[int, str]:
    """A command in a child process: exit code and both outputs."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flowstate_daemon",
        *arguments,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode()


async def test_command_enqueue_starts_the_trace_that_the_daemon_continues(
    traced: Traced, collector: OtlpCollector, valkey_url: str, keys: Keys
) -> None:
    """The command's span is the parent of the daemon's, and the child of TRACEPARENT."""
    environment = {"REDIS_URL": valkey_url, "FLOWSTATE_QUEUE_PREFIX": keys.prefix, "TRACEPARENT": PARENT}
    async with traced() as daemon:
        await daemon.ready()
        code, output = await command(
            *("enqueue", "welcome", "--to", "person-1@example.org", "--context", '{"name": "Ada"}', "--wait", "10"),
            **environment,
            **tracing_environment(collector.url),
        )
        assert code == 0, output
        (process,) = await settled(collector, 1)
        (send,) = collector.named("send ")
        assert (send.kind, send.trace_id, send.parent_id) == ("PRODUCER", TRACE, SPAN)
        assert (process.trace_id, process.parent_id) == (TRACE, send.span_id)
        assert send.attributes["messaging.message.id"] == process.attributes["messaging.message.id"]
        assert send.attributes["messaging.operation.type"] == "send"
        assert_no_personal_data(collector)


async def test_api_continues_the_trace_of_its_caller(traced: Traced, collector: OtlpCollector, keys: Keys) -> None:
    """The header `traceparent` of a request to the API is the parent."""
    token = "4d1c7ad5f2f84f0b9a3f4e0c5b6a7988"
    async with traced(FLOWSTATE_HTTP_API_TOKEN=token) as daemon:
        await daemon.ready()
        body = {"emails": [{"kind": "welcome", "to": "person-1@example.org", "context": {"name": "Ada"}}]}
        headers = {"Authorization": f"Bearer {token}", "traceparent": PARENT}
        async with (
            ClientSession(headers=headers) as session,
            session.post(f"http://127.0.0.1:{daemon.port}/api/v1/emails", json=body) as answer,
        ):
            assert answer.status == 201, await answer.text()
        (process,) = await settled(collector, 1)
        (send,) = collector.named("send ")
        assert (send.trace_id, send.parent_id, process.parent_id) == (TRACE, SPAN, send.span_id)


async def test_headers_are_a_secret_that_may_be_in_a_file(
    traced: Traced, collector: OtlpCollector, connection: Connection, keys: Keys, tmp_path: Path
) -> None:
    """They reach the collector, and neither the log nor `config show` has them."""
    file = tmp_path / "headers"
    file.write_text("authorization=Bearer%20of-the-collector,x-tenant=mails\n")
    async with traced(OTEL_EXPORTER_OTLP_HEADERS_FILE=str(file), OTEL_EXPORTER_OTLP_COMPRESSION="gzip") as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)
        await settled(collector, 1)
        assert collector.headers[0]["Authorization"] == "Bearer of-the-collector"
        assert collector.headers[0]["X-Tenant"] == "mails"
        assert collector.headers[0]["Content-Encoding"] == "gzip"
        assert "of-the-collector" not in daemon.log_text()
    code, output = await command(
        "config", "show", "tracing", OTEL_EXPORTER_OTLP_HEADERS_FILE=str(file), FLOWSTATE_TRACING_ENABLED="true"
    )
    assert code == 0
    assert "set, hidden" in output
    assert "collector" not in output


@pytest.mark.parametrize("setting", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
async def test_nothing_is_traced_when_it_is_off(
    make_daemon: MakeDaemon,
    collector: OtlpCollector,
    connection: Connection,
    keys: Keys,
    setting: dict[str, str],
    provider: FakeResend,
) -> None:
    """By default, and with the variables that switch every OpenTelemetry program off."""
    environment = tracing_environment(collector.url)
    if not setting:
        del environment["FLOWSTATE_TRACING_ENABLED"]
    async with make_daemon(**environment, **setting) as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)
        await eventually(lambda: len(provider.accepted) == 1, "the email is sent")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    assert collector.requests == 0


@pytest.mark.parametrize(
    "setting",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
    ],
)
async def test_unsupported_exporter_is_a_configuration_error(setting: dict[str, str]) -> None:
    """It is named, with what is expected; without traces the variable is none of our business."""
    environment = {"RESEND_FROM_EMAIL": "a@example.org", "FLOWSTATE_DELIVERY": "outbox", **setting}
    code, output = await command("check", "--config-only", **environment, FLOWSTATE_TRACING_ENABLED="true")
    assert code == 78
    assert f"{next(iter(setting))}: not supported; expected" in output
    assert (await command("check", "--config-only", **environment))[0] == 0


@pytest.mark.parametrize("before", ["", "sys.modules['opentelemetry'] = None"])
def test_packages_are_imported_only_when_traces_are_on(before: str) -> None:
    """No other module needs what the extra installs; redis-py imports metrics of OpenTelemetry if it is there."""
    text = (
        f"import sys, importlib, pkgutil, flowstate_daemon\n{before}\n"
        "for module in pkgutil.walk_packages(flowstate_daemon.__path__, 'flowstate_daemon.'):\n"
        "    if module.name not in {'flowstate_daemon.base.tracing', 'flowstate_daemon.__main__'}:\n"
        "        importlib.import_module(module.name)\n"
        "names = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'google.protobuf')\n"
        "print([name for name in sys.modules if name.startswith(names)])\n"
    )
    done = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_missing_package_is_a_configuration_error() -> None:
    """Without the extra the error names it, and what to install."""
    text = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from flowstate_daemon.cli.main import main; sys.exit(main(['run']))\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "RESEND_FROM_EMAIL": "a@example.org",
        "FLOWSTATE_DELIVERY": "outbox",
        "FLOWSTATE_TRACING_ENABLED": "true",
    }
    done = subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 78
    assert "flowstate-daemon[otel]" in done.stderr

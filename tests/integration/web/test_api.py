"""The API over a real socket and real stores: rights, host names, limits, errors, lists, and the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client import generate_latest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.bootstrap import Components
from flowstate_daemon.daemon.dashboard import build_sessions
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.mail_producer import NewMail
from flowstate_daemon.queue.job import JobSucceeded
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.api_v1.cursors import EntryCursor, write_cursor
from flowstate_daemon.web.api_v1.disabled import disabled_routes
from flowstate_daemon.web.limits import ANONYMOUS_BURST, AUTHENTICATED_BURST
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome
from tests.support.operator_api import (
    OLD_OPERATE,
    OPERATE,
    READ,
    ApiClient,
    build_operator,
    build_recipients,
    serve_api,
)

ADA = "ada@example.org"
CODE = "493027"
SAMPLE = {"id": "1", "address": ADA, "kind": "welcome", "name": "task-reminder", "mail": "bull:email:1:1"}


@pytest.fixture
async def api(pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock) -> AsyncIterator[ApiClient]:
    async with serve_api(build_operator(connection, keys, clock, build_recipients(pool, clock))) as api:
        yield api


@pytest.fixture
async def redis_api(connection: Connection, keys: Keys, clock: FakeClock) -> AsyncIterator[ApiClient]:
    """Without Postgres and without schedules."""
    async with serve_api(build_operator(connection, keys, clock)) as api:
        yield api


def denied(api: ApiClient, reason: str) -> float:
    """How many requests were refused for this reason."""
    for line in generate_latest(api.metrics.registry).decode().splitlines():
        if line.startswith(f'flowstate_http_denied_total{{reason="{reason}"}}'):
            return float(line.split()[-1])
    return 0.0


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": OPERATE},
        {"Authorization": f"Basic {OPERATE}"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {OPERATE}x"},
        {"Authorization": f"Bearer {OPERATE[:-1]}"},
        {"Authorization": "Bearer ü"},
        {"Cookie": f"flowstate_session={OPERATE}"},
    ],
)
@pytest.mark.parametrize("path", ["/queue", "/openapi.json"])
async def test_request_without_a_valid_token_is_unauthorized(
    redis_api: ApiClient, path: str, header: dict[str, str]
) -> None:
    """401 with a challenge; the log has a remedy, the metric counts, and nothing contains the token that was sent."""
    with capture_logs() as events:
        async with redis_api.client.get(f"/api/v1{path}", headers=header) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert response.content_type == "application/problem+json"
            document = await response.json(content_type=None)
    assert (document["title"], document["status"]) == ("Unauthorized", 401)
    (event,) = events
    assert (event["event"], event["log_level"]) == ("api_unauthorized", "warning")
    assert "FLOWSTATE_HTTP_API_TOKEN" in event["remedy"]
    assert (document["detail"], "redacted" in document["detail"]) == (event["remedy"], False)
    assert "ooo" not in f"{event}{document}"
    assert denied(redis_api, "token") == 1


@pytest.mark.parametrize("header", [f"Bearer {OPERATE}", f"bearer {OPERATE}", f"Bearer {OLD_OPERATE}"])
async def test_every_configured_token_is_accepted(redis_api: ApiClient, header: str) -> None:
    """The case of the scheme does not matter, and during a rotation both tokens are valid."""
    assert (await redis_api.get("/queue", headers={"Authorization": header}))[0] == 200


async def test_token_that_may_read_changes_nothing(api: ApiClient, redis: Redis, keys: Keys, clock: FakeClock) -> None:
    """It is accepted by every endpoint that reads, and refused by all others before the request is looked at."""
    await QueueFixture(redis, keys).put("1", "failed", at=BORN)
    before = await QueueFixture(redis, keys).dump()
    for endpoint in api.api.endpoints:
        clock.advance(1)
        path = endpoint.path.format(**SAMPLE)
        status, _ = await api.call(endpoint.method.upper(), path, token=READ)
        assert (status == 403) == (endpoint.rights == "operate"), endpoint
        assert status != 401
    assert await QueueFixture(redis, keys).dump() == before
    assert denied(api, "rights") == sum(endpoint.rights == "operate" for endpoint in api.api.endpoints) > 8


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "mail.example:8080"])
async def test_foreign_host_names_are_refused(redis_api: ApiClient, host: str) -> None:
    """Also with a valid token: a page whose name was rebound to this address gets 403, and it is counted."""
    for path in ("/queue", "/openapi.json"):
        status, document = await redis_api.get(path, headers={"Authorization": f"Bearer {OPERATE}", "Host": host})
        assert (status, "FLOWSTATE_HTTP_OTHER_HOSTS" in document["detail"]) == (403, True)
    assert denied(redis_api, "host") == 2


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("[::1]:8080", True),
        ("MAIL.example.org", True),
        ("emails", True),
        ("emails.internal:8080", True),
        ("other.internal", False),
        ("", False),
    ],
)
def test_host_names_of_the_configuration_are_allowed(clock: FakeClock, host: str, is_allowed: bool) -> None:
    """Loopback, the public URL, the address that is listened on, and the names that other containers use."""
    settings = {"PUBLIC_URL": "https://mail.example.org", "OTHER_HOSTS": "emails, emails.internal", "HOST": "0.0.0.0"}
    config = load({f"FLOWSTATE_HTTP_{name}": value for name, value in settings.items()})
    request = make_mocked_request("GET", "/", headers={"Host": host})
    assert build_sessions(config, clock).allows_host(request) == is_allowed


async def test_anonymous_requests_do_not_use_up_the_limit_of_a_token(redis_api: ApiClient, clock: FakeClock) -> None:
    """After too many wrong tokens the response is 429; requests with a valid token have a limit of their own."""
    anonymous = [(await redis_api.get("/queue", token="x"))[0] for _ in range(25)]
    assert anonymous.count(401) == int(ANONYMOUS_BURST)
    assert anonymous[-1] == 429
    authenticated = [(await redis_api.get("/queue"))[0] for _ in range(65)]
    assert authenticated.count(200) == int(AUTHENTICATED_BURST)
    assert authenticated[-1] == 429
    clock.advance(1.0)
    assert (await redis_api.get("/queue"))[0] == 200


async def test_api_is_disabled_without_a_configured_token(clock: FakeClock) -> None:
    """Every path is 404, and the log names once the setting that enables the API."""
    with capture_logs() as events:
        async with serve(disabled_routes(clock)) as client:
            for path in ("/api/v1/queue", "/api/v1/openapi.json", "/api/v1/schedules/x/run", "/api/v1/"):
                async with client.get(path) as response:
                    assert (response.status, response.content_type) == (404, "application/problem+json")
    (event,) = [event for event in events if event["event"] == "api_disabled"]
    assert "FLOWSTATE_HTTP_API_TOKEN" in event["remedy"]


@pytest.mark.parametrize(
    ("settings", "is_enabled"),
    [({}, False), ({"FLOWSTATE_HTTP_READ_TOKEN": READ}, True), ({"FLOWSTATE_HTTP_API_TOKEN": OPERATE}, True)],
)
async def test_daemon_has_the_api_if_there_is_a_token(settings: dict[str, str], is_enabled: bool) -> None:
    """Either token enables it; a daemon without tokens has neither API nor pages."""
    strong = {name: value.replace("oo", "a7").replace("rr", "b8") for name, value in settings.items()}
    components = Components(load({"FLOWSTATE_DELIVERY": "outbox", **strong}))
    assert (components.api is not None, components.sessions is not None) == (is_enabled, is_enabled)


async def test_document_describes_every_endpoint(api: ApiClient) -> None:
    """OpenAPI 3.1; each operation has its responses, errors as problem documents, and no reference leads nowhere."""
    status, document = await api.get("/openapi.json", token=READ)
    assert (status, document["openapi"]) == (200, "3.1.0")
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(endpoint.method, endpoint.path) for endpoint in api.api.endpoints}
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        for code, response in operation["responses"].items():
            assert set(response.get("content", {})) <= {
                "application/problem+json" if code >= "400" else "application/json"
            }
        assert {"401", "403", "429", "503"} <= set(operation["responses"])
    assert references(document) <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        found = set().union(*(references(value) for value in part.values()))
        return found | ({part["$ref"]} if isinstance(part.get("$ref"), str) else set())
    return set().union(*(references(value) for value in part)) if isinstance(part, list) else set()


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "named"),
    [
        ("GET", "/jobs?state=lost", {}, 422, "state"),
        ("GET", "/jobs?state=wait&recipent=ada", {}, 422, "recipent"),
        ("GET", "/jobs?state=wait&state=failed", {}, 422, "state"),
        ("GET", "/jobs?state=wait&limit=1001", {}, 422, "limit"),
        ("GET", "/jobs?state=wait&newer_than=soon", {}, 422, "newer_than"),
        ("GET", "/jobs?state=wait&reason=a%00b", {}, 422, "reason"),
        ("GET", "/jobs/nothing", {}, 404, "no job"),
        ("GET", "/jobs/wait", {}, 404, "no job"),
        ("GET", "/emails?cursor=x", {}, 400, "cursor"),
        ("GET", "/emails?cursor=é", {}, 400, "cursor"),
        ("GET", f"/emails?cursor={write_cursor(EntryCursor('a', 'b'))}", {}, 400, "cursor"),
        ("GET", f"/suppressions?cursor={write_cursor(EntryCursor(chr(0), 'b'))}", {}, 400, "cursor"),
        ("GET", "/emails/nothing", {}, 404, "ledger"),
        ("GET", "/recipients/ada", {}, 400, "address"),
        ("GET", f"/recipients/{'a' * 321}", {}, 422, "address"),
        ("DELETE", f"/recipients/{ADA}/suppression", {}, 404, "not suppressed"),
        ("DELETE", f"/recipients/{ADA}/unsubscribes/*", {}, 404, "not unsubscribed"),
        ("DELETE", "/actions/nothing", {}, 404, "no action"),
        ("GET", "/schedules", {}, 404, "schedule.enabled"),
        ("POST", "/actions", {"data": b"{"}, 400, "JSON"),
        ("POST", "/actions", {"data": b"[" * 10_000}, 400, "JSON"),
        ("POST", "/actions", {"data": b""}, 422, "action"),
        ("POST", "/actions", {"json": {"action": "retry", "state": "wait"}}, 400, "failed"),
        ("POST", "/actions", {"json": {"action": "retry", "state": "failed", "maybe_sent": "yes"}}, 422, "maybe_sent"),
        ("POST", "/job-actions", {"json": {"action": "retry", "ids": []}}, 422, "ids"),
        ("POST", "/emails", {"json": {"emails": [{"kind": "pigeon", "to": ADA, "context": {}}]}}, 400, "pigeon"),
        ("POST", "/emails", {"data": BytesIO(b" " * 1_100_000)}, 413, ""),
        ("PATCH", "/queue", {}, 405, ""),
        ("GET", "/nothing", {}, 404, ""),
    ],
)
async def test_errors_are_problem_documents(
    api: ApiClient, method: str, path: str, options: dict[str, Any], status: int, named: str
) -> None:
    """The status fits, and the detail names what is wrong and never repeats the body."""
    answered, document = await api.call(method, path, **options)
    assert (answered, document["status"], document["type"]) == (status, status, "about:blank")
    assert named in document["detail"]


async def test_missing_schema_is_service_unavailable(api: ApiClient, pool: asyncpg.Pool) -> None:
    """503 with the remedy, instead of 500; what needs only Redis still works."""
    await pool.execute("DROP SCHEMA flowstate_daemon CASCADE")
    for path in ("/emails", f"/recipients/{ADA}", "/suppressions"):
        status, document = await api.get(path)
        assert (status, "flowstate-daemon migrate" in document["detail"]) == (503, True)
    assert (await api.get("/queue"))[0] == 200


async def test_unreachable_redis_is_service_unavailable(keys: Keys, clock: FakeClock) -> None:
    """503 with the reason, on every endpoint that reads the queue."""
    nowhere = Connection("redis://127.0.0.1:1/0", client_name=keys.client_name, block_timeout_s=1.0)
    async with serve_api(build_operator(nowhere, keys, clock)) as api:
        for path in ("/queue", "/jobs?state=failed", "/jobs/1", "/failures", "/provider", "/audit"):
            status, document = await api.get(path)
            assert (status, "Redis" in document["detail"]) == (503, True), document


async def test_audit_of_one_store_while_the_other_is_away(
    connection: Connection, keys: Keys, clock: FakeClock, pool: asyncpg.Pool, unreachable_pool: asyncpg.Pool
) -> None:
    """What can be read is shown, with the reason why a part is missing; 503 only when nothing can be read."""
    nowhere = Connection("redis://127.0.0.1:1/0", client_name=keys.client_name, block_timeout_s=1.0)
    async with serve_api(build_operator(connection, keys, clock, build_recipients(pool, clock))) as api:
        await api.call("PUT", f"/recipients/{ADA}/suppression")
        await api.call("POST", "/queue/pause")
        status, document = await api.get("/audit")
        assert (status, len(document["entries"]), document["missing"]) == (200, 2, [])
    for redis, postgres, action, missing in (
        (connection, unreachable_pool, "queue pause", "suppressions and unsubscribes: Postgres"),
        (nowhere, pool, "suppress", "the queue: Redis"),
    ):
        async with serve_api(build_operator(redis, keys, clock, build_recipients(postgres, clock))) as api:
            status, document = await api.get("/audit")
            assert (status, len(document["entries"]), len(document["missing"])) == (200, 1, 1), document
            assert document["entries"][0]["action"].startswith(action), document
            assert document["missing"][0].startswith(missing), document
    async with serve_api(build_operator(nowhere, keys, clock, build_recipients(unreachable_pool, clock))) as api:
        status, document = await api.get("/audit")
        assert (status, "Redis" in document["detail"], "Postgres" in document["detail"]) == (503, True, True)


async def test_lists_need_postgres(redis_api: ApiClient) -> None:
    """404 names the setting."""
    for path in ("/emails", f"/recipients/{ADA}", "/suppressions", "/unsubscribes"):
        status, document = await redis_api.get(path)
        assert (status, "DATABASE_URL" in document["detail"]) == (404, True)


async def test_no_response_contains_a_code(api: ApiClient) -> None:
    """Neither counts nor jobs show the code of an email that waits."""
    _, added = await api.post("/emails", {"emails": [{"kind": "otp", "to": ADA, "context": {"otpCode": CODE}}]})
    (job_id,) = added["job_ids"]
    seen = [await api.get(path) for path in ("/queue", "/jobs?state=wait", f"/jobs/{job_id}")]
    assert [status for status, _ in seen] == [200, 200, 200]
    assert (seen[0][1]["wait"], seen[1][1]["jobs"][0]["id"], seen[2][1]["name"]) == (1, job_id, "otp")
    assert CODE not in str(seen)


async def test_recipient_is_explained(api: ApiClient, pool: asyncpg.Pool, clock: FakeClock) -> None:
    """Suppressions, unsubscribes, and each email with attempts, decisions and events; one email by its name."""
    await Ledger(pool, clock).write([outcome(1), outcome(2, to="bob@example.org")])
    await api.operator.recipients.suppressions.add(ADA, "manual")  # type: ignore[union-attr]
    status, document = await api.get("/recipients/Ada@example.org")
    assert (status, document["suppressed"]) == (200, ["manual"])
    assert [(mail["job_id"], len(mail["attempts"])) for mail in document["emails"]] == [("1", 1)]
    _, listed = await api.get("/emails?recipient=bob@example.org&outcome=sent&outcome=failed")
    status, one = await api.get(f"/emails/{listed['emails'][0]['mail']}")
    assert (status, one["address"], one["email"]["job_id"]) == (200, "bob@example.org", "2")


async def test_lists_are_changed_and_each_change_leaves_a_trace(api: ApiClient) -> None:
    """Suppress, unsuppress, unsubscribe, resubscribe; the audit names the token's digest, not the token."""
    assert await api.call("PUT", f"/recipients/{ADA}/suppression", json={"note": "asked by phone"}) == (204, None)
    assert (await api.get("/suppressions"))[1]["suppressions"][0]["note"] == "asked by phone"
    assert await api.call("DELETE", f"/recipients/{ADA}/suppression") == (204, None)
    assert await api.call("PUT", f"/recipients/{ADA}/unsubscribes/focus-report") == (204, None)
    assert [one["kind"] for one in (await api.get("/unsubscribes"))[1]["unsubscribes"]] == ["focus-report"]
    assert await api.call("DELETE", f"/recipients/{ADA}/unsubscribes/focus-report") == (204, None)
    assert (await api.get(f"/recipients/{ADA}"))[1]["unsubscribed"] == []
    for kind in ("*", "focus-report"):
        assert await api.call("PUT", f"/recipients/{ADA}/unsubscribes/{kind}") == (204, None)
    assert await api.call("DELETE", f"/recipients/{ADA}/unsubscribes/*") == (204, None)
    assert (await api.get(f"/recipients/{ADA}"))[1]["unsubscribed"] == []
    assert (await api.call("DELETE", f"/recipients/{ADA}/unsubscribes/*"))[0] == 404
    audit = (await api.get("/audit"))[1]["entries"]
    assert {entry["action"].split(" (")[0] for entry in audit} == {
        "suppression add",
        "suppression remove",
        "unsubscribed add",
        "unsubscribed remove",
    }
    assert {entry["actor"].startswith("API token ") for entry in audit} == {True}
    assert "ooo" not in str(audit)


async def test_queue_and_provider_are_operated(redis_api: ApiClient) -> None:
    """Pause, resume and a retry of the provider, each with a trace; pausing twice changes nothing more."""
    assert await redis_api.call("POST", "/queue/pause") == (200, {"is_paused": True, "changed": True})
    assert await redis_api.call("POST", "/queue/pause") == (200, {"is_paused": True, "changed": False})
    assert (await redis_api.get("/queue"))[1]["is_paused"] is True
    assert await redis_api.call("POST", "/queue/resume") == (200, {"is_paused": False, "changed": True})
    assert await redis_api.call("POST", "/provider/retry") == (204, None)
    assert (await redis_api.get("/provider"))[1]["state"] == "accepting"
    audit = (await redis_api.get("/audit?limit=10"))[1]["entries"]
    assert sorted(entry["action"] for entry in audit) == [
        "provider retry",
        "queue pause",
        "queue pause",
        "queue resume",
    ]


async def test_statistics_and_instances(redis_api: ApiClient) -> None:
    """A point for each step of the span; the services of this daemon and the workers of the queue."""
    assert [len((await redis_api.get(f"/statistics?span={span}"))[1]) for span in ("hour", "day", "week")] == [
        60,
        96,
        84,
    ]
    redis_api.operator.health.register("fetcher")
    status, document = await redis_api.get("/instances")
    assert (status, [service["name"] for service in document["services"]]) == (200, ["fetcher"])


async def walk(api: ApiClient, clock: FakeClock, path: str, member: str) -> list[Any]:
    """All entries of a list, page by page."""
    entries: list[Any] = []
    cursor = ""
    while True:
        clock.advance(1)
        status, document = await api.get(f"{path}&cursor={cursor}" if cursor else path)
        assert status == 200, document
        entries += document[member]
        if document["next_cursor"] is None:
            return entries
        cursor = document["next_cursor"]


async def test_cursors_lead_through_every_entry_once(
    api: ApiClient, pool: asyncpg.Pool, clock: FakeClock, redis: Redis, keys: Keys
) -> None:
    """Many rows with equal times and equal addresses, in pages that do not divide their number."""
    await Ledger(pool, clock).write([outcome(number, at=BORN + number // 7) for number in range(1_500)])
    assert len({row["job_id"] for row in await walk(api, clock, "/emails?limit=400", "emails")}) == 1_500
    lists = build_recipients(pool, clock).suppressions
    for number in range(40):
        await lists.add(f"p{number // 2}@example.org", ("manual", "bounced")[number % 2])
        await lists.unsubscribe(f"p{number // 2}@example.org", ("focus-report", "task-reminder")[number % 2])
    suppressed = await walk(api, clock, "/suppressions?limit=7", "suppressions")
    assert len({(one["address"], one["reason"]) for one in suppressed}) == len(suppressed) == 40
    unsubscribed = await walk(api, clock, "/unsubscribes?limit=7", "unsubscribes")
    assert len({(one["address"], one["kind"]) for one in unsubscribed}) == len(unsubscribed) == 40
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(1_300):
            pipeline.hset(keys.job(f"j{number}"), mapping={"name": "welcome", "data": "{}", "failedReason": "422"})
            pipeline.zadd(keys("failed"), {f"j{number}": BORN + number // 5})
        await pipeline.execute()
    jobs = await walk(api, clock, "/jobs?state=failed&reason=4*2&limit=300", "jobs")
    assert len({job["id"] for job in jobs}) == len(jobs) == 1_300


async def test_single_jobs_are_changed(redis_api: ApiClient, redis: Redis, keys: Keys) -> None:
    """The result names for each id what became of it."""
    stage = QueueFixture(redis, keys)
    await stage.put("f1", "failed", at=BORN)
    await stage.put("w1", "wait", locked=True)
    status, results = await redis_api.post("/job-actions", {"action": "retry", "ids": ["f1", "w1", "gone", "wait"]})
    assert (status, [bool(result["error"]) for result in results]) == (200, [False, True, True, True])
    assert (await redis_api.get("/jobs/f1"))[1]["state"] == "wait"


async def test_processed_email_is_gone_from_the_queue(redis_api: ApiClient) -> None:
    """A job that was sent is 404, as the reason says."""
    producer, bull = redis_api.operator.enqueue._producer, redis_api.operator.enqueue._producer._bull
    added = await producer.enqueue(NewMail("welcome", ADA, {"name": "Ada"}))
    await bull.complete([JobSucceeded(job) for job in await bull.claim(1)])
    status, document = await redis_api.get(f"/jobs/{added.id}")
    assert (status, "was not kept" in document["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("GET", "/jobs?state=lost&limit=0&x=1", None, 422, ["state", "limit", "x"]),
        ("GET", "/emails?cursor=x&limit=0&x=1", None, 422, ["cursor", "limit", "x"]),
        ("GET", "/suppressions?cursor=x&x=1", None, 422, ["cursor", "x"]),
        ("GET", "/recipients/ada?limit=0&x=1", None, 422, ["address", "limit", "x"]),
        ("PUT", "/recipients/ada/suppression", {"note": "\x00", "x": 1}, 422, ["address", "note", "x"]),
        ("PUT", "/recipients/ada/suppression?y=1", {"x": 1}, 422, ["address", "x", "y"]),
        ("PUT", "/recipients/ada/preferences", {"kinds": {"otp": True}, "x": 1}, 422, ["address", "kinds", "x"]),
        ("PUT", "/recipients/ada/unsubscribes/%00", None, 422, ["address", "kind"]),
        ("POST", "/actions", {"action": "retry", "state": "wait", "x": 1}, 422, ["state", "x"]),
        (
            "POST",
            "/action-previews",
            {"action": "retry", "state": "wait", "filter": {"x": 1}},
            422,
            ["filter.x", "state"],
        ),
        ("POST", "/queue/pause?x=1", None, 422, ["x"]),
        ("PUT", "/recipients/ada/suppression", "{", 400, ["address", "JSON"]),
    ],
)
async def test_several_mistakes_are_in_one_answer(
    api: ApiClient, method: str, path: str, body: Any, status: int, named: list[str]
) -> None:
    """Those of path, query and body, whatever kind of mistake each of them is."""
    options = {} if body is None else {"data": b"{"} if body == "{" else {"json": body}
    found, document = await api.call(method, path, **options)
    assert (found, [name for name in named if name not in document["detail"]]) == (status, []), document

"""Schedules over the API: listed, run and dry-run; invalid requests are refused and change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import build_manual_runs
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.manual_runs import ManualRuns, RunRequest
from flowstate_daemon.web.api_v1 import schedule_endpoints
from flowstate_daemon.web.api_v1.schedule_endpoints import MAX_BODY_BYTES
from tests.integration.scheduler.test_manual_runs import due
from tests.integration.web.test_dashboard import serve_dashboard
from tests.support.app_tables import AppTables
from tests.support.clock import FakeClock
from tests.support.operator_api import OPERATE, READ, build_operator, build_recipients, serve_api
from tests.support.scheduler import SchedulerHarness
from tests.support.waiting import eventually

RUN = "/api/v1/schedules/task-reminder/run"
RECIPIENTS = """
INSERT INTO users (id, email, password, "isEmailVerified", "updatedAt")
SELECT 'p' || n, 'p' || n || '@example.org', '', true, now() FROM generate_series(1, $1::integer) AS n
"""
TASKS = """
INSERT INTO tasks (id, "userId", title, "dueDate", "updatedAt")
SELECT 't' || id, id, 'Write', timestamp '2026-03-03 12:00', now() FROM users
"""


@pytest.fixture
def manual_runs(harness: SchedulerHarness, migrated_url: str, clock: FakeClock) -> ManualRuns:
    config = load({"DATABASE_URL": migrated_url, "FRONTEND_URL": "https://flowstate.example"})
    return build_manual_runs(config, harness.pool, clock)


@pytest.fixture
async def client(
    manual_runs: ManualRuns, connection: Connection, keys: Keys, clock: FakeClock
) -> AsyncIterator[ClientSession]:
    async with serve_api(build_operator(connection, keys, clock, schedules=manual_runs)) as api:
        api.client.headers["Authorization"] = f"Bearer {OPERATE}"
        yield api.client


async def posted(client: ClientSession, body: bytes = b"", path: str = RUN, **headers: str) -> tuple[int, Any]:
    async with client.post(path, data=body, headers=headers) as response:
        return response.status, await response.json()


async def many(app: AppTables, count: int) -> None:
    await app.connection.execute(RECIPIENTS, count)
    await app.connection.execute(TASKS)


async def test_requests_without_the_token_are_refused(
    client: ClientSession, app: AppTables, harness: SchedulerHarness
) -> None:
    """The legacy backend accepted them from anyone."""
    await due(app, "ada")
    assert (await posted(client, Authorization="Bearer x"))[0] == 401
    assert (await posted(client, Authorization=f"Bearer {READ}"))[0] == 403
    async with client.get("/api/v1/schedules", headers={"Authorization": ""}) as response:
        assert response.status == 401
    assert await harness.scheduled_mails() == []


async def test_list_shows_next_runs(client: ClientSession, app: AppTables) -> None:
    """All three schedules by time zone, with the result of the last run."""
    await app.user("ada", {"timezone": "Asia/Tokyo"})
    async with client.get("/api/v1/schedules") as response:
        output = {one["name"]: one for one in await response.json()}
    assert set(output) == {"task-reminder", "overdue-summary", "focus-report"}
    assert {zone for one in output["task-reminder"]["next"] for zone in one["zones"]} == {"Asia/Tokyo", "Europe/Paris"}
    assert output["task-reminder"]["last"] is None


async def test_run_is_planned_once(client: ClientSession, app: AppTables, harness: SchedulerHarness) -> None:
    """202 with the counts; a second run finds existing rows; `force` reopens ended ones."""
    await due(app, "ada")
    status, ran = await posted(client)
    assert (status, ran["recipients"], ran["scheduled"]) == (202, 1, 1)
    assert await harness.tick() == 1
    assert (await posted(client))[1]["scheduled"] == 0
    assert (await posted(client, b'{"force": true}'))[1]["reopened"] == 1
    assert await harness.tick() == 1


async def test_dry_run_is_one_document_and_writes_nothing(
    client: ClientSession, app: AppTables, harness: SchedulerHarness
) -> None:
    """More recipients than one page holds: each with its email or the reason why there is none."""
    await many(app, 600)
    await due(app, "bob", isEmailVerified=False)
    status, output = await posted(client, b'{"dry_run": true, "bodies": true}')
    assert (status, output["sends"], output["skips"], len(output["recipients"])) == (200, 600, 1, 601)
    assert "Write" in next(one["text"] for one in output["recipients"] if one["sends"])
    assert [one["reason"] for one in output["recipients"] if not one["sends"]] == [
        "the user has not verified the address"
    ]
    assert await harness.scheduled_mails() == []


async def test_dry_run_for_one_address(client: ClientSession, app: AppTables, harness: SchedulerHarness) -> None:
    """As the page of a recipient has it: in any spelling, and empty for somebody who has nothing due."""
    await many(app, 600)
    _, output = await posted(client, b'{"dry_run": true, "to": "P7@Example.org"}')
    assert (output["sends"], [one["user_id"] for one in output["recipients"]]) == (1, ["p7"])
    assert (await posted(client, b'{"dry_run": true, "to": "eve@example.org"}'))[1]["recipients"] == []
    assert await harness.scheduled_mails() == []


@pytest.mark.parametrize("language", ["en", "fr"])
async def test_page_says_that_a_manual_run_found_no_recipient(
    manual_runs: ManualRuns,
    harness: SchedulerHarness,
    app: AppTables,
    connection: Connection,
    keys: Keys,
    clock: FakeClock,
    language: str,
) -> None:
    """Who ran it, and that no recipient was due; a run with emails shows what became of them instead."""
    no_recipients, by = {
        "en": ("No new recipient was due.", "run manually by ada on vm"),
        "fr": ("Personne de plus à qui écrire.", "exécution manuelle par ada on vm"),
    }[language]
    await manual_runs.run(RunRequest("focus-report", clock.now()), actor="ada on vm")
    operator = build_operator(connection, keys, clock, build_recipients(harness.pool, clock), manual_runs)
    async with serve_dashboard(operator, clock) as site:
        await site.log_in()
        _, page = await site.get("schedules", headers={"Accept-Language": language})
        assert (page.count(no_recipients), page.count(by)) == (1, 1)
        clock.advance(120)
        await due(app, "ada")
        await manual_runs.run(RunRequest("task-reminder", clock.now()), actor="ada on vm")
        clock.advance(120)
        _, page = await site.get("schedules", headers={"Accept-Language": language})
        assert (page.count(no_recipients), page.count(by)) == (1, 2)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"nonsense", 400, "JSON"),
        (b"\xff", 400, "JSON"),
        (b"[" * 2000, 400, "JSON"),
        (b'{"dryrun": true}', 422, "dryrun"),
        (b'{"dry_run": 1}', 422, "dry_run"),
        (b'{"at": "tomorrow"}', 422, "at"),
        (b'{"at": 1772442000}', 422, "at"),
        (b'{"at": "2026-03-02T09:00:00"}', 422, "at"),  # which zone?
        (b'{"at": "0001-01-01T00:00:00+14:00"}', 422, "at"),
        (b'{"at": "9999-12-31T23:59:59-14:00"}', 422, "at"),
        (b'{"at": "2026-03-02T09:00:00Z"}', 400, "at"),  # it is 08:00 UTC
        (b'{"at": "2020-03-02T09:00:00Z"}', 400, "at"),
        (b'{"at": "2020-03-02T09:00:00Z", "dry_run": true}', 400, "at"),
        (b'{"to": "ada@example.org"}', 400, "to: only a dry run"),
        (b'{"dry_run": true, "to": "ada"}', 400, "to: expected an email address"),
        (b'{"dry_run": true, "to": ""}', 400, "to: expected an email address"),
        (b'{"dry_run": 1, "to": "ada"}', 422, "to: expected an email address"),
    ],
)
async def test_invalid_requests_are_refused(
    client: ClientSession, app: AppTables, harness: SchedulerHarness, body: bytes, status: int, named: str
) -> None:
    """The detail names what is expected, and nothing is planned."""
    await due(app, "ada")
    answered, output = await posted(client, body)
    assert (answered, named in output["detail"]) == (status, True), output
    assert await harness.scheduled_mails() == []


async def test_unknown_schedule_and_oversized_body_are_refused(client: ClientSession) -> None:
    """An unknown schedule is answered with the known names; a body of five kilobytes is refused."""
    status, output = await posted(client, path="/api/v1/schedules/pigeons/run")
    assert (status, "task-reminder" in output["detail"]) == (404, True)
    assert (await posted(client, b" " * (MAX_BODY_BYTES + 1)))[0] == 413


async def test_one_dry_run_at_a_time_and_a_disconnect_frees_it(
    client: ClientSession, app: AppTables, harness: SchedulerHarness
) -> None:
    """During a dry run another request must wait; a client that disconnects causes no error."""
    await many(app, 2000)
    with capture_logs() as lines:
        response = await client.post(RUN, data=b'{"dry_run": true, "bodies": true}')
        await response.content.readany()
        assert (await posted(client))[0] == 409
        response.close()
        async with asyncio.timeout(10):
            while (await posted(client))[0] == 409:
                await asyncio.sleep(0.05)
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
    assert len(await harness.scheduled_mails()) == 2000


@asynccontextmanager
async def locked(app: AppTables, table: str) -> AsyncIterator[None]:
    """Every statement on this table waits, as it does for a table of many millions of rows."""
    async with app.connection.transaction():
        await app.connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


async def test_long_run_is_accepted_and_continues(
    client: ClientSession, app: AppTables, harness: SchedulerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """202 says that it goes on and where to look; the result, with the emails planned, is there afterwards."""
    monkeypatch.setattr(schedule_endpoints, "RUN_WAIT_S", 0.1)
    await many(app, 5)
    async with locked(app, "flowstate_daemon.scheduled_mails"):
        async with client.post(RUN) as response:
            accepted = await response.json()
            assert (response.status, response.headers["Location"]) == (202, RUN)
        assert (accepted["state"], accepted["name"], accepted["status"]) == ("running", "task-reminder", RUN)
        assert await looked(client) == accepted
        status, refused = await posted(client)
        assert (status, RUN in refused["detail"]) == (409, True)
    done = await eventually(lambda: ended(client), "the run ends")
    assert (done["state"], done["result"]["scheduled"], done["started_at"]) == ("finished", 5, accepted["started_at"])
    assert len(await harness.scheduled_mails()) == 5
    assert (await posted(client))[0] == 202


async def test_long_run_that_fails_says_why(
    client: ClientSession, app: AppTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the one that a short run answers with 503."""
    monkeypatch.setattr(schedule_endpoints, "RUN_WAIT_S", 0.1)
    with capture_logs() as lines:
        async with locked(app, "users"):
            assert (await posted(client))[1]["state"] == "running"
            await app.connection.execute("ALTER TABLE users RENAME TO u")
        done = await eventually(lambda: ended(client), "the run ends")
    assert (done["state"], "public.users" in done["reason"], done["result"]) == ("failed", True, None)
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["schedule_run_failed"]
    assert (await posted(client))[0] == 503


async def test_state_of_a_run_that_was_not_asked_for(client: ClientSession) -> None:
    """404 says where the last run of any operator is."""
    async with client.get(RUN) as response:
        assert (response.status, "/api/v1/schedules" in (await response.json())["detail"]) == (404, True)
    async with client.get("/api/v1/schedules/pigeons/run") as response:
        assert response.status == 404


async def test_state_of_a_short_run(client: ClientSession, app: AppTables) -> None:
    """The last run of each schedule is kept, with the same result as its response."""
    await due(app, "ada")
    _, ran = await posted(client)
    state = await looked(client)
    assert (state["state"], state["result"]) == ("finished", ran)


async def test_dry_run_has_no_total_time_limit(
    client: ClientSession, app: AppTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a step may not take too long: a client that stops reading is dropped, and another run is possible."""
    monkeypatch.setattr(schedule_endpoints, "WRITE_TIMEOUT_S", 0.2)
    await many(app, 4000)
    response = await client.post(RUN, data=b'{"dry_run": true, "bodies": true}')
    await response.content.readany()
    response.content._protocol.pause_reading()
    await eventually(lambda: accepted(client), "another run is accepted")
    response.close()


async def accepted(client: ClientSession) -> bool:
    return (await posted(client))[0] == 202


async def looked(client: ClientSession) -> Any:
    async with client.get(RUN) as response:
        assert response.status == 200
        return await response.json()


async def ended(client: ClientSession) -> Any:
    state = await looked(client)
    return state if state["state"] != "running" else None


async def test_outage_during_a_dry_run_completes_the_document(client: ClientSession, app: AppTables) -> None:
    """The partial result is valid JSON that reports that it is incomplete."""
    await many(app, 1200)
    response = await client.post(RUN, data=b'{"dry_run": true, "bodies": true}')
    await app.connection.execute("ALTER TABLE users RENAME TO u")
    output = await response.json()
    assert "public.users" in output["error"]
    assert 0 < output["sends"] < 1200

"""The command `status`: the health of this host's daemon, queue, provider, schedules and risks on one screen."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.base.risks import Risk
from flowstate_daemon.cli.context import (
    QueueContext,
    health_endpoint,
    load_config,
    name_server,
    open_queue,
    run_async,
)
from flowstate_daemon.cli.durations import Duration
from flowstate_daemon.cli.health import HealthEndpoint, fetch, format_status
from flowstate_daemon.cli.output import format_duration, format_timestamp, json_option, print_fields, print_json
from flowstate_daemon.cli.provider import STATES as PROVIDER_STATES
from flowstate_daemon.cli.schedule import describe_result
from flowstate_daemon.config.loader import Config, describe_redis
from flowstate_daemon.config.risks import describe_schedules, find_risks
from flowstate_daemon.config.unit_settings import REDIS_ADDRESS
from flowstate_daemon.daemon.builders import build_manual_runs
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.queue.job import STATES
from flowstate_daemon.redis_client.server_info import find_durability_risks
from flowstate_daemon.scheduler.manual_runs import Overview
from flowstate_daemon.sending.rate_limiter import RateLimiter

PART_TIMEOUT_S = 5.0
HEALTH_TIMEOUT_S = 2.0
CLEAR_SCREEN = "\x1b[2J\x1b[H"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the screen; `error` says why it could not be read."""

    value: dict[str, Any]
    error: str = ""

    def document(self) -> dict[str, Any]:
        return {"error": self.error} if self.error else self.value


@click.command()
@click.option("--watch", is_flag=True, help="Repeat it until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    type=Duration(least_s=0.5, most_s=3600),
    default="2s",
    show_default=True,
    metavar="DURATION",
    help="With --watch: time between two updates.",
)
@json_option
@click.pass_obj
def status(config_file: str | None, *, watch: bool, interval_s: float, as_json: bool) -> int:
    """Show the whole state on one screen, problems first.

    The health of the daemon on this machine, the queue, the provider, the next schedules and known risks. If
    something cannot be read, the reason is shown instead. With --watch and --json, one document per line.

    Exit codes: 0 nothing is wrong, 1 something is, 78 invalid configuration.
    """
    config = load_config(config_file, needs=REDIS_ADDRESS)
    endpoint = health_endpoint(config)
    logs.configure("error", config.log.format, colors=config.log.colors)
    name_server(describe_redis(config))

    async def work() -> int:
        while True:
            document = await read_status(config, endpoint)
            if watch and as_json:
                click.echo(msgspec.json.encode(document))
            elif as_json:
                print_json(document)
            else:
                if watch and sys.stdout.isatty():
                    click.echo(CLEAR_SCREEN, nl=False)
                print_status(document)
            if not watch:
                return 1 if document["problems"] else 0
            await asyncio.sleep(interval_s)

    return run_async(work())


async def read_status(config: Config, endpoint: HealthEndpoint) -> dict[str, Any]:
    """Everything, read concurrently; a store that does not answer costs PART_TIMEOUT_S."""
    clock = Clock()
    health, (queue, provider, redis_risks), schedules = await asyncio.gather(
        asyncio.to_thread(fetch, endpoint, "ready", HEALTH_TIMEOUT_S),
        _read_redis(config),
        _read(_schedules(config, clock)),
    )
    # The settings of this shell are not those of a daemon that the command `dev` has started.
    risks = [*([] if health.get("is_dev") else find_risks(config)), *redis_risks]
    document = {
        "at": format_timestamp(clock.now_ms()),
        "daemon": health,
        "queue": queue.document(),
        "provider": provider.document(),
        "schedules": schedules.document(),
        "risks": [{"name": risk.name, "finding": risk.finding, "remedy": risk.remedy} for risk in risks],
    }
    return {"problems": find_problems(document), **document}


async def _read(part: Awaitable[dict[str, Any]]) -> Part:
    try:
        async with asyncio.timeout(PART_TIMEOUT_S):
            return Part(await part)
    except TimeoutError:
        return Part({}, f"no response within {PART_TIMEOUT_S:g} s")
    except FlowstateError as error:
        return Part({}, redact_text(error.reason))


async def _read_redis(config: Config) -> tuple[Part, Part, list[Risk]]:
    """The queue, the provider's state, and the risks of the server, over one connection."""
    risks: list[Risk] = []

    async def read() -> dict[str, Any]:
        async with open_queue(config) as context:
            queue, provider = await _queue(context), await _provider(context)
            risks.extend(await find_durability_risks(context.connection))
            return {"queue": queue, "provider": provider}

    both = await _read(read())
    if both.error:
        return both, both, []
    return Part(both.value["queue"]), Part(both.value["provider"]), risks


async def _queue(context: QueueContext) -> dict[str, Any]:
    snapshot, workers = await context.inspector.snapshot(), await context.inspector.workers()
    now = context.clock.now_ms()
    oldest, due = snapshot.oldest_waiting_ms, snapshot.next_due_ms
    return {
        **{state: getattr(snapshot, state) for state in STATES},
        "is_paused": snapshot.is_paused,
        "oldest_waiting_age_ms": None if oldest is None else max(0, now - oldest),
        "next_due_in_ms": None if due is None else due - now,
        "journal": snapshot.journal,
        "workers": None if workers.note else len(workers),
    }


async def _provider(context: QueueContext) -> dict[str, Any]:
    state = await RateLimiter(context.connection, context.keys, context.clock).state()
    return {
        "state": state.state,
        "requests_per_second": state.limit,
        "bulk_paused_ms": state.bulk_paused_ms,
        "reasons": [f"{problem.instance}: {problem.reason}" for problem in state.problems]
        or ([state.reason] if state.bulk_paused_ms and state.reason else []),
    }


async def _schedules(config: Config, clock: Clock) -> dict[str, Any]:
    summary = describe_schedules(config)
    url = config.database.url
    if url is None or not summary.startswith("on"):
        return {"summary": summary, "next": []}
    async with open_pool(clean_dsn(url.get_secret_value()), size=1) as pool:
        overviews = await build_manual_runs(config, pool, clock).overview()
    return {"summary": summary, "next": [_next(overview) for overview in overviews]}


def _next(overview: Overview) -> dict[str, Any]:
    last = overview.last
    return {
        "name": overview.name,
        "next_at": overview.next[0].at if overview.next else None,
        "last_at": last.last_at if last else None,
        "last_source": last.source if last else None,
        "last_actor": last.actor if last else None,
        "last_scheduled": last.scheduled if last else None,
        "last_states": dict(last.states) if last else {},
    }


def find_problems(document: Mapping[str, Any]) -> list[str]:
    """What is wrong, the worst first. Pure."""
    daemon, queue, provider = document["daemon"], document["queue"], document["provider"]
    found = [f"daemon: {reason}" for reason in daemon["reasons"]]
    if daemon["status"] != "ready" and not found:
        found.append(f"daemon: {daemon['status']}")
    found += [f"{name}: {document[name]['error']}" for name in ("queue", "schedules") if "error" in document[name]]
    if queue.get("is_paused"):
        found.append("queue: paused; flowstate-daemon queue resume")
    if queue.get("workers") == 0:
        found.append("queue: no worker is connected")
    if provider.get("state", "accepting") != "accepting":
        found += [f"provider: {PROVIDER_STATES[provider['state']]}", *(f"  {one}" for one in provider["reasons"])]
    found += [f"{risk['name']}: {risk['finding']}; {risk['remedy']}" for risk in document["risks"]]
    return list(dict.fromkeys(found))


def print_status(document: Mapping[str, Any]) -> None:
    """The screen: what is wrong first, then one line for each fact."""
    problems = document["problems"]
    fields: dict[str, object] = {"problems": "\n".join(problems)} if problems else {}
    fields["daemon"] = format_status(document["daemon"])
    fields |= _queue_fields(document["queue"])
    fields |= _provider_fields(document["provider"])
    fields |= _schedule_fields(document["schedules"])
    print_fields(format_heading(len(problems), document["at"]), fields)


def format_heading(problems: int, at: str) -> str:
    """The first line of the screen; `at` is in UTC. Pure."""
    found = f"{problems} problem{'s' if problems > 1 else ''}" if problems else "healthy"
    return f"{found} at {at} UTC"


def _queue_fields(queue: Mapping[str, Any]) -> dict[str, object]:
    if "error" in queue:
        return {"queue": f"unknown: {queue['error']}"}
    counts = ", ".join(f"{queue[state]} {state}" for state in STATES)
    return {
        "queue": f"{'paused' if queue['is_paused'] else 'running'}: {counts}",
        "oldest waiting": format_duration(queue["oldest_waiting_age_ms"]),
        "next delayed in": format_duration(queue["next_due_in_ms"]),
        "workers": "cannot be listed on this Redis" if queue["workers"] is None else str(queue["workers"]),
        "journal": f"{queue['journal']} outcomes" if queue["journal"] else None,
    }


def _provider_fields(provider: Mapping[str, Any]) -> dict[str, object]:
    if "error" in provider:
        return {"provider": f"unknown: {provider['error']}"}
    rate = provider["requests_per_second"]
    return {
        "provider": PROVIDER_STATES[provider["state"]] + (f", {rate:g} requests per second" if rate else ""),
        "bulk paused for": format_duration(provider["bulk_paused_ms"]) if provider["bulk_paused_ms"] else None,
    }


def _schedule_fields(schedules: Mapping[str, Any]) -> dict[str, object]:
    if "error" in schedules:
        return {"schedules": f"unknown: {schedules['error']}"}
    rows = {
        one["name"]: f"next {one['next_at']:%Y-%m-%d %H:%M} UTC" + _last_run(one)
        for one in schedules["next"]
        if one["next_at"] is not None
    }
    return {"schedules": schedules["summary"], **rows}


def _last_run(one: Mapping[str, Any]) -> str:
    if one["last_at"] is None:
        return ""
    by = f", run manually by {one['last_actor']}" if one["last_source"] == "manual" else ""
    result = describe_result(one["last_source"], one["last_scheduled"], one["last_states"])
    return f"; last {one['last_at']:%Y-%m-%d %H:%M}{by}: {result}"

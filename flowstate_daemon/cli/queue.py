"""Commands about the queue: `queue status|list|show|failures|pause|resume|audit`; others are in `queue_actions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from flowstate_daemon.base.redaction import mask_addresses
from flowstate_daemon.cli.context import QueueContext, with_queue
from flowstate_daemon.cli.filters import REVEALED, Criteria, filter_options, recipient_cell
from flowstate_daemon.cli.output import (
    format_duration,
    format_timestamp,
    json_option,
    print_fields,
    print_json,
    print_table,
    reveal_option,
    rows_option,
    sanitise,
)
from flowstate_daemon.cli.queue_actions import clean, promote, remove, retry
from flowstate_daemon.operations.failures import FailureGroup, FailureGroups
from flowstate_daemon.queue.admin import JobNotFoundError, PauseResult
from flowstate_daemon.queue.inspector import JobView
from flowstate_daemon.queue.job import STATES, State
from flowstate_daemon.redis_client.server_info import DAEMON_NAME_PATTERN

FAILURES_BUDGET_S = 5.0
COMMON = ("id", "kind", "to", "priority", "attempts", "added (UTC)")
LIST_COLUMNS = {
    "wait": (*COMMON, "reason"),
    "delayed": (*COMMON, "due (UTC)"),
    "completed": (*COMMON, "completed (UTC)"),
    "failed": ("id", "kind", "to", "attempts", "added (UTC)", "failed (UTC)", "reason"),
}
STATE_CHOICES = {state: "waiting" if state == "wait" else state for state in STATES}

state_argument = click.argument("state", type=click.Choice(STATES), metavar="STATE")


@click.group()
def queue() -> None:
    """Inspect and manage the queue."""


for command in (retry, remove, promote, clean):
    queue.add_command(command)


@queue.command()
@json_option
@click.pass_obj
def status(config_file: str | None, *, as_json: bool) -> None:
    """Count the jobs in each state.

    Also shows the age of the oldest waiting job, when the next delayed job is due, and the connected workers.
    """

    async def read(context: QueueContext) -> dict[str, Any]:
        snapshot, workers = await context.inspector.snapshot(), await context.inspector.workers()
        now = context.clock.now_ms()
        return {
            **{state: getattr(snapshot, state) for state in STATES},
            "is_paused": snapshot.is_paused,
            "oldest_waiting_age_ms": None if snapshot.oldest_waiting_ms is None else now - snapshot.oldest_waiting_ms,
            "next_due_in_ms": None if snapshot.next_due_ms is None else snapshot.next_due_ms - now,
            "workers": [worker.name for worker in workers],
            "note": workers.note,
        }

    document = with_queue(config_file, read)
    if as_json:
        print_json(document)
        return
    fields: dict[str, object] = {state: document[state] for state in STATES}
    fields |= {
        "oldest waiting": format_duration(document["oldest_waiting_age_ms"]),
        "next delayed in": format_duration(document["next_due_in_ms"]),
        "queue paused": document["is_paused"],
        "workers": document["note"] or describe_workers(document["workers"]),
    }
    print_fields("Queue:", fields)


def describe_workers(names: list[str]) -> str:
    """The number of connected workers, and the instance ids of those that are flowstate-daemons."""
    instances = sorted(found[1] for name in names if (found := DAEMON_NAME_PATTERN.search(name)))
    return f"{len(names)}" + (f" (flowstate-daemon: {', '.join(instances)})" if instances else "")


@queue.command(name="list")
@state_argument
@rows_option(20, most=10_000)
@click.option("--oldest", is_flag=True, help="Oldest first instead of newest first.")
@filter_options
@reveal_option
@json_option
@click.pass_obj
def list_jobs(  # noqa: PLR0913 - one parameter for each option
    config_file: str | None,
    state: State,
    limit: int,
    *,
    criteria: Criteria,
    oldest: bool,
    reveal: bool,
    as_json: bool,
) -> None:
    """List the jobs in STATE.

    STATE is one of wait, active, delayed, paused, completed, failed. The age of a job is counted
    from its end, otherwise from its last start, otherwise from when it was added.
    """

    async def read(context: QueueContext) -> list[JobView]:
        if criteria.is_empty:
            jobs = await context.inspector.jobs(state, 0, limit - 1, newest_first=not oldest)
        else:
            jobs = await find_jobs(context, state, criteria, limit, newest_first=not oldest)
        if reveal:
            await context.audit.record(REVEALED, f"queue list {state}", len(jobs))
        return jobs

    jobs = with_queue(config_file, read)
    if as_json:
        print_json([job_document(job, addresses=reveal) for job in jobs])
        return
    if not jobs:
        click.echo(f"no {STATE_CHOICES[state]} jobs" + ("" if criteria.is_empty else " match"))
        return
    columns = LIST_COLUMNS.get(state, LIST_COLUMNS["wait"])
    rows = [list_row(job, columns, reveal=reveal) for job in jobs]
    print_table(f"{len(rows)} {state}:", columns, rows)


async def find_jobs(
    context: QueueContext, state: State, criteria: Criteria, limit: int, *, newest_first: bool
) -> list[JobView]:
    """Up to `limit` jobs that match, however many must be examined."""
    job_filter = criteria.at(context.clock.now_ms())
    found: dict[str, JobView] = {}  # jobs that move between two calls can be on both pages
    position: int | None = 0
    while position is not None and len(found) < limit:
        page = await context.search.page(
            state, job_filter, position=position, count=limit - len(found), newest_first=newest_first
        )
        found |= {job.id: job for job in page.jobs}
        position = page.next_position
    return list(found.values())


def list_row(job: JobView, columns: Sequence[str], *, reveal: bool = False) -> list[object]:
    """One job in the columns of its state. Pure."""
    cells = {
        "id": job.id,
        "kind": job.name,
        "to": recipient_cell(job, reveal=reveal),
        "priority": job.priority or "",
        "attempts": describe_attempts(job),
        "added (UTC)": format_timestamp(job.added_ms),
        "due (UTC)": format_timestamp(job.due_at),
        "failed (UTC)": format_timestamp(job.finished_at),
        "completed (UTC)": format_timestamp(job.finished_at),
        "reason": job.failed_reason,
    }
    return [cells[column] for column in columns]


def describe_attempts(job: JobView) -> str:
    """The attempts made and allowed, as on the pages. Bull keeps both when a job is retried manually. Pure."""
    if job.attempts_made > job.attempts:
        return f"{job.attempts_made} ({job.attempts} allowed, then retried manually)"
    return f"{job.attempts_made} / {job.attempts}"


@queue.command()
@click.argument("job_id")
@click.option(
    "--reveal", is_flag=True, help="Show codes, tokens and addresses unmasked; this is recorded in the audit log."
)
@json_option
@click.pass_obj
def show(config_file: str | None, job_id: str, *, reveal: bool, as_json: bool) -> None:
    """Show everything about one job; codes and addresses are masked."""

    async def read(context: QueueContext) -> tuple[JobView | None, list[str]]:
        job = await context.inspector.job(job_id)
        if reveal and job is not None:
            await context.audit.record("job revealed", job_id, 1)
        return job, await context.inspector.logs(job_id)

    job, log_lines = with_queue(config_file, read)
    if job is None:
        raise JobNotFoundError(f"there is no job {job_id!r}: it was removed, or finished and was not kept")
    document = job_document(job, reveal=reveal, addresses=reveal) | {"logs": log_lines}
    if as_json:
        print_json(document)
        return
    fields = {name: format_timestamp(value) if name.endswith("_at") else value for name, value in document.items()}
    fields |= {"timestamp": None, "added_at": format_timestamp(job.added_ms), "delay_ms": job.delay_ms or None}
    fields |= {"attempts": describe_attempts(job), "attempts_made": None}
    fields |= {"logs": "\n".join(log_lines), "log_count": None, "stacktrace": "\n".join(job.stacktrace)}
    print_fields(f"Job {job.id}; times are UTC:", fields)


def job_document(job: JobView, *, reveal: bool = False, addresses: bool = False) -> dict[str, Any]:
    """A job as a JSON document; secrets are masked unless `reveal` is set, and the data's addresses as well."""
    document = job.to_dict(reveal=reveal)
    return document if addresses else document | {"data": mask_addresses(document["data"])}


@queue.command()
@json_option
@click.pass_obj
def pause(config_file: str | None, *, as_json: bool) -> None:
    """Pause processing: workers claim no jobs; active ones finish."""
    print_pause_result(with_queue(config_file, lambda context: context.admin.pause()), as_json=as_json)


@queue.command()
@json_option
@click.pass_obj
def resume(config_file: str | None, *, as_json: bool) -> None:
    """Resume processing after `pause`."""
    print_pause_result(with_queue(config_file, lambda context: context.admin.resume()), as_json=as_json)


def print_pause_result(result: PauseResult, *, as_json: bool) -> None:
    """Print whether the queue is paused now."""
    if as_json:
        print_json(result)
    else:
        state = "paused" if result.is_paused else "running"
        click.echo(f"the queue is {state}" + ("" if result.changed else ", as before"))


@queue.command()
@rows_option(50, most=10_000)
@json_option
@click.pass_obj
def audit(config_file: str | None, limit: int, *, as_json: bool) -> None:
    """List what operators did to the queue."""
    actions = with_queue(config_file, lambda context: context.audit.newest(limit))
    if as_json:
        print_json(actions)
        return
    rows = [(format_timestamp(one.at), one.actor, one.action, one.count, one.target) for one in actions]
    print_table(f"actions: {len(rows)}", ("when (UTC)", "who", "action", "count", "what"), rows)


@queue.command()
@json_option
@click.pass_obj
def failures(config_file: str | None, *, as_json: bool) -> None:
    """Group the failed jobs by reason, the largest group first."""
    groups = with_queue(config_file, lambda context: context.failures.groups(budget_s=FAILURES_BUDGET_S))
    if as_json:
        print_json(groups)
        return
    if not groups.groups:
        click.echo("no failed jobs")
        return
    columns = ("jobs", "kinds", "first (UTC)", "last (UTC)", "reason", "newest ids")
    print_table(failures_title(groups), columns, [failures_row(group) for group in groups.groups])
    pattern = groups.groups[0].pattern.replace("'", "*")
    click.echo(f"\nTo look at the jobs of a group:  flowstate-daemon queue list failed --reason '{sanitise(pattern)}'")


def failures_title(groups: FailureGroups) -> str:
    part = "" if groups.examined >= groups.total else f" (only the newest {groups.examined} were examined)"
    return f"failed jobs: {groups.total} in {len(groups.groups)} groups{part}"


def failures_row(group: FailureGroup) -> tuple[object, ...]:
    """One group. Pure."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in group.kinds.most_common())
    times = format_timestamp(group.oldest_at), format_timestamp(group.newest_at)
    return (group.count, kinds, *times, group.reason, ", ".join(group.job_ids))

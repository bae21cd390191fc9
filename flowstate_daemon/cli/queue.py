"""Commands about the queue: `queue status|list|show|retry|remove|promote|pause|resume|clean`."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from flowstate_daemon.cli.context import QueueContext, with_queue
from flowstate_daemon.cli.output import (
    finite,
    format_duration,
    format_timestamp,
    json_option,
    print_fields,
    print_json,
    print_table,
    progress,
)
from flowstate_daemon.queue.admin import BulkResult, JobNotFoundError, PauseResult
from flowstate_daemon.queue.inspector import JobView
from flowstate_daemon.queue.job import State

STATES = ("wait", "active", "delayed", "paused", "completed", "failed")
DAEMON_CLIENT_PATTERN = re.compile(r":([A-Za-z0-9._-]+)/[0-9a-f]{32}$")
STATE_CHOICES = {state: "waiting" if state == "wait" else state for state in STATES}

state_argument = click.argument("state", type=click.Choice(STATES), metavar="STATE")


@click.group()
def queue() -> None:
    """Inspect and manage the queue."""


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
    instances = sorted(found[1] for name in names if (found := DAEMON_CLIENT_PATTERN.search(name)))
    return f"{len(names)}" + (f" (flowstate-daemon: {', '.join(instances)})" if instances else "")


@queue.command(name="list")
@state_argument
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    metavar="NUMBER",
    help="At most this many.",
)
@click.option("--oldest", is_flag=True, help="Oldest first instead of newest first.")
@json_option
@click.pass_obj
def list_jobs(config_file: str | None, state: State, limit: int, *, oldest: bool, as_json: bool) -> None:
    """List the jobs in STATE.

    STATE is one of wait, active, delayed, paused, completed, failed.
    """
    jobs = with_queue(config_file, lambda context: context.inspector.jobs(state, 0, limit - 1, newest_first=not oldest))
    if as_json:
        print_json([job_document(job) for job in jobs])
        return
    if not jobs:
        click.echo(f"no {STATE_CHOICES[state]} jobs")
        return
    last = ("due (UTC)", "due_at") if state == "delayed" else ("reason", "failed_reason")
    rows = [
        (
            job.id,
            job.name,
            job.priority or "",
            job.attempts_made,
            format_timestamp(job.added_ms),
            detail_cell(job, last[1]),
        )
        for job in jobs
    ]
    print_table(f"{len(rows)} {state}:", ("id", "kind", "priority", "attempts", "added (UTC)", last[0]), rows)


def detail_cell(job: JobView, name: str) -> str | None:
    """The last column: when the job is due, or why it failed."""
    return format_timestamp(job.due_at) if name == "due_at" else job.failed_reason


@queue.command()
@click.argument("job_id")
@click.option("--reveal", is_flag=True, help="Show one-time codes and tokens unmasked.")
@json_option
@click.pass_obj
def show(config_file: str | None, job_id: str, *, reveal: bool, as_json: bool) -> None:
    """Show everything about one job; codes are masked."""

    async def read(context: QueueContext) -> tuple[JobView | None, list[str]]:
        return await context.inspector.job(job_id), await context.inspector.logs(job_id)

    job, log_lines = with_queue(config_file, read)
    if job is None:
        raise JobNotFoundError(f"there is no job {job_id!r}: it was removed, or finished and was not kept")
    document = job_document(job, reveal=reveal) | {"logs": log_lines}
    if as_json:
        print_json(document)
        return
    fields = {name: format_timestamp(value) if name.endswith("_at") else value for name, value in document.items()}
    fields |= {"timestamp": None, "added_at": format_timestamp(job.added_ms), "delay_ms": job.delay_ms or None}
    fields |= {"logs": "\n".join(log_lines), "log_count": None, "stacktrace": "\n".join(job.stacktrace)}
    print_fields(f"Job {job.id}; times are UTC:", fields)


def job_document(job: JobView, *, reveal: bool = False) -> dict[str, Any]:
    """A job as a JSON document; secrets are masked unless `reveal` is set."""
    return job.to_dict(reveal=reveal)


@queue.command()
@click.argument("job_id", required=False)
@click.option("--all", "everything", is_flag=True, help="All failed jobs except parked ones, oldest first.")
@click.option("--maybe-sent", is_flag=True, help="With --all: also parked jobs, whose emails may then arrive twice.")
@click.option("--limit", type=click.IntRange(1), metavar="NUMBER", help="With --all: at most this many.")
@click.option("--yes", is_flag=True, help="With --all: do not ask on a terminal.")
@json_option
@click.pass_obj
def retry(  # noqa: PLR0913 - one parameter for each option
    config_file: str | None,
    job_id: str | None,
    limit: int | None,
    *,
    everything: bool,
    maybe_sent: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Retry a failed job, or all of them.

    --all leaves out parked jobs: their emails may have been sent already.
    """
    if (job_id is None) is not everything or (maybe_sent and not everything):
        raise click.UsageError("give one JOB_ID, or --all; --maybe-sent needs --all")

    async def work(context: QueueContext) -> BulkResult:
        if job_id is not None:
            await context.admin.retry(job_id)
            return BulkResult(1, 0)
        total = (await context.inspector.counts()).failed
        if not yes and sys.stdin.isatty():
            also = ", including those that may have been sent" if maybe_sent else ""
            click.confirm(f"Retry up to {min(limit or total, total)} failed jobs{also}?", abort=True, err=True)
        with progress("retrying", limit or total) as done:
            return await context.admin.retry_all(limit, done, maybe_sent=maybe_sent)

    result = with_queue(config_file, work)
    if as_json:
        print_json({"retried": result.done, "maybe_sent": result.maybe_sent})
        return
    print_count("retried", result.done, as_json=False)
    if result.maybe_sent:
        click.echo(
            f"left out: {result.maybe_sent}, because their emails may have been sent; look them up at the provider, "
            "then use queue retry JOB_ID or queue remove JOB_ID"
        )


@queue.command()
@click.argument("job_id")
@json_option
@click.pass_obj
def remove(config_file: str | None, job_id: str, *, as_json: bool) -> None:
    """Delete one job in any state; refused while it is active."""
    with_queue(config_file, lambda context: context.admin.remove(job_id))
    print_count("removed", 1, as_json=as_json)


@queue.command()
@click.argument("job_id", required=False)
@click.option("--all", "everything", is_flag=True, help="Every delayed job.")
@json_option
@click.pass_obj
def promote(config_file: str | None, job_id: str | None, *, everything: bool, as_json: bool) -> None:
    """Make a delayed job, or all of them, due now."""
    if (job_id is None) is not everything:
        raise click.UsageError("give one JOB_ID, or --all")

    async def work(context: QueueContext) -> int:
        if job_id is not None:
            await context.admin.promote(job_id)
            return 1
        with progress("promoting", (await context.inspector.counts()).delayed) as done:
            return (await context.admin.promote_all(done)).done

    print_count("promoted", with_queue(config_file, work), as_json=as_json)


@queue.command()
@json_option
@click.pass_obj
def pause(config_file: str | None, *, as_json: bool) -> None:
    """Pause processing: workers claim no more jobs; active jobs finish."""
    print_pause_result(with_queue(config_file, lambda context: context.admin.pause()), as_json=as_json)


@queue.command()
@json_option
@click.pass_obj
def resume(config_file: str | None, *, as_json: bool) -> None:
    """Resume processing after `pause`."""
    print_pause_result(with_queue(config_file, lambda context: context.admin.resume()), as_json=as_json)


@queue.command()
@state_argument
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(0),
    callback=finite,
    default=0,
    metavar="SECONDS",
    help="Only jobs that are older than this.",
)
@click.option("--limit", type=click.IntRange(1), metavar="NUMBER", help="At most this many.")
@json_option
@click.pass_obj
def clean(config_file: str | None, state: State, grace_s: float, limit: int | None, *, as_json: bool) -> None:
    """Delete the jobs in STATE.

    STATE is one of wait, active, delayed, paused, completed, failed. Deletes all jobs in that state that --grace and
    --limit allow. Jobs that a worker holds are never deleted.
    """

    async def work(context: QueueContext) -> int:
        total = limit or getattr(await context.inspector.counts(), state)
        with progress("cleaning", total) as done:
            return (await context.admin.clean(state, int(grace_s * 1000), limit, done)).done

    print_count("removed", with_queue(config_file, work), as_json=as_json)


def print_count(what: str, count: int, *, as_json: bool) -> None:
    """Print how many jobs were changed."""
    if as_json:
        print_json({what: count})
    else:
        click.echo(f"{what}: {count}")


def print_pause_result(result: PauseResult, *, as_json: bool) -> None:
    """Print whether the queue is paused now."""
    if as_json:
        print_json(result)
    else:
        state = "paused" if result.is_paused else "running"
        click.echo(f"the queue is {state}" + ("" if result.changed else ", as before"))


@queue.command()
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default="50", metavar="NUMBER")
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

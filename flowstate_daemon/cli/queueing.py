"""Commands about the queue: `enqueue` and `queue status|list|show|retry|remove|promote|pause|resume|clean`."""

from __future__ import annotations

import json
from typing import Any

import click
import msgspec

from flowstate_daemon.cli.desk import Desk, at_desk
from flowstate_daemon.cli.show import json_option, moment, print_facts, print_json, print_table, progress, span
from flowstate_daemon.intake import MailOrder
from flowstate_daemon.mail.catalogue import KINDS
from flowstate_daemon.queue.job import State
from flowstate_daemon.queue.operator import NotThere, Switched
from flowstate_daemon.queue.view import JobView
from flowstate_daemon.queue.watch import Watch

STATES = ("wait", "active", "delayed", "paused", "completed", "failed")


@click.command(epilog='Example: flowstate-daemon enqueue welcome --to ada@example.org --context \'{"name": "Ada"}\'')
@click.argument("kind", type=click.Choice(sorted(KINDS)), metavar="TYPE")
@click.option("--to", "to", required=True, metavar="ADDRESS", help="Who gets the mail.")
@click.option(
    "--context", "context", default="{}", metavar="JSON", help="The mail's fields as a JSON object; @FILE reads a file."
)
@click.option("--priority", type=int, help="1 is most urgent; default: the kind's own.")
@click.option("--delay", "delay_ms", type=int, default=0, metavar="MS", help="Milliseconds from now.")
@click.option("--job-id", help="An id of your own: a second job with the same id is not added.")
@click.option("--wait", "wait_s", type=float, metavar="SECONDS", help="Wait until the mail is sent or has failed.")
@json_option
@click.pass_obj
def enqueue(  # noqa: PLR0913 - one parameter an option
    config_file: str | None,
    kind: str,
    to: str,
    context: str,
    priority: int | None,
    delay_ms: int,
    job_id: str | None,
    wait_s: float | None,
    *,
    as_json: bool,
) -> int:
    """Put one mail of TYPE into the queue."""
    order = MailOrder(kind, to, read_context(context), priority, delay_ms, job_id)
    return at_desk(config_file, lambda desk: _enqueue(desk, order, wait_s, as_json=as_json))


async def _enqueue(desk: Desk, order: MailOrder, wait_s: float | None, *, as_json: bool) -> int:
    if wait_s is None:
        added = await desk.intake.accept(order)
        document: dict[str, Any] = {"id": added.id, "outcome": added.outcome}
    else:
        # Listening begins before the job is added: a job that removes itself tells its end only once.
        async with Watch(desk.connection, desk.keys) as watch:
            added = await desk.intake.accept(order)
            document = {"id": added.id, "outcome": added.outcome, **await _end_of(watch, added.id, wait_s)}
    if as_json:
        print_json(document)
    else:
        print_facts(f"{order.kind} to {order.to}", document)
    return 1 if document.get("state") in {"failed", "pending"} else 0


async def _end_of(watch: Watch, job_id: str, wait_s: float) -> dict[str, Any]:
    try:
        end = await watch.finished(job_id, wait_s)
    except TimeoutError:
        return {"state": "pending", "reason": f"not ended within {wait_s:g} s; see: queue show {job_id}"}
    result = None if end.returnvalue is None else msgspec.json.decode(end.returnvalue)
    return {"state": end.state, "result": result, "reason": end.reason}


def read_context(text: str) -> dict[str, Any]:
    """The JSON object behind `--context`. Raises UsageError."""
    if text.startswith("@"):
        try:
            with click.open_file(text[1:], encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise click.UsageError(f"--context: {error}") from error
    try:
        context = json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"--context is not JSON: {error}") from error
    if not isinstance(context, dict):
        raise click.UsageError('--context must be a JSON object, such as \'{"name": "Ada"}\'')
    return context


@click.group()
def queue() -> None:
    """Look at the queue and put it right."""


@queue.command()
@json_option
@click.pass_obj
def status(config_file: str | None, *, as_json: bool) -> None:
    """How many jobs are in each state, how old the oldest waiting one is, and who works."""

    async def look(desk: Desk) -> dict[str, Any]:
        seen, workers = await desk.inspector.snapshot(), await desk.inspector.workers()
        now = desk.clock.now_ms()
        return {
            **{state: getattr(seen, state) for state in STATES},
            "is_paused": seen.is_paused,
            "oldest_waiting_age_ms": None if seen.oldest_waiting_ms is None else now - seen.oldest_waiting_ms,
            "next_due_in_ms": None if seen.next_due_ms is None else seen.next_due_ms - now,
            "workers": [worker.name for worker in workers],
            "note": workers.note,
        }

    document = at_desk(config_file, look)
    if as_json:
        print_json(document)
        return
    ages = {"oldest waiting": document["oldest_waiting_age_ms"], "next delayed in": document["next_due_in_ms"]}
    rows = {state: document[state] for state in STATES}
    rows |= {name: span(value) for name, value in ages.items() if value is not None}
    rows |= {"is paused": "yes" if document["is_paused"] else "no"}
    print_facts("queue", rows | {"workers": document["note"] or len(document["workers"])})


@queue.command(name="list")
@click.argument("state", type=click.Choice(STATES))
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--oldest", is_flag=True, help="Oldest first; default is newest first.")
@json_option
@click.pass_obj
def list_jobs(config_file: str | None, state: State, limit: int, *, oldest: bool, as_json: bool) -> None:
    """The jobs in STATE."""
    jobs = at_desk(config_file, lambda desk: desk.inspector.jobs(state, 0, limit - 1, newest_first=not oldest))
    if as_json:
        print_json([document_of(job) for job in jobs])
        return
    rows = [
        (job.id, job.name, job.priority or "", job.attempts_made, moment(job.timestamp), job.failed_reason)
        for job in jobs
    ]
    print_table(f"{state}: {len(rows)} shown", ("id", "type", "priority", "tries", "added (UTC)", "reason"), rows)


@queue.command()
@click.argument("job_id")
@click.option("--reveal", is_flag=True, help="Show one-time codes and tokens, too.")
@json_option
@click.pass_obj
def show(config_file: str | None, job_id: str, *, reveal: bool, as_json: bool) -> None:
    """Everything known of one job; codes are masked."""

    async def look(desk: Desk) -> tuple[JobView | None, list[str]]:
        return await desk.inspector.job(job_id), await desk.inspector.logs(job_id)

    job, rows = at_desk(config_file, look)
    if job is None:
        raise NotThere(f"there is no job {job_id!r}: it was removed, or removed itself when it ended")
    document = document_of(job, reveal=reveal) | {"logs": rows}
    if as_json:
        print_json(document)
        return
    document |= {name: moment(document[name]) for name in document if name.endswith("_at")}
    document |= {"added_at": moment(job.timestamp), "logs": "\n".join(rows), "stacktrace": "\n".join(job.stacktrace)}
    print_facts(f"job {job.id}", {name: value for name, value in document.items() if value not in (None, "", {}, ())})


def document_of(job: JobView, *, reveal: bool = False) -> dict[str, Any]:
    """A job as a JSON document; what is secret in its data is masked unless revealed."""
    document: dict[str, Any] = msgspec.to_builtins(job)
    return document | {"data": job.data if reveal else job.redacted_data()}


@queue.command()
@click.argument("job_id", required=False)
@click.option("--all", "everything", is_flag=True, help="Every failed job, oldest first.")
@click.option("--limit", type=click.IntRange(1), help="With --all: no more than this many.")
@json_option
@click.pass_obj
def retry(config_file: str | None, job_id: str | None, limit: int | None, *, everything: bool, as_json: bool) -> None:
    """Give a failed job, or all of them, another run."""
    if (job_id is None) is not everything:
        raise click.UsageError("give one JOB_ID, or --all")

    async def work(desk: Desk) -> int:
        if job_id is not None:
            await desk.operator.retry(job_id)
            return 1
        total = limit or (await desk.inspector.counts()).failed
        with progress("retrying", total) as done:
            return (await desk.operator.retry_all(limit, done)).done

    say_done("retried", at_desk(config_file, work), as_json=as_json)


@queue.command()
@click.argument("job_id")
@json_option
@click.pass_obj
def remove(config_file: str | None, job_id: str, *, as_json: bool) -> None:
    """Delete one job, wherever it is; refused while a worker is at it."""
    at_desk(config_file, lambda desk: desk.operator.remove(job_id))
    say_done("removed", 1, as_json=as_json)


@queue.command()
@click.argument("job_id", required=False)
@click.option("--all", "everything", is_flag=True, help="Every delayed job.")
@json_option
@click.pass_obj
def promote(config_file: str | None, job_id: str | None, *, everything: bool, as_json: bool) -> None:
    """Make a delayed job, or all of them, due now."""
    if (job_id is None) is not everything:
        raise click.UsageError("give one JOB_ID, or --all")

    async def work(desk: Desk) -> int:
        if job_id is not None:
            await desk.operator.promote(job_id)
            return 1
        with progress("promoting", (await desk.inspector.counts()).delayed) as done:
            return (await desk.operator.promote_all(done)).done

    say_done("promoted", at_desk(config_file, work), as_json=as_json)


@queue.command()
@json_option
@click.pass_obj
def pause(config_file: str | None, *, as_json: bool) -> None:
    """Let no worker take a job any more; running ones finish."""
    say_switched(at_desk(config_file, lambda desk: desk.operator.pause()), as_json=as_json)


@queue.command()
@json_option
@click.pass_obj
def resume(config_file: str | None, *, as_json: bool) -> None:
    """Let workers take jobs again."""
    say_switched(at_desk(config_file, lambda desk: desk.operator.resume()), as_json=as_json)


@queue.command()
@click.argument("state", type=click.Choice(STATES))
@click.option("--grace", "grace_s", type=click.FloatRange(0), default=0, help="Only jobs older than this, in seconds.")
@click.option("--limit", type=click.IntRange(1), help="No more than this many.")
@json_option
@click.pass_obj
def clean(config_file: str | None, state: State, grace_s: float, limit: int | None, *, as_json: bool) -> None:
    """Delete the jobs in STATE; never those that a worker is at."""

    async def work(desk: Desk) -> int:
        total = limit or getattr(await desk.inspector.counts(), state)
        with progress("cleaning", total) as done:
            return (await desk.operator.clean(state, int(grace_s * 1000), limit, done)).done

    say_done("removed", at_desk(config_file, work), as_json=as_json)


def say_done(what: str, count: int, *, as_json: bool) -> None:
    """Tell how many jobs something was done to."""
    if as_json:
        print_json({what: count})
    else:
        click.echo(f"{what}: {count}")


def say_switched(switched: Switched, *, as_json: bool) -> None:
    """Tell how the queue stands now."""
    if as_json:
        print_json(switched)
    else:
        state = "paused" if switched.is_paused else "running"
        click.echo(f"the queue is {state}" + ("" if switched.changed else ", as it was before"))

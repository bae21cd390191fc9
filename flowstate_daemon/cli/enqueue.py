"""The command `enqueue`: adds one email to the queue, and waits for its result on request."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from textwrap import fill
from typing import Any

import click
import msgspec

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.cli.context import QueueContext, load_config, with_queue
from flowstate_daemon.cli.durations import Duration
from flowstate_daemon.cli.output import json_option, print_fields, print_json
from flowstate_daemon.config.loader import Config
from flowstate_daemon.daemon.builders import build_tracing
from flowstate_daemon.mail.catalog import Catalog, load_catalog
from flowstate_daemon.mail.kind_spec import MAX_PRIORITY
from flowstate_daemon.mail.kinds import KINDS, Kind
from flowstate_daemon.mail.lifetimes import SCHEDULED_KINDS
from flowstate_daemon.mail_producer import MAX_DELAY_MS, ORIGIN, NewMail
from flowstate_daemon.queue.events import FinishedJob, JobWaiter
from flowstate_daemon.worker.results import unsent

MAX_FILE_LENGTH = 1_048_576  # characters; the queue's limit for a job's data, unless it is changed


def kind_fields_help() -> str:
    """The fields of `--context`, one line per kind; `*` marks required fields."""
    lines = [f"{name}: {', '.join(json_field_names(kind))}" for name, kind in sorted(KINDS.items())]
    return "\n".join(fill(line, 78, initial_indent="  ", subsequent_indent="    ") for line in lines)


def json_field_names(kind: Kind) -> list[str]:
    """The names of a kind's fields in JSON."""
    return [f"{field.encode_name}{'*' if field.required else ''}" for field in msgspec.structs.fields(kind.context)]


@click.command(
    epilog=f"""\b
KIND and the fields of its --context; * is required. mail.kinds_dir may add others:
{kind_fields_help()}

\b
Example:
  flowstate-daemon enqueue welcome --to ada@example.org --context '{{"name": "Ada"}}' --wait 10s"""
)
@click.argument("kind", metavar="KIND")
@click.option("--to", "to", required=True, metavar="ADDRESS", help="The recipient.")
@click.option(
    "--context",
    "context",
    default="{}",
    metavar="JSON",
    help="The email's fields as a JSON object; @FILE reads a file.",
)
@click.option(
    "--priority",
    type=click.IntRange(1, MAX_PRIORITY),
    metavar="NUMBER",
    help="1 is the most urgent; default: the priority of the kind.",
)
@click.option(
    "--delay",
    "delay_s",
    type=Duration(plain_unit="ms", most_s=MAX_DELAY_MS / 1000),
    default=0.0,
    metavar="DURATION",
    help="Send it this long from now: 2s, 1h30m; a plain number counts milliseconds.",
)
@click.option("--locale", metavar="LANGUAGE", help="Default: the language of the user.")
@click.option("--job-id", metavar="ID", help="Your own job id; a second job with the same id is not added.")
@click.option(
    "--wait",
    "wait_s",
    type=Duration(),
    metavar="DURATION",
    help="Wait for the outcome. Exit code 0 if the email was sent, otherwise 1: skipped, expired, failed or pending.",
)
@json_option
@click.pass_obj
def enqueue(  # noqa: PLR0913 - one parameter per option
    config_file: str | None,
    kind: str,
    to: str,
    context: str,
    priority: int | None,
    delay_s: float,
    *,
    locale: str | None,
    job_id: str | None,
    wait_s: float | None,
    as_json: bool,
) -> int:
    """Add one email of KIND to the queue."""
    config = load_config(config_file)
    catalog = load_catalog(config.mail.kinds_dir, config.mail.default_locale)
    check_choice("KIND", kind, catalog.kinds)
    check_choice("--locale", locale, catalog.locales)
    trace = os.environ.get("TRACEPARENT")
    origin = ORIGIN if kind in SCHEDULED_KINDS else None  # else a daemon would take it for the backend's
    mail = NewMail(kind, to, read_context(context), priority, round(delay_s * 1000), job_id, locale, origin, trace)

    async def work(context: QueueContext) -> int:
        async with traced(config, context):
            return await _enqueue(context, catalog, mail, wait_s, as_json=as_json)

    return with_queue(config_file, work)


@asynccontextmanager
async def traced(config: Config, context: QueueContext) -> AsyncIterator[None]:
    """Trace what is enqueued, if that is enabled, and export it before the command ends."""
    tracing = build_tracing(config, Metrics(), context.clock)
    if tracing is None:
        yield
        return
    context.producer.tracing = tracing
    tracing.open()
    try:
        yield
    finally:
        await tracing.close()


def check_choice(name: str, value: str | None, choices: Iterable[str]) -> None:
    """Refuse a value that is none of those of the configuration. Raises UsageError."""
    if value is not None and value not in choices:
        raise click.UsageError(f"Invalid value for {name}: {value!r} is not one of {', '.join(sorted(choices))}.")


async def _enqueue(
    context: QueueContext, catalog: Catalog, mail: NewMail, wait_s: float | None, *, as_json: bool
) -> int:
    context.producer.kinds = catalog.kinds
    if wait_s is None:
        added = await context.producer.enqueue(mail)
        document: dict[str, Any] = {"id": added.id, "outcome": added.outcome}
    else:
        # Subscribe before the job is added: a job that is removed on completion publishes its result only once.
        async with JobWaiter(context.connection, context.keys) as waiter:
            added = await context.producer.enqueue(mail)
            document = {
                "id": added.id,
                "outcome": added.outcome,
                **await _wait_for_result(context, waiter, added.id, wait_s),
            }
    if as_json:
        print_json(document)
    else:
        print_fields(f"Enqueued {mail.kind} for {mail.to}:", document)
    return 0 if document.get("sent", True) else 1


async def _wait_for_result(context: QueueContext, waiter: JobWaiter, job_id: str, wait_s: float) -> dict[str, Any]:
    try:
        return describe_end(await waiter.wait(job_id, wait_s))
    except TimeoutError:
        reason = f"no outcome after {wait_s:g} s; see: flowstate-daemon queue show {job_id}"
        if await context.inspector.is_paused():
            reason += "; the queue is paused: flowstate-daemon queue resume"
        return {"sent": False, "state": "pending", "reason": reason}


def describe_end(job: FinishedJob) -> dict[str, Any]:
    """Whether the email of a finished job was sent, and if not, why. Pure.

    A completed job whose result names no reason was sent: other workers return whatever they like.
    """
    outcome = unsent(job.value)
    reason = outcome[1] if outcome else job.reason
    if job.state == "gone":
        reason = "the job was removed, or it has finished and was not kept; see: flowstate-daemon explain ADDRESS"
    sent = job.state == "completed" and not reason
    return {"sent": sent, "state": job.state, "result": job.value, "reason": None if sent else reason or job.state}


def read_context(text: str) -> dict[str, Any]:
    """The JSON object that `--context` names. Raises UsageError."""
    if text.startswith("@"):
        try:
            with click.open_file(text[1:], encoding="utf-8") as file:
                text = file.read(MAX_FILE_LENGTH + 1)  # a device such as /dev/zero has no end
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--context: {error}") from error
        if len(text) > MAX_FILE_LENGTH:
            raise click.UsageError(f"--context: the file is longer than {MAX_FILE_LENGTH} characters, the maximum")
    try:
        context = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also numbers with thousands of digits
        raise click.UsageError(f"--context is not JSON: {error}") from error
    if not isinstance(context, dict):
        raise click.UsageError('--context must be a JSON object, such as \'{"name": "Ada"}\'')
    return context

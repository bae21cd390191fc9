"""Options that say which jobs a command is about: ids, `--all`, or a filter; and the preview before it changes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.cli.context import QueueContext
from flowstate_daemon.cli.durations import Duration
from flowstate_daemon.cli.output import format_timestamp, print_json, print_table
from flowstate_daemon.queue.filters import JobFilter
from flowstate_daemon.queue.inspector import JobView
from flowstate_daemon.queue.job import State
from flowstate_daemon.queue.search import COUNT_BUDGET_S, MatchCount

Command = TypeVar("Command", bound=Callable[..., Any])

REVEALED = "addresses revealed"  # the action in the audit log, as on the pages
SHOWN_JOBS = 10
MAX_TEXT_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Criteria:
    """What the options of a filter said; ages are seconds."""

    kinds: tuple[str, ...] = ()
    recipient: str = ""
    reason: str = ""
    newer_than_s: float | None = None
    older_than_s: float | None = None

    @property
    def is_empty(self) -> bool:
        return self == Criteria()

    def at(self, now_ms: int) -> JobFilter:
        """The filter at this time."""
        return JobFilter(
            kinds=self.kinds,
            recipient=self.recipient,
            reason=self.reason,
            after=None if self.newer_than_s is None else now_ms - round(self.newer_than_s * 1000),
            before=None if self.older_than_s is None else now_ms - round(self.older_than_s * 1000),
        )


def filter_options(command: Command) -> Command:
    """Add the options of a filter; the command gets them as one argument `criteria`."""

    @wraps(command)
    def with_criteria(*args: Any, **options: Any) -> Any:
        names = ("recipient", "reason", "newer_than_s", "older_than_s")
        criteria = Criteria(options.pop("kinds"), **{name: options.pop(name) for name in names})
        return command(*args, criteria=criteria, **options)

    age = Duration()
    for add in (
        click.option("--older-than", "older_than_s", type=age, metavar="DURATION", help="Older than this: 2s, 7d."),
        click.option("--newer-than", "newer_than_s", type=age, metavar="DURATION", help="Not older than this."),
        click.option(
            "--reason",
            default="",
            callback=_check_text,
            metavar="TEXT",
            help="The reason of the failure contains TEXT; * stands for any text.",
        ),
        click.option(
            "--to", "recipient", default="", callback=_check_text, metavar="TEXT", help="The address contains TEXT."
        ),
        click.option("--kind", "kinds", multiple=True, metavar="KIND", help="This kind of email; can be repeated."),
    ):
        with_criteria = add(with_criteria)
    return with_criteria  # type: ignore[return-value]  # a wrapper with the same options and more


def _check_text(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if len(value) > MAX_TEXT_LENGTH:
        raise click.BadParameter(f"must have at most {MAX_TEXT_LENGTH} characters")
    return value.strip()


def check_selection(job_ids: Sequence[str], criteria: Criteria, *, everything: bool = False) -> None:
    """A command is about ids, or about what matches; never about all jobs by accident. Raises UsageError."""
    if job_ids and (everything or not criteria.is_empty):
        raise click.UsageError("give one or more JOB_IDs, or --all, or a filter such as --kind; not both")
    if not job_ids and not everything and criteria.is_empty:
        raise click.UsageError("give one JOB_ID or more, or --all, or a filter such as --kind otp --older-than 7d")


def is_interactive() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()


def confirm(question: str, *, yes: bool, destroys: bool = False) -> None:
    """Ask on a terminal. Without one, what destroys needs `--yes`. Raises Abort and UsageError."""
    if yes:
        return
    if is_interactive():
        click.confirm(question, abort=True, err=True)
    elif destroys:
        raise click.UsageError(f"{question.rstrip('?')}: there is no terminal to confirm this on; add --yes")


def format_count(count: MatchCount) -> str:
    """How many jobs match, "about" when it was estimated."""
    return str(count.matching) if count.is_exact else f"about {count.estimate}"


async def read_preview(
    context: QueueContext, job_filters: Mapping[State, JobFilter]
) -> dict[State, tuple[MatchCount, tuple[JobView, ...]]]:
    """For each state how many jobs match, and the first of them that a command would change."""
    return {
        state: (
            await context.search.count(state, job_filter, budget_s=COUNT_BUDGET_S / len(job_filters)),
            (await context.search.page(state, job_filter, count=SHOWN_JOBS, newest_first=False)).jobs,
        )
        for state, job_filter in job_filters.items()
    }


def print_preview(
    verb: str, preview: Mapping[State, tuple[MatchCount, tuple[JobView, ...]]], limit: int | None, *, as_json: bool
) -> None:
    """Print what a command would change, without changing it."""
    total = sum(count.estimate for count, _ in preview.values())
    is_exact = all(count.is_exact for count, _ in preview.values())
    would = min(total, limit or total)
    if as_json:
        states = {state: count.estimate for state, (count, _) in preview.items()}
        ids = [job.id for _, jobs in preview.values() for job in jobs]
        print_json({f"would_{verb}": would, "is_exact": is_exact, "states": states, "first": ids})
        return
    rows = [
        (job.id, job.state, job.name, recipient_cell(job), format_timestamp(job.added_ms))
        for _, jobs in preview.values()
        for job in jobs
    ]
    about = "" if is_exact else "about "
    title = f"would {verb}: {about}{would}; nothing was changed"
    if not rows:
        click.echo(title)
        return
    more = f"; the oldest {len(rows)} of them" if total > len(rows) else ""
    print_table(f"{title}{more}:", ("id", "state", "kind", "to", "added (UTC)"), rows)


def recipient_cell(job: JobView, *, reveal: bool = False) -> str:
    """The address that a job is for, masked unless `reveal`; empty when its data contains none."""
    return job.recipient if reveal or not job.recipient else mask_address(job.recipient)


def shown_address(address: str, *, reveal: bool) -> str:
    """An address as a list shows it; the pseudonym of a forgotten person is none."""
    return address if reveal or "@" not in address else mask_address(address)

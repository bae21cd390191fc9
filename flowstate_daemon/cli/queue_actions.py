"""Commands that change jobs: `queue retry|remove|promote|clean`; on ids, or on all that match a filter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import click

from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.cli.context import QueueContext, with_queue
from flowstate_daemon.cli.durations import Duration
from flowstate_daemon.cli.filters import (
    Criteria,
    check_selection,
    confirm,
    filter_options,
    format_count,
    print_preview,
    read_preview,
)
from flowstate_daemon.cli.output import json_option, print_json, progress
from flowstate_daemon.operations.jobs import STATES_OF_ACTION, Action, IdResult, JobActions
from flowstate_daemon.queue.admin import BulkResult, Progress
from flowstate_daemon.queue.filters import JobFilter
from flowstate_daemon.queue.job import STATES, State
from flowstate_daemon.queue.search import COUNT_BUDGET_S

Command = TypeVar("Command", bound=Callable[..., Any])
Change = Callable[[QueueContext, State, JobFilter, Progress], Awaitable[BulkResult]]

PAST = {"retry": "retried", "remove": "removed", "promote": "promoted"}

ids_argument = click.argument("job_ids", metavar="[JOB_ID]...", nargs=-1)
limit_option = click.option("--limit", type=click.IntRange(1), metavar="NUMBER", help="At most this many.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask; without a terminal, remove and clean need it.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Change nothing; show how many jobs match, and which.")


def mass_options(command: Command) -> Command:
    """The options of every command that changes all jobs that match."""
    return filter_options(dry_run_option(yes_option(json_option(command))))


@click.command()
@ids_argument
@click.option("--all", "everything", is_flag=True, help="All failed jobs except parked ones, oldest first.")
@click.option(
    "--maybe-sent",
    is_flag=True,
    help="With --all or a filter: also parked jobs, whose emails may then arrive twice.",
)
@limit_option
@mass_options
@click.pass_obj
def retry(  # noqa: PLR0913 - one parameter for each option
    config_file: str | None,
    job_ids: tuple[str, ...],
    limit: int | None,
    *,
    criteria: Criteria,
    everything: bool,
    maybe_sent: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Retry failed jobs: one or more, all, or all that match.

    --all and filters leave out parked jobs: their emails may have been sent already. A job that fails again
    while this command runs stays failed.
    """
    if maybe_sent and job_ids:
        raise click.UsageError("--maybe-sent needs --all or a filter; a JOB_ID is retried in any case")
    check_selection(job_ids, criteria, everything=everything)
    if job_ids:
        return change_ids(config_file, "retry", job_ids, dry_run=dry_run, as_json=as_json)

    async def change(context: QueueContext, _: State, job_filter: JobFilter, done: Progress) -> BulkResult:
        return await context.admin.retry_all(limit, done, maybe_sent=maybe_sent, job_filter=job_filter)

    also = ", including those that may have been sent" if maybe_sent else ""
    request = MassChange("retry", ("failed",), criteria, change, limit=limit, suffix=also)
    result = request.run(config_file, dry_run=dry_run, yes=yes, as_json=as_json)
    if result is None:
        return 0
    if as_json:
        print_json({"retried": result.done, "maybe_sent": result.maybe_sent})
        return 0
    click.echo(f"retried: {result.done}")
    if result.maybe_sent:
        click.echo(
            f"left out: {result.maybe_sent}, because their emails may have been sent; look them up at the provider, "
            "then use queue retry JOB_ID or queue remove JOB_ID"
        )
    return 0


@click.command()
@ids_argument
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES_OF_ACTION["remove"]),
    multiple=True,
    metavar="STATE",
    help="With a filter: only jobs in this state; can be repeated.  [default: all but active]",
)
@mass_options
@click.pass_obj
def remove(  # noqa: PLR0913 - one parameter for each option
    config_file: str | None,
    job_ids: tuple[str, ...],
    states: tuple[State, ...],
    *,
    criteria: Criteria,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Delete jobs: one or more, or those that match a filter. Active jobs are never deleted."""
    if states and criteria.is_empty:
        raise click.UsageError("--state needs a filter; to delete all jobs of a state use queue clean STATE")
    check_selection(job_ids, criteria)
    if job_ids and not dry_run:  # a script that names jobs has decided
        confirm(f"Remove {len(job_ids)} jobs?" if len(job_ids) > 1 else f"Remove job {job_ids[0]!r}?", yes=yes)
    if job_ids:
        return change_ids(config_file, "remove", job_ids, dry_run=dry_run, as_json=as_json)

    async def change(context: QueueContext, state: State, job_filter: JobFilter, done: Progress) -> BulkResult:
        return await context.admin.clean(state, 0, progress=done, job_filter=job_filter)

    request = MassChange("remove", states or STATES_OF_ACTION["remove"], criteria, change)
    return request.run_and_print(config_file, dry_run=dry_run, yes=yes, as_json=as_json)


@click.command()
@ids_argument
@click.option("--all", "everything", is_flag=True, help="Every delayed job.")
@mass_options
@click.pass_obj
def promote(  # noqa: PLR0913 - one parameter for each option
    config_file: str | None,
    job_ids: tuple[str, ...],
    *,
    criteria: Criteria,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Make delayed jobs due now: some, all, or all that match."""
    check_selection(job_ids, criteria, everything=everything)
    if job_ids:
        return change_ids(config_file, "promote", job_ids, dry_run=dry_run, as_json=as_json)

    async def change(context: QueueContext, _: State, job_filter: JobFilter, done: Progress) -> BulkResult:
        return await context.admin.promote_all(done, job_filter=job_filter)

    request = MassChange("promote", ("delayed",), criteria, change)
    return request.run_and_print(config_file, dry_run=dry_run, yes=yes, as_json=as_json)


@click.command()
@click.argument("state", type=click.Choice(STATES), metavar="STATE")
@click.option(
    "--grace", "grace_s", type=Duration(), default=0.0, metavar="DURATION", help="Only jobs that are older than this."
)
@limit_option
@mass_options
@click.pass_obj
def clean(  # noqa: PLR0913 - one parameter for each option
    config_file: str | None,
    state: State,
    grace_s: float,
    limit: int | None,
    *,
    criteria: Criteria,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Delete the jobs in STATE.

    STATE is one of wait, active, delayed, paused, completed, failed. Deletes all jobs in that state that --grace,
    --limit and the filters allow. Jobs that a worker holds are never deleted.
    """

    async def change(context: QueueContext, state: State, job_filter: JobFilter, done: Progress) -> BulkResult:
        return await context.admin.clean(state, int(grace_s * 1000), limit, done, job_filter=job_filter)

    previewed = criteria
    if grace_s:
        previewed = replace(criteria, older_than_s=max(grace_s, criteria.older_than_s or 0.0))
    request = MassChange("remove", (state,), criteria, change, limit=limit, previewed=previewed)
    return request.run_and_print(config_file, dry_run=dry_run, yes=yes, as_json=as_json)


class MassChange:
    """A change of all jobs that match: counted, confirmed, then done in pieces with progress."""

    def __init__(  # noqa: PLR0913 - what the commands differ in
        self,
        action: Action,
        states: Sequence[State],
        criteria: Criteria,
        change: Change,
        *,
        limit: int | None = None,
        suffix: str = "",
        previewed: Criteria | None = None,
    ) -> None:
        """`previewed` are the criteria of the preview, where the change itself has more of them."""
        self._action = action
        self._states = states
        self._criteria = criteria
        self._change = change
        self._limit = limit
        self._suffix = suffix
        self._previewed = previewed or criteria

    def run_and_print(self, config_file: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> int:
        """Run, and print how many jobs were changed. Returns the exit code."""
        result = self.run(config_file, dry_run=dry_run, yes=yes, as_json=as_json)
        if result is not None:
            print_count(PAST[self._action], result.done, as_json=as_json)
        return 0

    def run(self, config_file: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> BulkResult | None:
        """The result; None after a dry run, which prints what it found."""

        async def work(context: QueueContext) -> BulkResult | None:
            now = context.clock.now_ms()
            if dry_run:
                previewed = self._previewed.at(now)
                preview = await read_preview(context, dict.fromkeys(self._states, previewed))
                print_preview(self._action, preview, self._limit, as_json=as_json)
                return None
            totals = await self._ask(context, now, yes=yes)
            done = maybe_sent = left = 0
            for state, total in totals.items():
                with progress(PAST[self._action], total) as advance:
                    result = await self._change(context, state, self._criteria.at(now), advance)
                done, left, maybe_sent = done + result.done, left + result.left, maybe_sent + result.maybe_sent
            return BulkResult(done, left, maybe_sent)

        return with_queue(config_file, work)

    async def _ask(self, context: QueueContext, now: int, *, yes: bool) -> dict[State, int]:
        """How many jobs of each state match, after a person has agreed. Raises Abort and UsageError."""
        job_filter = self._previewed.at(now)
        budget_s = COUNT_BUDGET_S / len(self._states)
        counts = {state: await context.search.count(state, job_filter, budget_s=budget_s) for state in self._states}
        states = [state for state, count in counts.items() if count.estimate] or list(self._states)
        total = sum(count.estimate for count in counts.values())
        number = format_count(counts[states[0]]) if len(states) == 1 else str(total)
        if self._limit is not None and self._limit < total:
            number = str(self._limit)
        which = "" if job_filter.matches_all else f" ({job_filter.describe()})"
        jobs = f"{' and '.join(states)} job{'' if number == '1' else 's'}{which}{self._suffix}"
        upto = "up to " if self._action == "retry" else ""
        question = f"{self._action.capitalize()} {upto}{number} {jobs}?"
        if total or self._action == "remove":
            confirm(question, yes=yes, destroys=self._action == "remove")
        return {state: min(count.estimate, self._limit or count.estimate) for state, count in counts.items()}


def change_ids(config_file: str | None, action: Action, job_ids: Sequence[str], *, dry_run: bool, as_json: bool) -> int:
    """Change single jobs. Returns 1 if any was not changed; one alone raises its error instead."""
    unique = list(dict.fromkeys(job_ids))

    async def work(context: QueueContext) -> list[IdResult]:
        if dry_run:
            return [await _check_id(context, action, job_id) for job_id in unique]
        return await JobActions(context.search, context.clock).apply(context.admin, action, unique)

    results = with_queue(config_file, work)
    errors = [result for result in results if result.error]
    if len(results) == 1 and errors:
        raise FlowstateError(errors[0].error)
    name = f"would_{action}" if dry_run else PAST[action]
    done = len(results) - len(errors)
    if as_json:
        reasons = [{"id": error.job_id, "reason": error.error} for error in errors]
        print_json({name: done, **({"errors": reasons} if reasons else {})})
    else:
        click.echo(f"{name.replace('_', ' ')}: {done}")
        for error in errors:
            click.echo(f"  - {error.error}", err=True)
    return 1 if errors else 0


async def _check_id(context: QueueContext, action: Action, job_id: str) -> IdResult:
    """What a change of this job would meet now."""
    state = await context.inspector.state(job_id)
    if state is None:
        return IdResult(job_id, f"there is no job {job_id!r}: it was removed, or finished and was not kept")
    allowed = STATES_OF_ACTION[action]
    wrong = f"job {job_id!r} is {state}; {action} needs {' or '.join(allowed)}"
    return IdResult(job_id, "" if state in allowed else wrong)


def print_count(what: str, count: int, *, as_json: bool) -> None:
    """Print how many jobs were changed."""
    if as_json:
        print_json({what: count})
    else:
        click.echo(f"{what}: {count}")

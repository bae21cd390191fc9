"""Plans scheduled emails in Postgres: the users' cohorts, past runs, and the rows of an occurrence.

A cohort is a time zone, and the hour for morning emails that some people have chosen there. An occurrence is one kind
on one local date for one cohort. The planner and manual runs use it. One statement inserts the rows of all recipients;
no user is loaded into memory, and any number of daemons may plan the same occurrence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Literal, TypeAlias

from flowstate_daemon.base.text import storable
from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.ledger import MAX_WORD_LENGTH
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.mail.preferences import NON_ZONES

Source: TypeAlias = Literal["clock", "manual"]

MANUAL_RUN = "schedule run "  # an action of an operator; the kind follows
PLAN_TIMEOUT_S = 600.0  # a million users take seconds, and another planner of the same runs waits for us
CANDIDATES_PLACEHOLDER = "{candidates}"
SHARED_PLACEHOLDER = "{shared}"
ONLY_PLACEHOLDER = "{only}"
# Written into the query instead of a parameter: with an OR, Postgres would read all tasks for one person who has moved.
ONLY_MOVED = 'AND "userId" = ANY (ARRAY(SELECT user_id FROM moved))'
NO_HOUR = -1  # nothing was chosen: the hour of the schedule
# The query that finds the recipients of a kind, and the application's tables that it reads.
CANDIDATES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "task-reminder": ("find_task_reminder_recipients", ("users", "tasks", "projects")),
    "overdue-summary": ("find_overdue_summary_recipients", ("users", "tasks", "projects")),
    "focus-report": ("find_focus_report_recipients", ("users", "focus_sessions")),
}


@dataclass(frozen=True, slots=True, order=True)
class Cohort:
    """People whose emails are due at the same instant: a time zone, and the hour that they have chosen or NO_HOUR."""

    zone: str
    hour: int = NO_HOUR

    @property
    def key(self) -> str:
        """As it is stored in `schedule_runs`. The names of time zones contain no blank."""
        return self.zone if self.hour == NO_HOUR else f"{self.zone} {self.hour:02}"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One due time of a kind for a cohort, its deadline, and the time window of its data. Instants are aware."""

    zone: str
    local_date: date
    due_at: datetime
    expires_at: datetime
    begins_at: datetime
    ends_at: datetime
    hour: int = NO_HOUR

    @property
    def cohort(self) -> Cohort:
        return Cohort(self.zone, self.hour)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How recipients are found: one email `per_task`, and the hour of a kind at which it is due for everybody anyway.

    `moved_only` limits them to people who have changed zone or hour since the occurrence was due.
    """

    per_task: bool = False
    usual_hour: int = NO_HOUR
    moved_only: bool = False


DEFAULT_OPTIONS = PlanOptions()


@dataclass(frozen=True, slots=True)
class PlanResult:
    """Result of planning: tasks or sessions found, their recipients, and new scheduled emails."""

    found: int = 0
    recipients: int = 0
    scheduled: int = 0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The last run of a kind for a cohort, whose key is `zone`, with the number of its emails by state."""

    kind: str
    zone: str
    local_date: date
    due_at: datetime
    planned_at: datetime
    scheduled: int
    states: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ManualRun:
    """The last manual run of a kind: who ran it when, how many emails it planned, and their number by state."""

    kind: str
    at: datetime
    actor: str
    scheduled: int
    states: Mapping[str, int]


class Planning:
    """Writes the tables `schedule_runs` and `scheduled_mails`.

    `zones` are all known time zones, `default_zone` is used for users without one of them.
    """

    def __init__(self, application: AppDatabase, zones: Sequence[str], default_zone: str) -> None:
        self._application = application
        self._pool = application.pool
        self._known = sorted({*zones} - NON_ZONES)
        self._default_zone = default_zone

    async def cohorts(self) -> list[Cohort]:
        """The users' cohorts, every zone also without an hour.

        Raises AppTablesUnavailableError, naming what is missing.
        """
        arguments = (self._known, self._default_zone)
        async with self._application.connection(("users",)) as connection:
            rows = await connection.fetch(self._application.sql("list_cohorts"), *arguments, timeout=PLAN_TIMEOUT_S)
        found = {Cohort(row["zone"], row["hour"]) for row in rows}
        return sorted(found | {Cohort(zone) for zone in (self._default_zone, *(cohort.zone for cohort in found))})

    async def last_move(self) -> datetime | None:
        """When somebody last changed time zone or hour here."""
        async with schema_connection(self._pool) as connection:
            moved_at: datetime | None = await connection.fetchval(sql("get_last_move"))
        return moved_at

    async def last_runs(self, now: datetime) -> dict[tuple[str, str], datetime]:
        """The last planned due time by kind and key of the cohort."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_last_runs"), now)
        return {(row["kind"], row["zone"]): row["due_at"] for row in rows}

    async def plan(
        self, kind: str, occurrences: Sequence[Occurrence], *, now: datetime, options: PlanOptions = DEFAULT_OPTIONS
    ) -> PlanResult:
        """Plan those occurrences that no daemon has planned yet, all or nothing. Raises AppTablesUnavailableError."""
        async with self._application.connection(CANDIDATES[kind][1]) as connection, connection.transaction():
            inserted = await connection.fetch(
                sql("insert_runs"),
                kind,
                [one.cohort.key for one in occurrences],
                [one.local_date for one in occurrences],
                [one.due_at for one in occurrences],
                now,
                timeout=PLAN_TIMEOUT_S,
            )
            # Only the runs that this transaction inserted are ours; another daemon plans the others.
            ours = {(row["zone"], row["local_date"]) for row in inserted}
            remaining = [one for one in occurrences if (one.cohort.key, one.local_date) in ours]
            if not remaining:
                return PlanResult()
            return await self._insert(connection, kind, remaining, options, "clock", now)

    async def plan_moved(
        self, kind: str, occurrences: Sequence[Occurrence], *, now: datetime, options: PlanOptions
    ) -> PlanResult:
        """Plan occurrences that are past for people who have joined their cohort since."""
        async with self._application.connection(CANDIDATES[kind][1]) as connection:
            moved = replace(options, moved_only=True)
            return await self._insert(connection, kind, occurrences, moved, "clock", now)

    async def plan_manual(
        self, kind: str, occurrences: Sequence[Occurrence], *, now: datetime, options: PlanOptions = DEFAULT_OPTIONS
    ) -> PlanResult:
        """Plan these occurrences without recording runs. A user gets no second email for the same local date."""
        async with self._application.connection(CANDIDATES[kind][1]) as connection:
            return await self._insert(connection, kind, occurrences, options, "manual", now)

    async def reopen(self, kind: str, mails: Sequence[ScheduledMail], now: datetime) -> int:
        """Plan ended emails of one run again, so that they are sent once more; returns how many."""
        if not mails:
            return 0
        instants = (mails[0].due_at, mails[0].expires_at, now)
        async with schema_connection(self._pool) as connection:
            count = await connection.fetchval(sql("reopen_scheduled_mails"), kind, *_keys(mails), *instants)
        return int(count)

    async def recipients(
        self,
        kind: str,
        occurrences: Sequence[Occurrence],
        *,
        after: ScheduledMail | None,
        count: int,
        options: PlanOptions = DEFAULT_OPTIONS,
    ) -> list[ScheduledMail]:
        """One page of recipients, without writing anything; the next page starts `after` the last one of this."""
        position = (after.user_id, after.task_id) if after else ("", "")
        begins, ends = [one.begins_at for one in occurrences], [one.ends_at for one in occurrences]
        columns = ([one.zone for one in occurrences], [one.local_date for one in occurrences])
        hours = [one.hour for one in occurrences]
        async with self._application.connection(CANDIDATES[kind][1]) as connection:
            text = self._text("list_recipients", kind, options)
            head = (max(ends), min(begins), *columns, begins, ends, hours)
            settings = (self._known, self._default_zone, options.per_task, options.usual_hour)
            rows = await connection.fetch(text, *head, *settings, *position, count, timeout=PLAN_TIMEOUT_S)
        return [_scheduled_mail(kind, occurrences[row["number"] - 1], row) for row in rows]

    async def existing_states(self, kind: str, mails: Sequence[ScheduledMail]) -> dict[tuple[str, str], str]:
        """Why a manual run would not plan these emails, by user and task: the states of rows that exist."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("get_scheduled_states"), kind, *_keys(mails))
        return {(row["user_id"], row["task_id"]): _existing(row["state"], row["reason"]) for row in rows}

    async def recent_runs(self, since: datetime) -> list[RunSummary]:
        """The last runs planned since then, with the states of their emails."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_schedule_runs"), since)
        runs: dict[tuple[str, str], dict[str, Any]] = {}
        for row in rows:
            fields = dict(row)
            state, count = fields.pop("state"), fields.pop("count")
            run = runs.setdefault((row["kind"], row["zone"]), {**fields, "states": {}})
            if state is not None:
                run["states"][state] = count
        return [RunSummary(**run) for run in runs.values()]

    async def record_manual_run(self, kind: str, at: datetime, count: int, *, actor: str, now: datetime) -> None:
        """Record who ran a schedule; `now` is the time that its emails have as planning time."""
        action = (now, storable(actor, MAX_WORD_LENGTH), f"{MANUAL_RUN}{kind}", at.isoformat(), count)
        async with schema_connection(self._pool) as connection:
            await connection.execute(sql("record_operator_action"), *action)

    async def manual_runs(self, since: datetime) -> dict[str, ManualRun]:
        """The last manual run of each kind since then."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_manual_runs"), since, MANUAL_RUN)
        runs: dict[str, ManualRun] = {}
        for row in rows:
            states = {} if row["state"] is None else {row["state"]: row["count"]}
            known = runs[row["kind"]].states if row["kind"] in runs else {}
            runs[row["kind"]] = ManualRun(row["kind"], row["at"], row["actor"], row["scheduled"], {**known, **states})
        return runs

    def _text(self, name: str, kind: str, options: PlanOptions) -> str:
        only = ONLY_MOVED if options.moved_only else ""
        find_recipients = self._application.sql(CANDIDATES[kind][0]).replace(ONLY_PLACEHOLDER, only)
        shared = self._application.sql("shared_tables")
        return (
            self._application.sql(name)
            .replace(SHARED_PLACEHOLDER, shared)
            .replace(CANDIDATES_PLACEHOLDER, find_recipients)
        )

    async def _insert(
        self,
        connection: Any,
        kind: str,
        occurrences: Sequence[Occurrence],
        options: PlanOptions,
        source: Source,
        now: datetime,
    ) -> PlanResult:
        columns = zip(
            *((o.zone, o.local_date, o.due_at, o.expires_at, o.begins_at, o.ends_at) for o in occurrences), strict=True
        )
        row = await connection.fetchrow(
            self._text("insert_scheduled_mails", kind, options),
            max(one.ends_at for one in occurrences),
            min(one.begins_at for one in occurrences),
            kind,
            *map(list, columns),
            self._known,
            self._default_zone,
            options.per_task,
            source,
            now,
            [one.hour for one in occurrences],
            options.usual_hour,
            options.moved_only,
            timeout=PLAN_TIMEOUT_S,
        )
        return PlanResult(row["found"], row["recipients"], row["scheduled"])


def _existing(state: str, reason: str | None) -> str:
    return f"already {state} for that date" + (f": {reason}" if reason else "")


def _scheduled_mail(kind: str, occurrence: Occurrence, row: Any) -> ScheduledMail:
    return ScheduledMail(
        kind=kind,
        user_id=row["user_id"],
        local_date=occurrence.local_date,
        zone=occurrence.zone,
        due_at=occurrence.due_at,
        expires_at=occurrence.expires_at,
        task_id=row["task_id"],
    )


def _keys(mails: Sequence[ScheduledMail]) -> tuple[list[str], list[str], list[date]]:
    return [mail.user_id for mail in mails], [mail.task_id for mail in mails], [mail.local_date for mail in mails]

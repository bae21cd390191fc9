"""Requests and responses of the API that are not data of the daemon already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, ValidationInfo, field_validator

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.database.mail_history import MailRecord
from flowstate_daemon.database.mail_list import OutcomeName
from flowstate_daemon.operations.jobs import Action, ActionRefusedError, check_action
from flowstate_daemon.queue.filters import JobFilter
from flowstate_daemon.queue.job import State
from flowstate_daemon.web.ages import DIGITS, UNITS, age_ms
from flowstate_daemon.web.api_v1.cursors import EntryCursorText, RowCursorText
from flowstate_daemon.web.api_v1.endpoints import ApiModel, DescribedModel, unfulfillable

MAX_PAGE = 1_000
MAX_IDS = 1_000
LINE = r"^[^\x00-\x1f\x7f]*$"  # no control characters: neither Postgres nor a log can hold all of them
Text = Annotated[str, Field(max_length=200, pattern=LINE)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=LINE)]
Id = Annotated[str, Field(min_length=1, max_length=500)]
Kinds = Annotated[Sequence[Text], Field(max_length=20)]
Age = Annotated[str, Field(pattern=rf"^{DIGITS}({UNITS})$", examples=["30s", "15min", "2h", "7d"])]
PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE)]


def to_utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("the date is out of range") from None


def to_address(text: str) -> str:
    try:
        return parse_address(text.strip())
    except InvalidDataError:
        raise unfulfillable("expected an email address in the path") from None


Instant = Annotated[AwareDatetime, AfterValidator(to_utc)]


class JobPath(ApiModel):
    id: Id
    """The id of the job."""


class ActionPath(ApiModel):
    id: Id
    """The id of the action."""


class MailPath(ApiModel):
    mail: Annotated[Id, Field(pattern=LINE)]
    """`mail` of an entry in the list of emails."""


class SchedulePath(ApiModel):
    name: Id
    """The name of the schedule."""


class AddressPath(ApiModel):
    address: Annotated[
        str, Field(min_length=1, max_length=320, examples=["ada@example.org"]), AfterValidator(to_address)
    ]
    """The address."""


class AddressKindPath(AddressPath):
    kind: Name
    """The kind of email; `*` for all."""


class Filter(ApiModel):
    """Which jobs or emails: every member that is set must match."""

    kind: Kinds = ()
    """Kinds of email, one of which it must have."""
    recipient: Text = ""
    """Text that the address of a job contains; of a ledger entry, the whole address."""
    reason: Text = ""
    """Text that the reason contains, in any case; for jobs, * stands for any text."""
    newer_than: Age | None = None
    """Maximum age."""
    older_than: Age | None = None
    """Minimum age."""

    def job_filter(self, now_ms: int) -> JobFilter:
        return JobFilter(
            kinds=tuple(self.kind),
            recipient=self.recipient,
            reason=self.reason,
            after=None if self.newer_than is None else now_ms - age_ms(self.newer_than),
            before=None if self.older_than is None else now_ms - age_ms(self.older_than),
        )


class JobQuery(Filter):
    state: State
    """The state of the jobs."""
    cursor: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """`next_cursor` of the page before."""
    limit: PageSize = 50


class FailureQuery(ApiModel):
    cursor: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """`next_position` of the groups before."""


class PageQuery(ApiModel):
    cursor: EntryCursorText = ""
    """`next_cursor` of the page before."""
    limit: PageSize = 50


class EmailQuery(Filter):
    outcome: Annotated[Sequence[OutcomeName], Field(max_length=10)] = ()
    """Outcomes, one of which it must have."""
    cursor: RowCursorText = ""
    """`next_cursor` of the page before."""
    limit: PageSize = 50


class Document(DescribedModel):
    """What responses have in common."""

    model_config = ConfigDict(frozen=True)


class JobDocument(Document):
    """One job. Times are Unix ms. `data` is without codes, passwords and tokens. Of a job that was retried manually,
    `attempts_made` can be larger than `attempts`.
    """

    id: str
    state: State | None
    name: str
    data: Any
    options: Any
    timestamp: int | None
    delay_ms: int
    due_at: int | None
    priority: int
    attempts: int
    attempts_made: int
    processed_at: int | None
    finished_at: int | None
    retried_at: int | None
    stalled_count: int
    failed_reason: str | None
    stacktrace: list[str]
    progress: Any
    returnvalue: Any
    debounce_id: str | None
    locked: bool
    log_count: int
    extra_fields: Mapping[str, str]
    notes: list[str]


class JobList(Document):
    jobs: list[JobDocument]
    next_cursor: int | None
    """`cursor` of the next page; null at the end."""
    partial: bool
    """Time ran out before the page was full: it may even be empty. The next page continues the search."""
    remaining: int
    """How many jobs of this state have not been examined."""


class EmailDocument(Document):
    """One outcome of one attempt."""

    mail: str
    at: datetime
    address: str
    kind: str
    job_id: str
    attempt: int
    outcome: str
    provider_id: str | None
    reason: str | None


class EmailList(Document):
    emails: list[EmailDocument]
    next_cursor: str | None
    """`cursor` of the next page; null at the end."""
    partial: bool
    """Time ran out before the page was full: it may even be empty. The next page continues the search."""


class EmailHistory(Document):
    """One email with everything that happened to it."""

    address: str
    email: MailRecord


class BulkAction(ApiModel):
    """An action on all jobs in one state that match a filter."""

    action: Action
    state: State
    filter: Filter = Filter()
    maybe_sent: bool = False
    """Retry also jobs whose email may have been sent already: it may arrive twice."""

    @field_validator("state")
    @classmethod
    def _fits_action(cls, state: State, info: ValidationInfo) -> State:
        if "action" in info.data:
            try:
                check_action(info.data["action"], state)
            except ActionRefusedError as refusal:
                raise unfulfillable(refusal.reason) from None
        return state


class IdAction(ApiModel):
    """An action on single jobs."""

    action: Action
    ids: Annotated[Sequence[Id], Field(min_length=1, max_length=MAX_IDS)]


class Preview(Document):
    """How many jobs an action would change. Not `exact`: an estimate from `examined` of `total` jobs."""

    matching: int
    exact: bool
    examined: int
    total: int


class ActionDocument(Document):
    """An action on many jobs. Times are Unix ms."""

    id: str
    action: Action
    state: State
    filter: str
    expected: int
    done: int
    left_out: int
    started_at: int
    finished_at: int | None
    stopped: bool
    error: str
    waiting_for: str
    """Why it does not go on now: Redis is unavailable. It goes on by itself."""


class RecipientQuery(ApiModel):
    limit: PageSize = 100
    """How many of the newest emails."""


class ChosenPreferences(Document):
    """What the recipient has chosen; null is no choice."""

    language: str | None = None
    time_zone: str | None = None
    morning_hour: int | None = None
    overdue_summary: str | None = None
    paused_until: datetime | None = None
    enabled_kinds: list[str] | None = None
    """Kinds that were switched on here, whatever the application says."""


class RecipientDocument(Document):
    """What is known of an address, with its newest emails."""

    address: str
    suppressed: list[str]
    """Why it gets no email at all."""
    unsubscribed: list[str]
    """The kinds of email that it does not want; `*` is all."""
    preferences: ChosenPreferences
    emails: list[MailRecord]


class NewSuppression(ApiModel):
    note: Text = ""
    """Why, for the next operator."""


class SuppressionDocument(Document):
    address: str
    reason: str
    since: datetime
    note: str | None


class SuppressionList(Document):
    suppressions: list[SuppressionDocument]
    next_cursor: str | None
    """`cursor` of the next page; null at the end."""


class UnsubscribeDocument(Document):
    address: str
    kind: str
    since: datetime


class UnsubscribeList(Document):
    unsubscribes: list[UnsubscribeDocument]
    next_cursor: str | None
    """`cursor` of the next page; null at the end."""


class RunBody(ApiModel):
    """Run a schedule for the local dates of `at` in every time zone. Without a body: run now."""

    dry_run: bool = False
    """List who would get what, and write nothing."""
    at: Instant | None = None
    """Now when absent."""
    force: bool = False
    """Send again what was sent."""
    bodies: bool = False
    """The dry run contains the whole emails."""
    to: Annotated[str, Field(max_length=320)] | None = None
    """Only what this address would get; for a dry run."""

    @field_validator("to")
    @classmethod
    def _is_for_a_dry_run(cls, to: str | None, info: ValidationInfo) -> str | None:
        if to is None:
            return None
        if info.data.get("dry_run") is False:
            raise unfulfillable("only a dry run can be for one address: add dry_run")
        try:
            return parse_address(to.strip())
        except InvalidDataError:
            raise unfulfillable("expected an email address") from None


class DryRunRecipient(Document):
    """One recipient of a dry run, with the email's subject or the reason why there is none."""

    user_id: str
    to: str
    local_date: date
    zone: str
    task_id: str
    sends: bool
    reason: str = ""
    subject: str = ""
    html: str = ""
    text: str = ""


class DryRunDocument(Document):
    """What a run would do. `error` is why the list is incomplete: the status was sent before."""

    name: str
    at: datetime
    force: bool
    dry_run: bool
    recipients: list[DryRunRecipient]
    sends: int
    skips: int
    error: str = ""


class StatisticsQuery(ApiModel):
    span: Literal["hour", "day", "week"] = "hour"
    """How far back; the steps are a minute, a quarter of an hour, and two hours."""


class AuditQuery(ApiModel):
    limit: PageSize = 50


class PauseDocument(Document):
    is_paused: bool
    changed: bool


class AuditEntry(Document):
    """What an operator did; `count` is how many jobs or addresses it changed."""

    at: datetime
    actor: str
    action: str
    target: str
    count: int


class AuditList(Document):
    entries: list[AuditEntry]
    missing: list[str]
    """Whose actions are not in the list and why: a datastore is unavailable. Empty when the list is complete."""


class ProviderProblem(Document):
    """What one daemon knows of the provider; `next_probe_ms` is the time until it tries again."""

    state: str
    reason: str
    next_probe_ms: int | None
    instance: str


class ProviderDocument(Document):
    """The shared rate limit and the state of the provider; `limit` null: none is known."""

    state: str
    limit: float | None
    slowdown: float
    blocked_for_ms: int
    bulk_paused_ms: int
    reason: str
    recent_requests: int
    problems: list[ProviderProblem]


class WorkerDocument(Document):
    """One worker process that is connected to the queue."""

    name: str
    address: str
    age_s: int
    idle_s: int


class HeartbeatDocument(Document):
    """One service of the daemon that answers, and how long ago it made progress."""

    name: str
    age_s: float
    idle: bool
    error: str | None


class InstancesDocument(Document):
    """The worker processes of the queue; `note` says why they cannot be listed. `services` are this daemon's."""

    instance: str
    uptime_s: float
    services: list[HeartbeatDocument]
    workers: list[WorkerDocument]
    note: str | None

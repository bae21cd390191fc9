"""The nine kinds of mail: the fields of each, its priority, its secrets; and the reading of a job's data.

`intake` checks orders with it, `work` reads jobs with it. A new kind is a struct and a row here, a template, words
and a sample. Field names are JavaScript's on the wire and Python's in here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from flowstate_daemon.base.errors import Malformed, Retry
from flowstate_daemon.base.privacy import escaped, scrubbed
from flowstate_daemon.mail.address import read_address
from flowstate_daemon.mail.fields import (
    LARGEST_FIELD,
    NO_TITLE,
    Code,
    Count,
    Day,
    Given,
    Guess,
    Line,
    Lines,
    Link,
    ListRule,
    Percent,
    Rating,
    Rule,
    Title,
    Weekday,
    rules_of,
)
from flowstate_daemon.mail.language import spoken

LARGEST_CONTEXT = 256 * 1024  # bytes of JSON, fields that nobody reads included
MOST_TASKS = 50  # in one list
LONGEST_NAME = 100
URGENT = 1
NOBODY = "there"  # what producers write for a person whose name they do not know
STRANGER = "User"  # the same, in a welcome
PERSONAL = "Personal"


class Context(msgspec.Struct, frozen=True, rename="camel"):
    """What a mail speaks of. A field with a default may be missing, null or blank."""

    def values(self) -> dict[str, Any]:
        """What templates may name."""
        return msgspec.structs.asdict(self)


class OneTimeCode(Context, frozen=True):
    otp_code: Code
    expires_in: Line | None = "10 minutes"


class Welcome(Context, frozen=True):
    name: Line | None = STRANGER


class GoalMilestone(Context, frozen=True):
    goal_name: Title
    progress: Percent
    completed_tasks: Count
    total_tasks: Count
    user_name: Line | None = NOBODY
    recent_tasks: Lines | None = ""
    goal_url: Link | None = ""
    settings_url: Link | None = ""


class StreakMilestone(Context, frozen=True):
    habit_name: Title
    streak_days: Count
    user_name: Line | None = NOBODY
    best_streak: Count | None = 0
    frequency: Line | None = ""
    start_date: Line | None = ""
    habit_url: Link | None = ""
    settings_url: Link | None = ""


class ProjectInvitation(Context, frozen=True):
    inviter_name: Title
    project_name: Title
    accept_url: Link
    invitee_name: Line | None = NOBODY
    project_description: Lines | None = ""
    role: Line | None = ""
    progress: Percent | None = 0
    deadline: Line | None = ""


class DueTask(Context, frozen=True):
    title: Given | None = NO_TITLE
    project: Given | None = ""
    priority: Guess | None = 0
    minutes: Guess | None = 0
    url: Link | None = ""


class TaskReminder(Context, frozen=True):
    """One task. With `tasks`, all that are due on `due_date`; `task_count` counts those that are not listed too."""

    task_title: Title
    user_name: Line | None = NOBODY
    project_name: Line | None = PERSONAL
    priority: Count | None = 0
    estimated_time: Count | None = 0
    task_url: Link | None = ""
    settings_url: Link | None = ""
    task_count: Count | None = 0
    due_date: Day | None = None
    tasks: Annotated[tuple[DueTask, ...], Meta(max_length=MOST_TASKS)] | None = ()
    tasks_url: Link | None = ""

    def values(self) -> dict[str, Any]:
        """`total` is how many tasks the mail is about."""
        return {**msgspec.structs.asdict(self), "total": max(self.task_count or 0, len(self.tasks or ()), 1)}


class OverdueTask(Context, frozen=True):
    days: Count
    title: Given | None = NO_TITLE
    url: Link | None = ""


class OverdueSummary(Context, frozen=True):
    """`tasks`, the oldest first, says what `overdue_tasks` says, in parts."""

    overdue_count: Count
    user_name: Line | None = NOBODY
    overdue_tasks: Lines | None = ""
    review_url: Link | None = ""
    settings_url: Link | None = ""
    tasks: Annotated[tuple[OverdueTask, ...], Meta(max_length=MOST_TASKS)] | None = ()


class TopTask(Context, frozen=True):
    minutes: Count
    title: Given | None = NO_TITLE


class FocusReport(Context, frozen=True):
    """One week. What stands behind `week_start` says in numbers what the texts before it say in English."""

    total_hours: Count
    total_minutes: Count
    total_sessions: Count
    user_name: Line | None = NOBODY
    average_duration: Count | None = 0
    most_productive_day: Line | None = ""
    average_mood: Line | None = ""
    top_tasks: Lines | None = ""
    analytics_url: Link | None = ""
    settings_url: Link | None = ""
    week_start: Day | None = None
    week_end: Day | None = None
    best_day: Weekday | None = None
    average_rating: Rating | None = None
    rated_sessions: Count | None = 0
    top: Annotated[tuple[TopTask, ...], Meta(max_length=MOST_TASKS)] | None = ()
    previous_minutes: Count | None = None
    previous_sessions: Count | None = None

    def values(self) -> dict[str, Any]:
        """`spent` is the focus time of the week in minutes."""
        return {**msgspec.structs.asdict(self), "spent": self.total_hours * 60 + self.total_minutes}


@dataclass(frozen=True, slots=True)
class Kind:
    """What is fixed for all mails of one kind. `secret_fields` are names in the job's JSON context."""

    name: str
    context: type[Context]
    priority: int
    unsubscribable: bool
    secret_fields: frozenset[str]
    decoder: msgspec.json.Decoder[Context]
    rules: tuple[Rule | ListRule, ...]

    @property
    def urgent(self) -> bool:
        """Somebody sits and waits for this mail: it never queues behind others."""
        return self.priority == URGENT


def _kind(name: str, context: type[Context], priority: int, *, unsubscribable: bool = False) -> Kind:
    return Kind(
        name=name,
        context=context,
        priority=priority,
        unsubscribable=unsubscribable,
        secret_fields=frozenset({"otpCode"}) if issubclass(context, OneTimeCode) else frozenset(),
        decoder=msgspec.json.Decoder(context),
        rules=rules_of(context),
    )


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("otp", OneTimeCode, URGENT),
        _kind("password-reset", OneTimeCode, URGENT),
        _kind("welcome", Welcome, 5),
        _kind("project-invitation", ProjectInvitation, 5),
        _kind("task-reminder", TaskReminder, 5, unsubscribable=True),
        _kind("overdue-summary", OverdueSummary, 5, unsubscribable=True),
        _kind("goal-milestone", GoalMilestone, 10, unsubscribable=True),
        _kind("streak-milestone", StreakMilestone, 10, unsubscribable=True),
        _kind("focus-report", FocusReport, 10, unsubscribable=True),
    )
}


class UnknownKind(Retry):
    """No mail of that name is known here. As in Bull an ordinary failed attempt: a newer daemon may know it."""

    def __init__(self, name: str) -> None:
        shown = escaped(scrubbed(name[:LONGEST_NAME]))[:LONGEST_NAME]
        super().__init__(f"Missing process handler for job type {shown}")


@dataclass(frozen=True, slots=True)
class MailRequest:
    """One mail that can be rendered: every field checked and cleaned. `locale` None: the job names no language."""

    kind: str
    to: str = field(repr=False)
    context: Context = field(repr=False)
    locale: str | None = None


class Envelope(msgspec.Struct, frozen=True):
    """A job's data before anything is known of its context."""

    to: str
    context: msgspec.Raw
    type: str | None = None
    locale: Any = None


ENVELOPES = msgspec.json.Decoder(Envelope)


def read_request(name: str, data: bytes) -> MailRequest:
    """Read the data of the job called `name`.

    Raises:
        UnknownKind: no such kind of mail.
        Malformed: the data can never become a mail; the reason says where, and never repeats a value.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise UnknownKind(name)
    envelope = _decode(ENVELOPES, data, "$")
    if envelope.type is not None and envelope.type != name:
        raise Malformed(f"Expected the job's own name, {name}, got another one - at `$.type`")
    size = memoryview(envelope.context).nbytes
    if size > LARGEST_CONTEXT:
        raise Malformed(f"Context too large: {size} bytes, at most {LARGEST_CONTEXT} are allowed - at `$.context`")
    context = _decode(kind.decoder, envelope.context, "$.context")
    if size > LARGEST_FIELD:  # the text of a field is never longer than its JSON
        for rule in kind.rules:
            rule.weigh(getattr(context, rule.name))
    values = [rule.clean(getattr(context, rule.name)) for rule in kind.rules]
    return MailRequest(name, read_address(envelope.to), kind.context(*values), spoken(envelope.locale))


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw, root: str) -> Any:
    """Decode with a reason that names the place, counted from the top of the job's data."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        said = str(error)
        raise Malformed(said.replace("`$", f"`{root}") if "`$" in said else f"{said} - at `{root}`") from None
    except RecursionError:
        raise Malformed(f"Expected data that is not nested this deeply - at `{root}`") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{_fault(bytes(text), error)} - at `{root}`") from None


def _fault(text: bytes, error: Exception) -> str:
    """What is wrong with JSON that msgspec does not decode; its own words name bytes by number only."""
    try:
        json.loads(text.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        return "Expected UTF-8"
    except (ValueError, RecursionError):
        return f"Expected valid JSON ({error})"
    # JavaScript cuts strings between the halves of an emoji and writes what is left; Python's own decoder takes it.
    return "Expected whole characters, got half of a surrogate pair"


def _refuse_constant(name: str) -> None:
    raise ValueError(name)

"""The context of each kind of email: its fields, and which of them are optional.

`kinds` defines one kind for each. Field names are in camel case in Redis and in snake case here.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from flowstate_daemon.mail.field_types import (
    TITLE_PLACEHOLDER,
    Code,
    Count,
    Day,
    Line,
    Lines,
    OptionalCount,
    Percent,
    Rating,
    Title,
    Url,
    Weekday,
)

MAX_TASKS = 50  # in one list
UNKNOWN_NAME = "there"  # what producers write for a person whose name they do not know
UNKNOWN_USER_NAME = "User"  # the same, in a welcome
PERSONAL = "Personal"


class Context(msgspec.Struct, frozen=True, rename="camel"):
    """The data of an email. A field with a default may be missing, null or blank."""

    def template_values(self) -> dict[str, Any]:
        """The values that templates may use."""
        return msgspec.structs.asdict(self)


class OneTimeCode(Context, frozen=True):
    otp_code: Code
    expires_in: Line | None = "10 minutes"


class Welcome(Context, frozen=True):
    name: Line | None = UNKNOWN_USER_NAME


class GoalMilestone(Context, frozen=True):
    goal_name: Title
    progress: Percent
    completed_tasks: Count
    total_tasks: Count
    user_name: Line | None = UNKNOWN_NAME
    recent_tasks: Lines | None = ""
    goal_url: Url | None = ""
    settings_url: Url | None = ""


class StreakMilestone(Context, frozen=True):
    habit_name: Title
    streak_days: Count
    user_name: Line | None = UNKNOWN_NAME
    best_streak: Count | None = 0
    frequency: Line | None = ""
    start_date: Line | None = ""
    habit_url: Url | None = ""
    settings_url: Url | None = ""


class ProjectInvitation(Context, frozen=True):
    inviter_name: Title
    project_name: Title
    accept_url: Url
    invitee_name: Line | None = UNKNOWN_NAME
    project_description: Lines | None = ""
    role: Line | None = ""
    progress: Percent | None = 0
    deadline: Line | None = ""


class DueTask(Context, frozen=True):
    title: Title | None = TITLE_PLACEHOLDER
    project: Title | None = ""
    priority: OptionalCount | None = 0
    minutes: OptionalCount | None = 0
    url: Url | None = ""


class TaskReminder(Context, frozen=True):
    """One task. With `tasks`, all that are due on `due_date`; `task_count` counts those that are not listed too."""

    task_title: Title
    user_name: Line | None = UNKNOWN_NAME
    project_name: Line | None = PERSONAL
    priority: Count | None = 0
    estimated_time: Count | None = 0
    task_url: Url | None = ""
    settings_url: Url | None = ""
    task_count: Count | None = 0
    due_date: Day | None = None
    tasks: Annotated[tuple[DueTask, ...], Meta(max_length=MAX_TASKS)] | None = ()
    tasks_url: Url | None = ""

    def template_values(self) -> dict[str, Any]:
        """`total` is the number of tasks that the email is about."""
        return {**msgspec.structs.asdict(self), "total": max(self.task_count or 0, len(self.tasks or ()), 1)}


class OverdueTask(Context, frozen=True):
    days: Count
    title: Title | None = TITLE_PLACEHOLDER
    url: Url | None = ""


class OverdueSummary(Context, frozen=True):
    """`tasks` contains the same as `overdue_tasks` as structured rows, the oldest first.

    `cadence` is empty for a daily summary, `weekly` if the recipient has chosen that, `unchanged` if it is weekly
    because the list has not changed.
    """

    overdue_count: Count
    user_name: Line | None = UNKNOWN_NAME
    overdue_tasks: Lines | None = ""
    review_url: Url | None = ""
    settings_url: Url | None = ""
    tasks: Annotated[tuple[OverdueTask, ...], Meta(max_length=MAX_TASKS)] | None = ()
    cadence: Line | None = ""


class TopTask(Context, frozen=True):
    minutes: Count
    title: Title | None = TITLE_PLACEHOLDER


class FocusReport(Context, frozen=True):
    """One week. The fields from `week_start` on contain as numbers what the fields before them say in English."""

    total_hours: Count
    total_minutes: Count
    total_sessions: Count
    user_name: Line | None = UNKNOWN_NAME
    average_duration: Count | None = 0
    most_productive_day: Line | None = ""
    average_mood: Line | None = ""
    top_tasks: Lines | None = ""
    analytics_url: Url | None = ""
    settings_url: Url | None = ""
    week_start: Day | None = None
    week_end: Day | None = None
    best_day: Weekday | None = None
    average_rating: Rating | None = None
    rated_sessions: Count | None = 0
    top: Annotated[tuple[TopTask, ...], Meta(max_length=MAX_TASKS)] | None = ()
    previous_minutes: Count | None = None
    previous_sessions: Count | None = None

    def template_values(self) -> dict[str, Any]:
        """`spent` is the focus time of the week in minutes."""
        return {**msgspec.structs.asdict(self), "spent": self.total_hours * 60 + self.total_minutes}

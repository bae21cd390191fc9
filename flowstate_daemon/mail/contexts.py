"""What each kind of mail speaks of: its fields, and which of them may be missing.

`catalogue` makes a kind of each. Field names are JavaScript's on the wire and Python's in here.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from flowstate_daemon.mail.fields import (
    NO_TITLE,
    Code,
    Count,
    Day,
    Given,
    Guess,
    Line,
    Lines,
    Link,
    Percent,
    Rating,
    Title,
    Weekday,
)

MOST_TASKS = 50  # in one list
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

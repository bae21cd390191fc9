"""FlowState's nine kinds of email as its NestJS backend enqueues them: names, data, priorities and job options.

The end-to-end tests send the same mails.
"""

from __future__ import annotations

from typing import Any

FRONTEND = "https://app.example.org"
SETTINGS = f"{FRONTEND}/settings/notifications"

PRIORITIES = {
    "otp": 1,
    "password-reset": 1,
    "welcome": 5,
    "project-invitation": 5,
    "task-reminder": 5,
    "overdue-summary": 5,
    "goal-milestone": 10,
    "streak-milestone": 10,
    "focus-report": 10,
}

CONTEXTS: dict[str, dict[str, Any]] = {
    "otp": {"otpCode": "482913", "expiresIn": "10 minutes"},
    "password-reset": {"otpCode": "730046"},
    "welcome": {"name": "Zoë"},
    "project-invitation": {
        "inviteeName": "Ada",
        "inviterName": "Grace <grace@example.org>",
        "projectName": "Moon & back",
        "projectDescription": "Everything, on time.",
        "role": "member",
        "progress": 40,
        "deadline": "31 March 2026",
        "acceptUrl": f"{FRONTEND}/projects/5f1c",
    },
    "task-reminder": {
        "userName": "Ada",
        "taskTitle": 'Read "Notes" \\ reply 🙂',
        "projectName": "Personal",
        "priority": 3,
        "estimatedTime": 0,
        "taskUrl": f"{FRONTEND}/tasks/77aa",
        "settingsUrl": SETTINGS,
    },
    "overdue-summary": {
        "userName": "Ada",
        "overdueCount": 2,
        "overdueTasks": "Pay rent - 3 day(s) overdue\nCall home - 1 day(s) overdue",
        "reviewUrl": f"{FRONTEND}/tasks?filter=overdue",
        "settingsUrl": SETTINGS,
    },
    "goal-milestone": {
        "userName": "Ada",
        "goalName": "Run 10 km",
        "progress": 75,
        "completedTasks": 15,
        "totalTasks": 20,
        "recentTasks": "Run 5 km\nRun 7 km",
        "goalUrl": f"{FRONTEND}/goals/19",
        "settingsUrl": SETTINGS,
    },
    "streak-milestone": {
        "userName": "there",
        "habitName": "Écrire",
        "streakDays": 30,
        "bestStreak": 42,
        "frequency": "daily",
        "startDate": "1 February 2026",
        "habitUrl": f"{FRONTEND}/habits/3",
        "settingsUrl": SETTINGS,
    },
    "focus-report": {
        "userName": "Ada",
        "totalHours": 6,
        "totalMinutes": 25,
        "totalSessions": 9,
        "averageDuration": 43,
        "mostProductiveDay": "Tuesday",
        "averageMood": "Not tracked/5",
        "topTasks": "Write: 120 min\nRead: 80 min\nPlan: 30 min",
        "analyticsUrl": f"{FRONTEND}/analytics",
        "settingsUrl": SETTINGS,
    },
}

KINDS = tuple(PRIORITIES)


def data(kind: str, to: str | None = None) -> dict[str, Any]:
    """A job's data as the backend writes it."""
    return {"type": kind, "to": to or f"{kind}@example.org", "context": CONTEXTS[kind]}


def options(kind: str) -> dict[str, Any]:
    """The options that the backend hands to `emailQueue.add`."""
    return {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 2000},
        "removeOnComplete": True,
        "removeOnFail": False,
        "priority": PRIORITIES[kind],
    }


def all_nine() -> list[dict[str, Any]]:
    """The nine emails as arguments of `addBulk`."""
    return [{"name": kind, "data": data(kind), "opts": options(kind)} for kind in KINDS]

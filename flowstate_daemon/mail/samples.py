"""Realistic contexts for every kind of email, for previews, the development environment and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FRONTEND_URL = "https://flowstate.example"


@dataclass(frozen=True, slots=True)
class Sample:
    """One context of a kind. `name` is the kind, with a suffix if the kind has several samples."""

    name: str
    kind: str
    context: Mapping[str, Any]


def preview_contexts(frontend_url: str = FRONTEND_URL) -> dict[str, dict[str, Any]]:
    """The `context` of one job per kind, by the kind's name, with links into the application at `frontend_url`."""
    root = frontend_url.rstrip("/")
    settings = {"settingsUrl": f"{root}/settings/notifications"}
    return {
        "otp": {"otpCode": "493027", "expiresIn": "10 minutes"},
        "password-reset": {"otpCode": "815264", "expiresIn": "15 minutes"},
        "welcome": {"name": "Amélie Laurent"},
        "project-invitation": {
            "inviteeName": "Jonas",
            "inviterName": "Amélie Laurent",
            "projectName": "Autumn exhibition",
            "projectDescription": "Forty photographs, one long wall.\nWe open on the first Friday of October.",
            "role": "editor",
            "progress": 35,
            "deadline": "2 October 2026",
            "acceptUrl": f"{root}/projects/0b6f2f6e-4a0c-4e0e-9f43-1f1d6a2f7c11",
        },
        "task-reminder": {
            "userName": "Amélie",
            "taskTitle": "Send the framer the final sizes",
            "projectName": "Autumn exhibition",
            "priority": 4,
            "estimatedTime": 45,
            "taskUrl": f"{root}/tasks/5d0c7f4c-9a4b-4c39-8a0e-6a3f6f1f2b90",
            **settings,
        },
        "overdue-summary": {
            "userName": "Amélie",
            "overdueCount": 3,
            "overdueTasks": "Call the printer back - 6 days overdue\n"
            "Choose the paper - 2 days overdue\n"
            "Water the plants - 1 day overdue",
            "reviewUrl": f"{root}/tasks?filter=overdue",
            **settings,
        },
        "goal-milestone": {
            "userName": "Amélie",
            "goalName": "Learn to print in colour",
            "progress": 75,
            "completedTasks": 9,
            "totalTasks": 12,
            "recentTasks": "Calibrate the screen\nPrint a grey wedge\nCompare three papers",
            "goalUrl": f"{root}/goals/c3a1f1b8-0f35-4b27-8f4e-2f7a1c9d5e66",
            **settings,
        },
        "streak-milestone": {
            "userName": "Amélie",
            "habitName": "Morning walk",
            "streakDays": 21,
            "bestStreak": 34,
            "frequency": "every weekday",
            "startDate": "4 May 2026",
            "habitUrl": f"{root}/habits/7e9d0a52-61c7-43f0-a2a4-8f0c3b1d4e77",
            **settings,
        },
        "focus-report": {
            "userName": "Amélie",
            "totalHours": 11,
            "totalMinutes": 40,
            "totalSessions": 16,
            "averageDuration": 44,
            "mostProductiveDay": "Tuesday",
            "averageMood": "4.2/5",
            "topTasks": "Sequence the photographs: 210 min\nWrite the wall text: 155 min\nBudget: 90 min",
            "analyticsUrl": f"{root}/analytics",
            **settings,
        },
    }


def rich_contexts(frontend_url: str = FRONTEND_URL) -> dict[str, dict[str, Any]]:
    """The contexts of the kinds that the scheduler enqueues, with the fields that only the scheduler sets."""
    root = frontend_url.rstrip("/")
    plain = preview_contexts(frontend_url)
    return {
        "task-reminder": {
            **plain["task-reminder"],
            "taskCount": 5,
            "dueDate": "2026-03-03",
            "tasks": [
                {
                    "title": plain["task-reminder"]["taskTitle"],
                    "project": "Autumn exhibition",
                    "priority": 4,
                    "minutes": 45,
                    "url": plain["task-reminder"]["taskUrl"],
                },
                {"title": "Book the van for the big frames", "minutes": 15, "url": f"{root}/tasks/9d4f2a80"},
                {"title": "לקנות נייר צילום 🎞️", "project": "Darkroom", "url": f"{root}/tasks/6bb1c7de"},
                {"title": None, "priority": 1, "url": f"{root}/tasks/2f6a90c3"},
            ],
            "tasksUrl": f"{root}/tasks?filter=tomorrow",
        },
        "overdue-summary": {
            **plain["overdue-summary"],
            "overdueCount": 14,
            "tasks": [
                {"title": "Call the printer back", "days": 36, "url": f"{root}/tasks/3b0e5c11"},
                {"title": "Answer <Grace & Ada> about “the loan”", "days": 9, "url": f"{root}/tasks/77c1de02"},
                {"title": "Choose the paper", "days": 2, "url": f"{root}/tasks/a01f4e93"},
                {"title": "Water the plants", "days": 1, "url": f"{root}/tasks/c5d20b74"},
            ],
        },
        "focus-report": {
            **plain["focus-report"],
            "weekStart": "2026-03-02",
            "weekEnd": "2026-03-08",
            "bestDay": 2,
            "averageRating": 4.1667,
            "ratedSessions": 12,
            "top": [
                {"title": "Sequence the photographs", "minutes": 210},
                {"title": "Write the wall text", "minutes": 155},
                {"title": "Budget", "minutes": 60},
            ],
            "previousMinutes": 570,
            "previousSessions": 13,
        },
    }


def all_samples(frontend_url: str = FRONTEND_URL) -> tuple[Sample, ...]:
    """Each kind as the backend enqueues it, followed by the scheduler's version if there is one."""
    rich = rich_contexts(frontend_url)
    found = []
    for kind, context in preview_contexts(frontend_url).items():
        found.append(Sample(kind, kind, context))
        if kind in rich:
            found.append(Sample(f"{kind}-rich", kind, rich[kind]))
    return tuple(found)


SAMPLES: Mapping[str, Mapping[str, Any]] = preview_contexts()

"""One realistic context per kind of mail: what previews, the development house and tests send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FRONTEND_URL = "https://flowstate.example"


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


SAMPLES: Mapping[str, Mapping[str, Any]] = preview_contexts()

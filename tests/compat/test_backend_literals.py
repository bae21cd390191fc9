"""What FlowState's backend writes as fixed English, added by npm bull: not said as a fact, and in French in French.

One row for each literal value of the backend, in both languages, through one node process.
"""

# ruff: noqa: RUF001 - the emails have typographic apostrophes
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.mail.kinds import parse_request
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import NodeQueue
from tests.compat.flowstate_mails import CONTEXTS, FRONTEND, options
from tests.support.html import Page

pytestmark = pytest.mark.node

RENDERER = Renderer(Brand("FlowState <hello@flowstate.example>", "FlowState", FRONTEND, backend_dates="M/D/YYYY"))
# Words of the backend and of our English emails; titles in the contexts below contain none of them.
ENGLISH = (
    "overdue", "days", "week", "weekly", "daily", "monthly", "tracked", "deadline", "provided", "recent", "user",
    "member", "owner", "viewer", "personal", "priority", "hour", "January", "July", "Tuesday", "untitled",
    "Started", "Schedule", "Without",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One literal: the fields with it, what both parts say instead, and what none of them says."""

    kind: str
    fields: dict[str, Any]
    english: tuple[str, ...] = ()
    french: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()


ROWS = {
    "no description": Row(
        "project-invitation", {"projectDescription": "No description provided"}, unsaid=("No description",)
    ),
    "no deadline": Row(
        "project-invitation", {"deadline": "No deadline set"}, unsaid=("No deadline", "Deadline", "Échéance")
    ),
    "deadline of an American server": Row(
        "project-invitation", {"deadline": "7/14/2026"}, ("July 14, 2026",), ("14 juillet 2026",), ("7/14",)
    ),
    "deadline of a server without language": Row(
        "project-invitation", {"deadline": "2026-07-01"}, ("July 1, 2026",), ("1er juillet 2026",), ("2026-07",)
    ),
    "deadline of a French server": Row(
        "project-invitation", {"deadline": "14/07/2026"}, ("July 14, 2026",), ("14 juillet 2026",), ("14/07",)
    ),
    "unknown inviter": Row(
        "project-invitation",
        {"inviterName": "A FlowState user"},
        ("A FlowState user has invited you",),
        ("Quelqu’un sur FlowState vous invite à collaborer",),
    ),
    "role owner": Row("project-invitation", {"role": "owner"}, ("Owner",), ("Propriétaire",)),
    "role admin": Row("project-invitation", {"role": "admin"}, ("Admin",), ("Administration",)),
    "role member": Row("project-invitation", {"role": "member"}, ("Member",), ("Membre",)),
    "role viewer": Row("project-invitation", {"role": "viewer"}, ("Viewer",), ("Lecture seule",)),
    "invitation to a project that one is in": Row(
        "project-invitation", {}, (f"{FRONTEND}/projects/5f1c", "Open the project"), ("Ouvrir le projet",), ("accept",)
    ),
    "no recent tasks": Row(
        "goal-milestone", {"recentTasks": "No recent tasks"}, unsaid=("No recent", "Recent tasks", "récentes")
    ),
    "recent tasks are not all done": Row(
        "goal-milestone",
        {"recentTasks": "✅ Courir\n✅ Dormir"},
        ("Recent tasks", "- Courir\n- Dormir"),
        ("Tâches récentes", "- Courir\n- Dormir"),
        ("✅", "Completed lately", "Terminées récemment"),
    ),
    "goal reached": Row(
        "goal-milestone",
        {"progress": 100, "completedTasks": 20},
        ("You reached your goal!", "You’ve reached your goal:"),
        ("Objectif atteint\u202f!", "Vous avez atteint votre objectif"),
        ("100",),
    ),
    "goal without tasks": Row(
        "goal-milestone", {"completedTasks": 0, "totalTasks": 0}, unsaid=("0 of 0", "0 sur 0", "Tasks completed")
    ),
    "one task of one": Row(
        "goal-milestone", {"completedTasks": 1, "totalTasks": 1}, ("1 of 1",), ("1 sur 1",), ("1 tasks", "1 tâches")
    ),
    "every day": Row("streak-milestone", {"frequency": "Weekly"}, ("Every day",), ("Tous les jours",), ("Weekly",)),
    "one day a week": Row(
        "streak-milestone", {"frequency": "Daily"}, ("Once a week",), ("Une fois par semaine",), ("Daily",)
    ),
    "some days a week": Row(
        "streak-milestone", {"frequency": "3 days/week"}, ("3 days a week",), ("3 jours par semaine",), ("/week",)
    ),
    "a day a week as a number": Row(
        "streak-milestone", {"frequency": "1 days/week"}, ("1 day a week",), ("1 jour par semaine",), ("/week",)
    ),
    "monthly": Row("streak-milestone", {"frequency": "Monthly"}, ("Once a month",), ("Une fois par mois",)),
    "record streak": Row(
        "streak-milestone",
        {"streakDays": 30, "bestStreak": 30, "frequency": "Weekly"},
        ("30 days in a row: your best streak yet",),
        ("30 jours de suite\u00a0: c’est votre record",),
        ("Best streak:", "Meilleure série"),
    ),
    "no rating": Row("focus-report", {"averageMood": "0.0/5"}, unsaid=("0.0", "0,0", "rating", "Note de")),
    "no rating, older form": Row(
        "focus-report", {"averageMood": "Not tracked/5"}, unsaid=("Not tracked", "/5", "rating", "Note de")
    ),
    "rating": Row("focus-report", {"averageMood": "4.2/5"}, ("4.2 / 5",), ("4,2 / 5",)),
    "no best day": Row("focus-report", {"mostProductiveDay": "N/A"}, unsaid=("N/A", "focused day", "Meilleur jour")),
    "best day": Row("focus-report", {"mostProductiveDay": "Tuesday"}, ("Tuesday",), ("mardi",)),
    "no top tasks": Row(
        "focus-report", {"topTasks": "No tasks tracked"}, unsaid=("No tasks", "Where your time", "Où est passé")
    ),
    "top tasks": Row(
        "focus-report",
        {"topTasks": "Lire: 120 min\n: 30 min"},
        ("Lire: 2h", "(untitled): 30 min"),
        ("Lire\u00a0: 2 h", "(sans titre)\u00a0: 30 min"),
        ("120",),
    ),
    "time without a task": Row(
        "focus-report",
        {"topTasks": "Without a task: 30 min"},
        ("Without a task: 30 min",),
        ("Sans tâche\u00a0: 30 min",),
    ),
    "count that is smaller than the list": Row(
        "overdue-summary",
        {"overdueCount": 0, "overdueTasks": "Payer - 3 days overdue\nAppeler - 1 day overdue"},
        ("2 overdue tasks", "These tasks are past"),
        ("2 tâches en retard", "Ces tâches ont dépassé"),
        ("0 overdue", "0 tâche", "and -", "et -", "and 0", "et 0"),
    ),
    "overdue tasks without a list": Row(
        "overdue-summary",
        {"overdueCount": 3, "overdueTasks": ""},
        ("3 overdue tasks", "Finish what is overdue, reschedule it or let it go."),
        ("3 tâches en retard", "Terminez ce qui est en retard, reportez-le ou abandonnez-le."),
        ("go:", "abandonnez-les"),
    ),
    "overdue lines": Row(
        "overdue-summary",
        {"overdueTasks": "Payer - 3 days overdue\nAppeler - 1 day overdue"},
        ("Payer (3 days overdue)", "Appeler (1 day overdue)"),
        ("Payer (3 jours de retard)", "Appeler (1 jour de retard)"),
        (" - 3",),
    ),
    "overdue lines, older form": Row(
        "overdue-summary",
        {"overdueTasks": "Payer - 3 day(s) overdue\nAppeler - 1 day(s) overdue"},
        ("Payer (3 days overdue)", "Appeler (1 day overdue)"),
        ("Payer (3 jours de retard)", "Appeler (1 jour de retard)"),
        ("day(s)",),
    ),
    "one overdue task": Row(
        "overdue-summary",
        {"overdueCount": 1, "overdueTasks": "Payer - 1 day overdue"},
        ("This task is past its due date. Finish it",),
        ("Cette tâche a dépassé son échéance. Terminez-la",),
        ("and 0", "et 0", "These tasks", "Ces tâches"),
    ),
    "priority high": Row("task-reminder", {"priority": 1}, ("Priority: High",), ("Priorité\u00a0: Haute",)),
    "priority medium": Row("task-reminder", {"priority": 2}, ("Priority: Medium",), ("Priorité\u00a0: Moyenne",)),
    "priority nobody chose": Row("task-reminder", {"priority": 3}, unsaid=("Priority", "Priorité", "3")),
    "priority low": Row("task-reminder", {"priority": 4}, ("Priority: Low",), ("Priorité\u00a0: Basse",)),
    "priority very low": Row("task-reminder", {"priority": 5}, ("Very low",), ("Très basse",)),
    "task without project": Row(
        "task-reminder", {"projectName": "Personal"}, unsaid=("Personal", "Project", "Projet\u00a0", "Personnel")
    ),
    "task without title": Row("task-reminder", {"taskTitle": ""}, ("(untitled)",), ("(sans titre)",)),
    "lifetime of a code": Row(
        "otp", {"expiresIn": "1 hour"}, ("It’s valid for 1 hour and",), ("Il est valable 1 heure et ne peut",)
    ),
    "no lifetime": Row("otp", {"expiresIn": None}, ("valid for 10 minutes",), ("valable 10 minutes",)),
    "unknown person": Row("task-reminder", {"userName": "there"}, ("Hi there,",), ("Bonjour,",)),
    "unknown new person": Row("welcome", {"name": "User"}, ("Welcome!",), ("Bienvenue\u202f!",), ("Welcome, User",)),
}
FRENCH_NAMES = {"userName": "Zoé", "inviteeName": "Zoé", "goalName": "Courir", "habitName": "Marcher", "name": "Zoé"}


async def written(q: NodeQueue, redis: Redis, keys: Keys, row: Row, locale: str) -> Email:
    """The email of a job that npm bull has written."""
    context = {**CONTEXTS[row.kind], **FRENCH_NAMES, "projectName": "Été", "taskTitle": "Lire", **row.fields}
    data = {"type": row.kind, "to": "ada@example.org", "context": context, "locale": locale}
    job_id = await q.add(row.kind, data, **options(row.kind))
    content, created = await redis.hmget(keys.job(job_id), "data", "timestamp")  # type: ignore[misc]
    request = parse_request(row.kind, content if isinstance(content, bytes) else content.encode())
    return RENDERER.render(replace(request, locale=locale), created_ms=int(created))


def texts_of(mail: Email) -> list[str]:
    """What a reader sees of both parts."""
    return [f"{mail.subject}\n{mail.text}", Page(mail.html).text]


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", ROWS)
async def test_literal(q: NodeQueue, redis: Redis, keys: Keys, name: str) -> None:
    """It is not shown or said in the reader's language, in both parts; nothing English is in the French email."""
    row = ROWS[name]
    for locale, said in (("en", row.english), ("fr", row.french)):
        mail = await written(q, redis, keys, row, locale)
        parts = texts_of(mail)
        for text in said:
            assert plain(text) in plain(parts[0]), (locale, parts[0])
        for text in row.unsaid:
            assert [part for part in parts if text in part.replace(FRONTEND, "")] == [], (locale, text)
        if locale == "fr":
            words = plain(" ".join(parts)).replace("FlowState user", "").split()
            found = [word for word in ENGLISH if word in {each.strip(".,:!?()").lower() for each in words}]
            assert found == []


async def test_streak_began_on_the_day_of_the_job_minus_its_days(q: NodeQueue, redis: Redis, keys: Keys) -> None:
    """Whatever form the server's language gave to the date: the clock of the job says which day it was."""
    row = Row("streak-milestone", {"streakDays": 21, "startDate": "something"})
    mail = await written(q, redis, keys, row, "en")
    assert "something" not in mail.text
    assert "Started: " in mail.text

"""Sample users with their tasks and focus sessions, as plain data. Each covers a case of the scheduled emails.

`seed.py` writes them into the embedded database. Days are counted from today in each user's time zone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_ZONE = "Europe/Paris"


@dataclass(frozen=True, slots=True)
class SampleTask:
    """A task due `due_in` days from today (None: no due date), `minutes` long, in a project of the same user."""

    title: str
    due_in: int | None = None
    project: str | None = None
    done: bool = False
    deleted: bool = False
    priority: int = 3
    minutes: int | None = None


@dataclass(frozen=True, slots=True)
class SampleSession:
    """A focus session `days_ago`; without `actual` minutes it was started but never finished."""

    days_ago: int
    task: str | None = None
    planned: int = 25
    actual: int | None = None
    rating: int | None = None


@dataclass(frozen=True, slots=True)
class SampleUser:
    """A user with tasks and sessions. `zone` is the effective time zone, whatever the preferences contain."""

    name: str
    full_name: str | None
    preferences: Any = None
    zone: str = DEFAULT_ZONE
    verified: bool = True
    deleted: bool = False
    tasks: Sequence[SampleTask] = ()
    sessions: Sequence[SampleSession] = ()
    projects: Sequence[str] = ()
    habits: Mapping[str, int] | None = None


def preferences(zone: str, language: str, **notifications: bool) -> dict[str, Any]:
    """Preferences in the application's format; a notification that is not listed is enabled."""
    return {"timezone": zone, "language": language, "notifications": notifications}


DUE_TASKS = (SampleTask("Water the plants", due_in=1), SampleTask("Call the bank", due_in=-3))

SAMPLE_USERS: Sequence[SampleUser] = (
    SampleUser(
        "amelie",
        "Amélie Dubois",
        preferences("Europe/Paris", "fr"),
        tasks=(
            SampleTask("Préparer la réunion", due_in=1, project="Lancement", priority=1, minutes=45),
            SampleTask("Répondre à l'équipe", due_in=1, project="Lancement", minutes=15),
            SampleTask("Acheter du café", due_in=1),
            SampleTask("Relire le contrat", due_in=1, done=True),
            SampleTask("Une idée abandonnée", due_in=1, deleted=True),
            SampleTask("Plus tard", due_in=5),
        ),
        sessions=(
            SampleSession(1, "Préparer la réunion", planned=50, actual=48, rating=5),
            SampleSession(2, "Préparer la réunion", actual=25, rating=4),
            SampleSession(2, "Répondre à l'équipe", actual=20),
            SampleSession(9, "Acheter du café", actual=90, rating=1),
        ),
        projects=("Lancement",),
        habits={"Méditer": 7},
    ),
    SampleUser(
        "ben",
        "Ben Carter",
        preferences("America/New_York", "en"),
        zone="America/New_York",
        tasks=(
            *(SampleTask(f"Invoice {number}", due_in=-number) for number in range(1, 13)),
            SampleTask("Plan the week", due_in=1, minutes=30),
            SampleTask("Today's errand", due_in=0),
        ),
        projects=("Freelance",),
    ),
    SampleUser(
        "chiyo",
        "Chiyo Tanaka",
        preferences("Asia/Tokyo", "en"),
        zone="Asia/Tokyo",
        tasks=(SampleTask("Write the report", due_in=1, project="Research"), SampleTask("Read the paper", due_in=-1)),
        sessions=(
            *(SampleSession(day, "Write the report", planned=60, actual=55, rating=4) for day in range(1, 6)),
            SampleSession(3, "Read the paper", planned=25),
        ),
        projects=("Research",),
        habits={"Morning walk": 30, "Journal": 2},
    ),
    SampleUser(
        "aroha",
        "Aroha Ngata",
        preferences("Pacific/Auckland", "en", overdueSummary=False),
        zone="Pacific/Auckland",
        tasks=(SampleTask("Book the ferry", due_in=1), SampleTask("Pay the rates", due_in=-2)),
    ),
    # Without preferences, the default time zone and language apply.
    SampleUser("emil", None, None, tasks=DUE_TASKS, sessions=(SampleSession(1, actual=25),)),
    # Invalid preferences, which no version of the application should write.
    SampleUser(
        "fatou", "Fatou Sow", {"timezone": "Mars/Olympus", "language": 7, "notifications": ["no"]}, tasks=DUE_TASKS
    ),
    SampleUser("oops", "Oda Opsahl", "not an object", tasks=DUE_TASKS),
    # Texts that look like markup, headers or format strings.
    SampleUser(
        "zoe",
        '<b>Zoé</b> "O\'Hara" & Söhne',
        preferences("Europe/Paris", "fr"),
        tasks=(
            SampleTask("<script>alert(1)</script> {{ 7 * 7 }} %s", due_in=1),
            SampleTask("Zeile eins\r\nBcc: x", due_in=-1),
        ),
    ),
    # Users who must get no scheduled emails.
    SampleUser(
        "gita",
        "Gita Rao",
        preferences("Asia/Kolkata", "en", taskReminders=False, overdueSummary=False, focusReport=False),
        zone="Asia/Kolkata",
        tasks=DUE_TASKS,
        sessions=(SampleSession(1, actual=30, rating=3),),
    ),
    SampleUser("hugo", "Hugo Petit", deleted=True, tasks=DUE_TASKS, sessions=(SampleSession(1, actual=30),)),
    SampleUser("ines", "Inès Moreau", verified=False, tasks=DUE_TASKS, sessions=(SampleSession(1, actual=30),)),
)

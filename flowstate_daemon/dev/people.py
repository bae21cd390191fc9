"""Sample people and what they have to do, as plain data: each is there for a reason that a mail may have.

`seed.py` writes them into the embedded database. Pure; days are counted from each person's own today.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ZONE_OF_THE_HOUSE = "Europe/Paris"


@dataclass(frozen=True, slots=True)
class Task:
    """A task due `due_in` days from today (None: whenever), `minutes` long, of a project of the same person."""

    title: str
    due_in: int | None = None
    project: str | None = None
    done: bool = False
    deleted: bool = False
    priority: int = 3
    minutes: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A focus session `days_ago`; without `actual` minutes it was planned for, but never ended."""

    days_ago: int
    task: str | None = None
    planned: int = 25
    actual: int | None = None
    rating: int | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with tasks and sessions; `zone` is where their days begin, whatever their preferences say."""

    name: str
    full_name: str | None
    preferences: Any = None
    zone: str = ZONE_OF_THE_HOUSE
    verified: bool = True
    deleted: bool = False
    tasks: Sequence[Task] = ()
    sessions: Sequence[Session] = ()
    projects: Sequence[str] = ()
    habits: Mapping[str, int] | None = None


def prefers(zone: str, language: str, **notifications: bool) -> dict[str, Any]:
    """Preferences in the application's form; a notification not named is wanted."""
    return {"timezone": zone, "language": language, "notifications": notifications}


DUE = (Task("Water the plants", due_in=1), Task("Call the bank", due_in=-3))

PEOPLE: Sequence[Person] = (
    Person(
        "amelie",
        "Amélie Dubois",
        prefers("Europe/Paris", "fr"),
        tasks=(
            Task("Préparer la réunion", due_in=1, project="Lancement", priority=1, minutes=45),
            Task("Répondre à l'équipe", due_in=1, project="Lancement", minutes=15),
            Task("Acheter du café", due_in=1),
            Task("Relire le contrat", due_in=1, done=True),
            Task("Une idée abandonnée", due_in=1, deleted=True),
            Task("Plus tard", due_in=5),
        ),
        sessions=(
            Session(1, "Préparer la réunion", planned=50, actual=48, rating=5),
            Session(2, "Préparer la réunion", actual=25, rating=4),
            Session(2, "Répondre à l'équipe", actual=20),
            Session(9, "Acheter du café", actual=90, rating=1),
        ),
        projects=("Lancement",),
        habits={"Méditer": 7},
    ),
    Person(
        "ben",
        "Ben Carter",
        prefers("America/New_York", "en"),
        zone="America/New_York",
        tasks=(
            *(Task(f"Invoice {number}", due_in=-number) for number in range(1, 13)),
            Task("Plan the week", due_in=1, minutes=30),
            Task("Today's errand", due_in=0),
        ),
        projects=("Freelance",),
    ),
    Person(
        "chiyo",
        "Chiyo Tanaka",
        prefers("Asia/Tokyo", "en"),
        zone="Asia/Tokyo",
        tasks=(Task("Write the report", due_in=1, project="Research"), Task("Read the paper", due_in=-1)),
        sessions=(
            *(Session(day, "Write the report", planned=60, actual=55, rating=4) for day in range(1, 6)),
            Session(3, "Read the paper", planned=25),
        ),
        projects=("Research",),
        habits={"Morning walk": 30, "Journal": 2},
    ),
    Person(
        "aroha",
        "Aroha Ngata",
        prefers("Pacific/Auckland", "en", overdueSummary=False),
        zone="Pacific/Auckland",
        tasks=(Task("Book the ferry", due_in=1), Task("Pay the rates", due_in=-2)),
    ),
    # Who says nothing gets the house's zone and language.
    Person("emil", None, None, tasks=DUE, sessions=(Session(1, actual=25),)),
    # Preferences that no version of the application should have written.
    Person("fatou", "Fatou Sow", {"timezone": "Mars/Olympus", "language": 7, "notifications": ["no"]}, tasks=DUE),
    Person("oops", "Oda Opsahl", "not an object", tasks=DUE),
    # Whose text would be markup, a header or a format if somebody trusted it.
    Person(
        "zoe",
        '<b>Zoé</b> "O\'Hara" & Söhne',
        prefers("Europe/Paris", "fr"),
        tasks=(Task("<script>alert(1)</script> {{ 7 * 7 }} %s", due_in=1), Task("Zeile eins\r\nBcc: x", due_in=-1)),
    ),
    # Those who must get nothing of what is scheduled.
    Person(
        "gita",
        "Gita Rao",
        prefers("Asia/Kolkata", "en", taskReminders=False, overdueSummary=False, focusReport=False),
        zone="Asia/Kolkata",
        tasks=DUE,
        sessions=(Session(1, actual=30, rating=3),),
    ),
    Person("hugo", "Hugo Petit", deleted=True, tasks=DUE, sessions=(Session(1, actual=30),)),
    Person("ines", "Inès Moreau", verified=False, tasks=DUE, sessions=(Session(1, actual=30),)),
)

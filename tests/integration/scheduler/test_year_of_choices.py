"""A year of people who change their mind on the preference page, and the emails that they got.

The expectation is computed without the daemon's code: from what each person had chosen at each instant, and from the
rules of their time zone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog
from aiohttp import ClientSession

from flowstate_daemon.mail.unsubscribe_links import UnsubscribeToken
from tests.integration.web.conftest import serve
from tests.integration.web.test_preferences import CODEC, LEAVABLE, Form, routes
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness

BEGIN, END = datetime(2026, 3, 2, tzinfo=UTC), datetime(2027, 3, 2, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Noon UTC is on the same date in all of them.
ZONES = ("Europe/Paris", "America/New_York", "Asia/Tokyo", "Australia/Sydney", "America/Los_Angeles", "Africa/Lagos")
PEOPLE = ("ada", "ben", "chi")
USUAL = {"task-reminder": 9, "overdue-summary": 7, "focus-report": 17}
SUNDAY, MONDAY = 7, 1
SEED = 20261129


@dataclass(frozen=True)
class Choices:
    """What one person has chosen, in our own words."""

    zone: str = "Europe/Paris"
    hour: int | None = None
    weekly: bool = False
    paused_until: datetime | None = None
    off: frozenset[str] = frozenset()
    all_off: bool = False

    def wants(self, kind: str, at: datetime) -> bool:
        return not self.all_off and kind not in self.off and (self.paused_until is None or at >= self.paused_until)

    def due_at(self, kind: str, day: date) -> datetime | None:
        """When an email of this kind is due on a local date; None if it is on no such day."""
        if (kind == "focus-report" and day.isoweekday() != SUNDAY) or (
            kind == "overdue-summary" and self.weekly and day.isoweekday() != MONDAY
        ):
            return None
        hour = USUAL[kind] if kind == "focus-report" or self.hour is None else self.hour
        return datetime.combine(day, time(hour), ZoneInfo(self.zone)).astimezone(UTC)


@dataclass
class Person:
    """One person: the choices in force from each instant on, and the link to the page."""

    name: str
    link: str
    history: list[tuple[datetime, Choices]] = field(default_factory=lambda: [(BEGIN - DAY, Choices())])

    @property
    def now(self) -> Choices:
        return self.history[-1][1]

    def at(self, instant: datetime) -> Choices:
        return [choices for since, choices in self.history if since <= instant][-1]

    def moved_between(self, begin: datetime, end: datetime) -> bool:
        """Whether zone or hour changed in this time."""
        return (
            len(
                {
                    (self.at(at).zone, self.at(at).hour)
                    for at in [begin, *(s for s, _ in self.history if begin < s <= end)]
                }
            )
            > 1
        )


async def change_mind(client: ClientSession, person: Person, chance: random.Random, now: datetime) -> None:
    """Do one of the things that one can do on the page."""
    old = person.now
    async with client.get(person.link) as response:
        form = Form(await response.text())
    what = chance.choice(["zone", "hour", "weekly", "pause", "kinds", "all", "several", "hour"])
    fields, new = dict(form.fields), {**vars(old)}
    if what == "all":
        fields, new["all_off"] = {"action": "resume" if old.all_off else "stop"}, not old.all_off
    if what in {"zone", "several"}:
        fields["time_zone"] = new["zone"] = chance.choice(ZONES)
    if what in {"hour", "several"}:
        new["hour"] = chance.choice([None, *range(5, 12)])
        fields["hour"] = "" if new["hour"] is None else str(new["hour"])
    if what in {"weekly", "several"}:
        new["weekly"] = not old.weekly
        fields["overdue"] = "weekly" if new["weekly"] else "daily"
    if what in {"pause", "several"} and (old.paused_until is None or old.paused_until <= now):
        weeks = chance.choice([1, 2, 4])
        fields["pause"] = str(weeks)
        zone = ZoneInfo(new["zone"])
        new["paused_until"] = datetime.combine(now.astimezone(zone).date() + weeks * 7 * DAY, time(0), zone)
    if what == "kinds" and not old.all_off:
        kind = chance.choice(sorted(USUAL))
        new["off"] = old.off ^ {kind}
        form.tick(kind, on=kind in old.off)
        fields = form.fields
    async with client.post(person.link, data=fields) as response:
        assert response.status == 200, await response.text()
        assert set(LEAVABLE) - Form(await response.text()).ticked() >= new["off"]
    person.history.append((now, Choices(**new)))


@pytest.fixture
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


async def write_year(app: AppTables, people: list[Person]) -> None:
    """For everybody a task due on each day, which stays open, and a session on each day, both at noon UTC."""
    noons = [stored(2026, 3, 1, 12) + number * DAY for number in range(370)]
    for person in people:
        await app.user(person.name)
        name = person.name
        tasks = [(f"{name}.{at:%F}", name, f"{at:%F}", at, at) for at in noons]
        sessions = [(f"{name}.{at:%F}", name, at, 25) for at in noons]
        copy = app.connection.copy_records_to_table
        await copy("tasks", records=tasks, columns=("id", "userId", "title", "dueDate", "updatedAt"))
        await copy("focus_sessions", records=sessions, columns=("id", "userId", "startTime", "plannedDuration"))


def expected_now(people: list[Person], now: datetime) -> bool:
    """Whether an email of any user may be due at this hour."""
    for person in people:
        local = now.astimezone(ZoneInfo(person.now.zone))
        if any(person.now.due_at(kind, local.date()) == now for kind in USUAL):
            return True
    return False


@pytest.mark.timeout(900)
async def test_a_year_of_people_who_change_their_mind(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock, quiet: None
) -> None:
    """Each email came at the hour, in the zone and on the days that its recipient had chosen, and no other one came."""
    chance = random.Random(SEED)
    token = {
        name: CODEC.encode(UnsubscribeToken(f"{name}@example.org", "task-reminder", clock.now_ms(), "en"))
        for name in PEOPLE
    }
    people = [Person(name, f"/preferences/{token[name]}") for name in PEOPLE]
    await write_year(app, people)
    clock.jump((BEGIN - clock.now()).total_seconds())
    changes = ticks = 0
    async with serve(routes(harness.pool, clock)) as client:
        while clock.now() < END:
            now = clock.now()
            if expected_now(people, now):
                await harness.tick()
                ticks += 1
            clock.advance(1800)
            for person in people:
                if chance.random() < 1 / (24 * 9):
                    await change_mind(client, person, chance, clock.now())
                    await harness.tick()
                    changes += 1
            clock.advance(1800)

    for person in people:
        check(person, [mail for mail in harness.fake_worker.delivered if mail.to.startswith(person.name)], chance)
    print(f"{changes} changes, {ticks} ticks, {len(harness.fake_worker.delivered)} emails")
    assert changes > 90
    assert len(harness.fake_worker.delivered) > 400


def check(person: Person, mails: list[Any], chance: random.Random) -> None:
    """Compare what one person got with what they had chosen."""
    for mail in mails:
        assert person.at(mail.at).wants(mail.kind, mail.at), (person.name, mail.kind, mail.at)
    reminded = [task["url"] for mail in mails if mail.kind == "task-reminder" for task in mail.context["tasks"]]
    assert len(reminded) == len(set(reminded))
    got = {(mail.kind, mail.at) for mail in mails}
    calm = 0
    for number in range(2, (END - BEGIN).days - 2):
        noon = BEGIN + number * DAY + 12 * HOUR
        if person.moved_between(noon - 2 * DAY, noon + 2 * DAY):
            continue
        calm += 1
        day = noon.astimezone(ZoneInfo(person.at(noon).zone)).date()
        for kind in USUAL:
            choices = person.at(noon)
            due = replace(choices, weekly=False).due_at(kind, day)
            at_due = person.at(due or noon)
            begin = datetime.combine(day, time(0), ZoneInfo(choices.zone)).astimezone(UTC)
            came = {at for of, at in got if of == kind and begin <= at < begin + DAY}
            wanted = due is not None and at_due.wants(kind, due) and at_due.due_at(kind, day) == due
            assert came == ({due} if wanted else set()), (person.name, kind, day, at_due)
    assert calm > 100

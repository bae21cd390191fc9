"""Judges slots at the last moment: who the person is by now, what stands against the mail, and what there is to say.

The feeder asks before it hands mails over, a dry run to show what would happen. Some hundred people cost a few queries;
nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowstate_daemon.database.facts import MOST_PEOPLE, Facts, Person
from flowstate_daemon.database.suppression import Suppressions
from flowstate_daemon.intake import MailOrder
from flowstate_daemon.mail.facts import NOTHING_KNOWN, PersonFacts
from flowstate_daemon.mail.policy import SKIP, Step, objection
from flowstate_daemon.schedule.plan import Schedule
from flowstate_daemon.schedule.slot import Links, MailContext, Slot

GONE = Step("person", SKIP, "the person is gone")
DELETED = Step("person", SKIP, "the account is deleted")
UNVERIFIED = Step("person", SKIP, "the person has not verified the address")
OFF = Step("preference", SKIP, "the person has switched these mails off")
AT_ONCE = 25  # mails made before the loop may look up: a code must not wait for five hundred


@dataclass(frozen=True, slots=True)
class Assessed:
    """What became of a slot: either its mail's context, or what stands against it. `to` is empty for nobody."""

    slot: Slot
    to: str = field(repr=False)
    mail: MailContext | None = None
    refusal: Step | None = None

    def order(self, job_id: str) -> MailOrder:
        """The mail for the queue."""
        assert self.mail is not None
        return MailOrder(self.slot.kind, self.to, self.mail.context, job_id=job_id, locale=self.mail.locale)


class Assessor:
    """Asks the application's tables and ours. Raises Outage; Unreadable names what is missing."""

    def __init__(self, facts: Facts, suppressions: Suppressions, links: Links) -> None:
        self._facts = facts
        self._suppressions = suppressions
        self.links = links  # may be replaced while the house runs

    async def assess(self, schedule: Schedule, slots: Sequence[Slot]) -> list[Assessed]:
        """Judge up to MOST_PEOPLE slots of one kind, in their order."""
        if len(slots) > MOST_PEOPLE:
            raise ValueError(f"assess at most {MOST_PEOPLE} slots at a time")
        people = await self.people(slots)
        standing = await self._suppressions.facts_for([person.email for person in people.values()])
        refusals = [refusal_of(slot, people.get(slot.user_id), standing) for slot in slots]
        open_slots = [slot for slot, refusal in zip(slots, refusals, strict=True) if refusal is None]
        facts = iter(await schedule.facts(self._facts, [schedule.window(slot) for slot in open_slots]))
        found: list[Assessed] = []
        for number, (slot, refusal) in enumerate(zip(slots, refusals, strict=True)):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            person = people.get(slot.user_id)
            if refusal is not None or person is None:
                found.append(Assessed(slot, person.email if person else "", refusal=refusal))
            else:
                found.append(self._built(schedule, slot, person, next(facts)))
        return found

    async def people(self, slots: Sequence[Slot]) -> Mapping[str, Person]:
        """Who they are by now."""
        return await self._facts.people(sorted({slot.user_id for slot in slots}))

    def _built(self, schedule: Schedule, slot: Slot, person: Person, facts: Any) -> Assessed:
        built = schedule.build(person, facts, slot, self.links)
        if isinstance(built, MailContext):
            return Assessed(slot, person.email, mail=built)
        return Assessed(slot, person.email, refusal=Step("facts", SKIP, built.reason))


def refusal_of(slot: Slot, person: Person | None, standing: Mapping[str, PersonFacts]) -> Step | None:
    """Why somebody gets no mail, whatever there is to say; None when they may. Pure."""
    if person is None:
        return GONE
    if person.deleted:
        return DELETED
    if not person.verified:
        return UNVERIFIED
    objected = objection(slot.kind, standing.get(person.email, NOTHING_KNOWN))
    if objected is not None:
        return objected
    return None if slot.kind in person.wants else OFF

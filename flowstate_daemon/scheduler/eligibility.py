"""Judges slots at the last moment: who the person is by now, what stands against the mail, and what there is to say.

The feeder asks before it hands mails over, a dry run to show what would happen. Some hundred people cost a few queries;
nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowstate_daemon.database.app_data import MAX_USERS_PER_QUERY, AppData, User
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.policy import SKIP, UNKNOWN_RECIPIENT, Decision, RecipientStatus, reason_to_skip
from flowstate_daemon.mail_producer import NewMail
from flowstate_daemon.scheduler.definitions import Schedule
from flowstate_daemon.scheduler.scheduled_mail import AppLinks, MailContext, Slot

USER_GONE = Decision("person", SKIP, "the person is gone")
USER_DELETED = Decision("person", SKIP, "the account is deleted")
EMAIL_UNVERIFIED = Decision("person", SKIP, "the person has not verified the address")
NOTIFICATION_OFF = Decision("preference", SKIP, "the person has switched these mails off")
MAILS_PER_STEP = 25  # mails made before the loop may look up: a code must not wait for five hundred


@dataclass(frozen=True, slots=True)
class EligibilityResult:
    """What became of a slot: either its mail's context, or what stands against it. `to` is empty for nobody."""

    slot: Slot
    to: str = field(repr=False)
    mail: MailContext | None = None
    reason: Decision | None = None

    def order(self, job_id: str) -> NewMail:
        """The mail for the queue."""
        assert self.mail is not None
        return NewMail(self.slot.kind, self.to, self.mail.context, job_id=job_id, locale=self.mail.locale)


class EligibilityChecker:
    """Asks the application's tables and ours. Raises Outage; Unreadable names what is missing."""

    def __init__(self, facts: AppData, suppressions: Suppressions, links: AppLinks) -> None:
        self._facts = facts
        self._suppressions = suppressions
        self.links = links  # may be replaced while the house runs

    async def check(self, schedule: Schedule, slots: Sequence[Slot]) -> list[EligibilityResult]:
        """Judge up to MOST_PEOPLE slots of one kind, in their order."""
        if len(slots) > MAX_USERS_PER_QUERY:
            raise ValueError(f"assess at most {MAX_USERS_PER_QUERY} slots at a time")
        recipients = await self.load_users(slots)
        standing = await self._suppressions.status_for([recipient.email for recipient in recipients.values()])
        refusals = [ineligible_reason(slot, recipients.get(slot.user_id), standing) for slot in slots]
        open_slots = [slot for slot, refusal in zip(slots, refusals, strict=True) if refusal is None]
        facts = iter(await schedule.load_data(self._facts, [schedule.window(slot) for slot in open_slots]))
        found: list[EligibilityResult] = []
        for number, (slot, refusal) in enumerate(zip(slots, refusals, strict=True)):
            if number % MAILS_PER_STEP == 0:
                await asyncio.sleep(0)
            recipient = recipients.get(slot.user_id)
            if refusal is not None or recipient is None:
                found.append(EligibilityResult(slot, recipient.email if recipient else "", reason=refusal))
            else:
                found.append(self._built(schedule, slot, recipient, next(facts)))
        return found

    async def load_users(self, slots: Sequence[Slot]) -> Mapping[str, User]:
        """Who they are by now."""
        return await self._facts.users(sorted({slot.user_id for slot in slots}))

    def _built(self, schedule: Schedule, slot: Slot, recipient: User, facts: Any) -> EligibilityResult:
        built = schedule.build(recipient, facts, slot, self.links)
        if isinstance(built, MailContext):
            return EligibilityResult(slot, recipient.email, mail=built)
        return EligibilityResult(slot, recipient.email, reason=Decision("facts", SKIP, built.reason))


def ineligible_reason(slot: Slot, recipient: User | None, standing: Mapping[str, RecipientStatus]) -> Decision | None:
    """Why somebody gets no mail, whatever there is to say; None when they may. Pure."""
    if recipient is None:
        return USER_GONE
    if recipient.deleted:
        return USER_DELETED
    if not recipient.verified:
        return EMAIL_UNVERIFIED
    objected = reason_to_skip(slot.kind, standing.get(recipient.email, UNKNOWN_RECIPIENT))
    if objected is not None:
        return objected
    return None if slot.kind in recipient.enabled_notifications else NOTIFICATION_OFF

"""Decides just before enqueuing whether a scheduled email is sent, with the users and tasks as they are now.

The enqueuer uses it before it adds jobs, a dry run to show what would happen. Hundreds of users cost a few queries;
nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flowstate_daemon.database.app_data import MAX_USERS_PER_QUERY, AppData, User
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.mail.policy import SKIP, UNKNOWN_RECIPIENT, Decision, RecipientStatus, reason_to_skip
from flowstate_daemon.mail_producer import NewMail
from flowstate_daemon.scheduler.definitions import Schedule
from flowstate_daemon.scheduler.scheduled_mail import AppLinks, NothingToSend

USER_GONE = Decision("user", SKIP, "the user no longer exists")
USER_DELETED = Decision("user", SKIP, "the account is deleted")
EMAIL_UNVERIFIED = Decision("user", SKIP, "the user has not verified the address")
NOTIFICATION_OFF = Decision("preference", SKIP, "the user has switched these emails off")
MAILS_PER_STEP = 25  # emails built before the event loop runs other tasks: a code must not wait for five hundred


@dataclass(frozen=True, slots=True)
class EligibilityResult:
    """The email to send, or the reason not to send it. `address` is empty when the user no longer exists."""

    scheduled: ScheduledMail
    address: str = field(repr=False)
    mail: NewMail | None = None
    reason: Decision | None = None


class EligibilityChecker:
    """Reads the application's tables and ours.

    Raises StoreUnavailableError; AppTablesUnavailableError names what is missing.
    """

    def __init__(self, app_data: AppData, suppressions: Suppressions, links: AppLinks) -> None:
        self._app_data = app_data
        self._suppressions = suppressions
        self.links = links  # replaced when the configuration is reloaded

    async def check(self, schedule: Schedule, mails: Sequence[ScheduledMail]) -> list[EligibilityResult]:
        """Check up to MAX_USERS_PER_QUERY scheduled emails of one kind; the results have the same order."""
        if len(mails) > MAX_USERS_PER_QUERY:
            raise ValueError(f"check at most {MAX_USERS_PER_QUERY} scheduled emails at a time")
        users = await self.load_users(mails)
        status = await self._suppressions.status_for([user.email for user in users.values()])
        reasons = [ineligible_reason(one, users.get(one.user_id), status) for one in mails]
        # Only the data of eligible users is read: most queries of a large run would otherwise be in vain.
        eligible = [one for one, reason in zip(mails, reasons, strict=True) if reason is None]
        data = iter(await schedule.load_data(self._app_data, [schedule.window(one) for one in eligible]))
        results: list[EligibilityResult] = []
        for number, (one, reason) in enumerate(zip(mails, reasons, strict=True)):
            if number % MAILS_PER_STEP == 0:
                await asyncio.sleep(0)
            user = users.get(one.user_id)
            if reason is not None or user is None:
                results.append(EligibilityResult(one, user.email if user else "", reason=reason))
                continue
            built = schedule.build(user, next(data), one, self.links)
            if isinstance(built, NothingToSend):
                results.append(EligibilityResult(one, user.email, reason=Decision("data", SKIP, built.reason)))
            else:
                results.append(EligibilityResult(one, user.email, mail=built))
        return results

    async def load_users(self, mails: Sequence[ScheduledMail]) -> Mapping[str, User]:
        """The users of these scheduled emails as they are now, by id."""
        return await self._app_data.users(sorted({one.user_id for one in mails}))


def ineligible_reason(
    scheduled: ScheduledMail, user: User | None, status: Mapping[str, RecipientStatus]
) -> Decision | None:
    """Why a user gets no email whatever its content; None when they may get it. Pure."""
    if user is None:
        return USER_GONE
    if user.deleted:
        return USER_DELETED
    if not user.verified:
        return EMAIL_UNVERIFIED
    decision = reason_to_skip(scheduled.kind, status.get(user.email, UNKNOWN_RECIPIENT))
    if decision is not None:
        return decision
    return None if scheduled.kind in user.enabled_notifications else NOTIFICATION_OFF

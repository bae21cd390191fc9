"""Decides just before enqueuing whether a scheduled email is sent, with the users and tasks as they are now.

The enqueuer uses it before it adds jobs, a dry run to show what would happen. Hundreds of users cost a few queries;
nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from flowstate_daemon.base.address import normalise_address, unicode_spelling
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.app_data import MAX_USERS_PER_QUERY, AppData, TaskList, User
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.database.scheduled_mails import EarlierList, ScheduledMail, ScheduledMails
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.kinds import KINDS, Kind
from flowstate_daemon.mail.lifetimes import OVERDUE_SUMMARY
from flowstate_daemon.mail.policy import SKIP, UNKNOWN_RECIPIENT, Decision, RecipientStatus, reason_to_skip
from flowstate_daemon.mail_producer import NewMail
from flowstate_daemon.scheduler import overdue_summary
from flowstate_daemon.scheduler.definitions import Schedule
from flowstate_daemon.scheduler.scheduled_mail import NothingToSend

USER_GONE = Decision("user", SKIP, "the user no longer exists")
NO_USER = Decision("user", SKIP, "no account with this spelling of the address was found")
USER_DELETED = Decision("user", SKIP, "the account is deleted")
EMAIL_UNVERIFIED = Decision("user", SKIP, "the user has not verified the address")
NOTIFICATION_OFF = Decision("preference", SKIP, "the user has switched these emails off")
MAILS_PER_STEP = 25  # emails built before the event loop runs other tasks: a code must not wait for five hundred


@dataclass(frozen=True, slots=True)
class EligibilityResult:
    """The email to send, or the reason not to send it. `address` is empty when the user no longer exists.

    `fingerprint` is that of the list in an overdue summary, by which later ones know whether the list has changed.
    """

    scheduled: ScheduledMail
    address: str = field(repr=False)
    mail: NewMail | None = None
    reason: Decision | None = None
    fingerprint: str | None = None


class EligibilityChecker:
    """Reads the application's tables and ours.

    Raises StoreUnavailableError; AppTablesUnavailableError names what is missing.
    """

    def __init__(
        self,
        app_data: AppData,
        suppressions: Suppressions,
        scheduled_mails: ScheduledMails,
        links: AppLinks,
        clock: Clock,
        kinds: Mapping[str, Kind] = KINDS,
    ) -> None:
        self._app_data = app_data
        self._suppressions = suppressions
        self._scheduled_mails = scheduled_mails
        self.links, self.kinds = links, kinds  # replaced when the configuration is reloaded
        self._clock = clock

    async def check(self, schedule: Schedule, mails: Sequence[ScheduledMail]) -> list[EligibilityResult]:
        """Check up to MAX_USERS_PER_QUERY scheduled emails of one kind; the results have the same order."""
        if len(mails) > MAX_USERS_PER_QUERY:
            raise ValueError(f"check at most {MAX_USERS_PER_QUERY} scheduled emails at a time")
        users = await self.load_users(mails)
        status = await self._suppressions.status_for([user.email for user in users.values()])
        now_ms, kind = self._clock.now_ms(), self.kinds[schedule.kind]
        reasons = [ineligible_reason(kind, users.get(one.user_id), status, now_ms) for one in mails]
        # Only the data of eligible users is read: most queries of a large run would otherwise be in vain.
        eligible = [one for one, reason in zip(mails, reasons, strict=True) if reason is None]
        data = iter(await schedule.load_data(self._app_data, [schedule.window(one) for one in eligible]))
        earlier = await self._earlier_lists(schedule, eligible)
        results: list[EligibilityResult] = []
        for number, (one, reason) in enumerate(zip(mails, reasons, strict=True)):
            if number % MAILS_PER_STEP == 0:
                await asyncio.sleep(0)
            user = users.get(one.user_id)
            if reason is not None or user is None:
                results.append(EligibilityResult(one, user.email if user else "", reason=reason))
                continue
            recipient = status.get(user.email, UNKNOWN_RECIPIENT)
            results.append(self._build(schedule, one, prefer(user, recipient), next(data), earlier, recipient))
        return results

    async def _earlier_lists(
        self, schedule: Schedule, mails: Sequence[ScheduledMail]
    ) -> Mapping[tuple[str, date], list[EarlierList]]:
        if schedule.kind != OVERDUE_SUMMARY:
            return {}
        return await self._scheduled_mails.earlier_lists(OVERDUE_SUMMARY, mails, overdue_summary.LOOK_BACK_DAYS)

    def _build(
        self,
        schedule: Schedule,
        one: ScheduledMail,
        user: User,
        data: Any,
        earlier: Mapping[tuple[str, date], list[EarlierList]],
        recipient: RecipientStatus,
    ) -> EligibilityResult:
        built = schedule.build(user, data, one, self.links)
        if isinstance(built, NothingToSend):
            return EligibilityResult(one, user.email, reason=Decision("data", SKIP, built.reason))
        if schedule.kind != OVERDUE_SUMMARY or not isinstance(data, TaskList):
            return EligibilityResult(one, user.email, mail=built)
        frequency = overdue_summary.choose_frequency(
            one.local_date,
            data.fingerprint,
            earlier.get((one.user_id, one.local_date), ()),
            chosen=recipient.preferences.overdue_summary,
            weekly_on=schedule.weekly_day,
        )
        mail = replace(built, context={**built.context, "cadence": frequency.cadence}) if frequency.cadence else built
        return EligibilityResult(
            one,
            user.email,
            mail=mail if frequency.skip is None else None,
            reason=frequency.skip,
            fingerprint=data.fingerprint,
        )

    async def refusals(self, address: str, kinds: Iterable[str]) -> dict[str, str]:
        """The scheduled kinds that no user with this address gets now, whatever their content, each with the reason."""
        spellings = {address, normalise_address(address)}
        users = await self._app_data.users_with(sorted(spellings | {unicode_spelling(one) for one in spellings}))
        status = await self._suppressions.status_for([user.email for user in users])
        now_ms = self._clock.now_ms()
        found: dict[str, str] = {}
        for name in kinds:
            reasons = [ineligible_reason(self.kinds[name], user, status, now_ms) for user in users] or [NO_USER]
            if None not in reasons:
                found[name] = next(reason.reason or reason.check for reason in reasons if reason is not None)
        return found

    async def load_users(self, mails: Sequence[ScheduledMail]) -> Mapping[str, User]:
        """The users of these scheduled emails as they are now, by id."""
        return await self._app_data.users(sorted({one.user_id for one in mails}))


def prefer(user: User, recipient: RecipientStatus) -> User:
    """The user with the language that they have chosen here, if any. Pure."""
    return replace(user, language=recipient.preferences.language or user.language)


def ineligible_reason(
    kind: Kind, user: User | None, status: Mapping[str, RecipientStatus], now_ms: int
) -> Decision | None:
    """Why a user gets no email whatever its content; None when they may get it. Pure."""
    if user is None:
        return USER_GONE
    if user.deleted:
        return USER_DELETED
    if not user.verified:
        return EMAIL_UNVERIFIED
    recipient = status.get(user.email, UNKNOWN_RECIPIENT)
    decision = reason_to_skip(kind, recipient, now_ms)
    if decision is not None:
        return decision
    enabled = user.enabled_notifications | recipient.preferences.enabled_kinds
    return None if kind.name in enabled else NOTIFICATION_OFF

"""Decides whether an email is sent, and why. Pure.

The worker calls it just before an email is rendered. Every check adds a decision, which the ledger stores and
`explain` shows; decisions never contain a code.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec

from flowstate_daemon.mail.code_lifetime import MINUTE_S, parse_lifetime
from flowstate_daemon.mail.kinds import Kind, MailRequest
from flowstate_daemon.mail.lifetimes import Lifetimes
from flowstate_daemon.mail.preferences import NO_PREFERENCES, Preferences

ALL_KINDS = "*"  # instead of a kind: all kinds that can be unsubscribed from


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """Why an address is suppressed, and what its user has chosen.

    The reasons are bounced, complained, manual and suppressed (by the provider). `unsubscribed` and `preferences` were
    chosen here. `language` and `zone` are in the application's preferences, in any spelling; they count where
    `preferences` has no choice.
    """

    suppressed: frozenset[str] = frozenset()
    unsubscribed: frozenset[str] = frozenset()
    language: str | None = None
    zone: str | None = None
    preferences: Preferences = NO_PREFERENCES


UNKNOWN_RECIPIENT = RecipientStatus()


PASS, SKIP, EXPIRED, UNKNOWN = "pass", "skip", "expired", "unknown"
UNDELIVERABLE = ("bounced", "suppressed")  # no email arrives, not even a code
REASON_TEXTS = {
    "bounced": "the address does not exist or rejects all email (hard bounce)",
    "suppressed": "the provider no longer delivers to the address (its suppression list)",
    "complained": "the recipient has reported our email as spam",
    "manual": "an operator has suppressed the address",
}
LOOKUP_FAILED_REASON = "suppressions and preferences could not be looked up"


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of one check."""

    check: str
    result: str
    reason: str | None = None


# Most emails pass every check, for which one object of each is enough.
EXPIRY_PASSED, SUPPRESSION_PASSED, PREFERENCE_PASSED = (
    Decision(check, PASS) for check in ("expiry", "suppression", "preference")
)


class PolicyResult(msgspec.Struct, frozen=True):
    """`outcome` and `reason` are what the ledger stores if the email is not sent."""

    send: bool
    outcome: Literal["expired", "skipped"] | None
    reason: str | None
    decisions: tuple[Decision, ...]


def decide(
    request: MailRequest,
    recipient: RecipientStatus | None,
    *,
    now_ms: int,
    created_ms: int,
    lifetimes: Lifetimes | None = None,
) -> PolicyResult:
    """Decide about an email whose job was created at `created_ms`, 0 if that is unknown.

    `recipient` is None if the lookup failed. `lifetimes` limit the age of the kinds that schedules send; None for
    emails that have a deadline of their own.
    """
    decisions: list[Decision] = []
    kind = request.spec
    expiry = _expiry(request, now_ms, created_ms)
    if expiry is None and lifetimes is not None:
        expiry = _lifetime(request, recipient, lifetimes, now_ms, created_ms)
    for step in (expiry, _suppression(kind, recipient), _preference(kind, recipient, now_ms)):
        if step is None:
            continue
        decisions.append(step)
        if step.result == EXPIRED:
            return PolicyResult(send=False, outcome="expired", reason=step.reason, decisions=tuple(decisions))
        if step.result == SKIP:
            return PolicyResult(send=False, outcome="skipped", reason=step.reason, decisions=tuple(decisions))
    return PolicyResult(send=True, outcome=None, reason=None, decisions=tuple(decisions))


def reason_to_skip(kind: Kind, recipient: RecipientStatus, now_ms: int) -> Decision | None:
    """Why an email of this kind would not be sent to the recipient now; None if it would."""
    steps = (_suppression(kind, recipient), _preference(kind, recipient, now_ms))
    return next((step for step in steps if step is not None and step.result == SKIP), None)


def expires_at_ms(request: MailRequest, created_ms: int) -> int | None:
    """When an email expires, Unix ms; None if its kind does not expire.

    None also if the age of the job is unknown, unless it is a code, which may be too old to work.
    """
    kind = request.spec
    if not created_ms and not kind.has_code:
        return None
    if kind.lifetime_field is not None:
        return created_ms + parse_lifetime(getattr(request.context, kind.lifetime_field)) * 1000
    return None if kind.lifetime_s is None else created_ms + kind.lifetime_s * 1000


def _expiry(request: MailRequest, now_ms: int, created_ms: int) -> Decision | None:
    end_ms = expires_at_ms(request, created_ms)
    if end_ms is None:
        return None
    if now_ms < end_ms:
        return EXPIRY_PASSED
    if not created_ms:
        return Decision("expiry", EXPIRED, "the job has no valid timestamp, so the age of the code is unknown")
    life = f"{(end_ms - created_ms) / 1000 / MINUTE_S:g} min"
    what = "code" if request.spec.has_code else "email"
    return Decision("expiry", EXPIRED, f"the {what} was valid for {life} and is {(now_ms - created_ms) // 1000} s old")


def _lifetime(
    request: MailRequest, recipient: RecipientStatus | None, lifetimes: Lifetimes, now_ms: int, created_ms: int
) -> Decision | None:
    status = recipient or UNKNOWN_RECIPIENT
    end_ms = lifetimes.end_ms(request, created_ms, status.preferences.time_zone or status.zone)
    if end_ms is None:
        return None
    if now_ms < end_ms:
        return EXPIRY_PASSED
    end = datetime.fromtimestamp(end_ms / 1000, UTC)
    return Decision("expiry", EXPIRED, f"what the email says was true until {end:%Y-%m-%d %H:%M} UTC")


def _suppression(kind: Kind, recipient: RecipientStatus | None) -> Decision:
    """What cannot be delivered stops all emails; other reasons do not stop codes, which the user has just requested."""
    if recipient is None:
        return Decision("suppression", UNKNOWN, LOOKUP_FAILED_REASON)
    if not recipient.suppressed:
        return SUPPRESSION_PASSED
    reason = main_reason(recipient.suppressed)
    text = REASON_TEXTS.get(reason, f"the address is suppressed ({reason})")
    if reason not in UNDELIVERABLE and kind.has_code:
        return Decision("suppression", PASS, f"{text}; codes are sent nevertheless")
    return Decision("suppression", SKIP, text)


def main_reason(suppressed: Collection[str]) -> str:
    """The reason that stops the most emails, of one or several."""
    return next((reason for reason in UNDELIVERABLE if reason in suppressed), min(suppressed))


def _preference(kind: Kind, recipient: RecipientStatus | None, now_ms: int) -> Decision | None:
    if not kind.unsubscribable:
        return None
    if recipient is None:
        return Decision("preference", UNKNOWN, LOOKUP_FAILED_REASON)
    if ALL_KINDS in recipient.unsubscribed:
        return Decision("preference", SKIP, "the recipient has unsubscribed from all such emails")
    if kind.name in recipient.unsubscribed:
        return Decision("preference", SKIP, "the recipient has unsubscribed from this kind of email")
    pause = recipient.preferences.paused_until
    if pause is not None and now_ms < pause.timestamp() * 1000:
        return Decision("preference", SKIP, f"the recipient has paused these emails until {pause:%Y-%m-%d %H:%M} UTC")
    return PREFERENCE_PASSED

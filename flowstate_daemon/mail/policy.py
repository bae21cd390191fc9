"""Decides whether an email is sent, and why. Pure.

The worker calls it just before an email is rendered. Every check adds a decision, which the ledger stores and
`explain` shows; decisions never contain a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowstate_daemon.mail.code_lifetime import MINUTE_S, parse_lifetime
from flowstate_daemon.mail.kinds import KINDS, Kind, MailRequest

ALL_KINDS = "*"  # instead of a kind: all kinds that can be unsubscribed from


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """Why an address is suppressed (bounced, complained, manual), and the kinds that its user unsubscribed from.

    `language` is the user's own choice, in any spelling.
    """

    suppressed: frozenset[str] = frozenset()
    unsubscribed: frozenset[str] = frozenset()
    language: str | None = None


UNKNOWN_RECIPIENT = RecipientStatus()


PASS, SKIP, EXPIRED, UNKNOWN = "pass", "skip", "expired", "unknown"
BOUNCED = "bounced"
REASON_TEXTS = {
    BOUNCED: "the address does not exist or rejects all email (hard bounce)",
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


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """`outcome` and `reason` are what the ledger stores if the email is not sent."""

    send: bool
    outcome: Literal["expired", "skipped"] | None
    reason: str | None
    decisions: tuple[Decision, ...]


def decide(request: MailRequest, recipient: RecipientStatus | None, *, now_ms: int, created_ms: int) -> PolicyResult:
    """Decide about an email whose job was created at `created_ms`; `recipient` is None if the lookup failed."""
    decisions: list[Decision] = []
    kind = request.spec
    for step in (_expiry(request, now_ms, created_ms), _suppression(kind, recipient), _preference(kind, recipient)):
        if step is None:
            continue
        decisions.append(step)
        if step.result == EXPIRED:
            return PolicyResult(send=False, outcome="expired", reason=step.reason, decisions=tuple(decisions))
        if step.result == SKIP:
            return PolicyResult(send=False, outcome="skipped", reason=step.reason, decisions=tuple(decisions))
    return PolicyResult(send=True, outcome=None, reason=None, decisions=tuple(decisions))


def reason_to_skip(kind: str, recipient: RecipientStatus) -> Decision | None:
    """Why an email of this built-in kind would not be sent to the recipient; None if it would."""
    spec = KINDS[kind]
    steps = (_suppression(spec, recipient), _preference(spec, recipient))
    return next((step for step in steps if step is not None and step.result == SKIP), None)


def expires_at_ms(request: MailRequest, created_ms: int) -> int | None:
    """When an email expires, Unix ms; None if its kind does not expire."""
    kind = request.spec
    if kind.lifetime_field is not None:
        return created_ms + parse_lifetime(getattr(request.context, kind.lifetime_field)) * 1000
    return None if kind.lifetime_s is None else created_ms + kind.lifetime_s * 1000


def _expiry(request: MailRequest, now_ms: int, created_ms: int) -> Decision | None:
    end_ms = expires_at_ms(request, created_ms)
    if end_ms is None:
        return None
    if now_ms < end_ms:
        return Decision("expiry", PASS)
    life = f"{(end_ms - created_ms) / 1000 / MINUTE_S:g} min"
    what = "code" if request.spec.has_code else "email"
    return Decision("expiry", EXPIRED, f"the {what} was valid for {life} and is {(now_ms - created_ms) // 1000} s old")


def _suppression(kind: Kind, recipient: RecipientStatus | None) -> Decision:
    """A hard bounce stops all emails; other suppressions do not stop codes, which the user has just requested."""
    if recipient is None:
        return Decision("suppression", UNKNOWN, LOOKUP_FAILED_REASON)
    if not recipient.suppressed:
        return Decision("suppression", PASS)
    reason = BOUNCED if BOUNCED in recipient.suppressed else min(recipient.suppressed)
    text = REASON_TEXTS.get(reason, f"the address is suppressed ({reason})")
    if reason != BOUNCED and kind.has_code:
        return Decision("suppression", PASS, f"{text}; codes are sent nevertheless")
    return Decision("suppression", SKIP, text)


def _preference(kind: Kind, recipient: RecipientStatus | None) -> Decision | None:
    if not kind.unsubscribable:
        return None
    if recipient is None:
        return Decision("preference", UNKNOWN, LOOKUP_FAILED_REASON)
    if ALL_KINDS in recipient.unsubscribed:
        return Decision("preference", SKIP, "the recipient has unsubscribed from all such emails")
    if kind.name in recipient.unsubscribed:
        return Decision("preference", SKIP, "the recipient has unsubscribed from this kind of email")
    return Decision("preference", PASS)

"""Send or not, and why: pure decisions out of a request and what is known about the person.

`work` asks just before a mail is rendered. Every step leaves a word in the chain, which the ledger keeps and
`explain` shows; it never holds a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowstate_daemon.mail.code_lifetime import MINUTE_S, parse_lifetime
from flowstate_daemon.mail.contexts import OneTimeCode
from flowstate_daemon.mail.kinds import KINDS, MailRequest

ALL_KINDS = "*"  # in place of a kind: all that can be unsubscribed from


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """Why an address is suppressed (bounced, complained, manual), and the kinds that its owner does not want.

    `language` is what the owner has chosen, in whatever spelling.
    """

    suppressed: frozenset[str] = frozenset()
    unsubscribed: frozenset[str] = frozenset()
    language: str | None = None


UNKNOWN_RECIPIENT = RecipientStatus()


PASS, SKIP, EXPIRED, UNKNOWN = "pass", "skip", "expired", "unknown"
BOUNCED = "bounced"
REASON_TEXTS = {
    BOUNCED: "the address does not exist or refuses all mail (hard bounce)",
    "complained": "the person has reported our mail as spam",
    "manual": "an operator has suppressed the address",
}
LOOKUP_FAILED_REASON = "what stands against the address could not be looked up"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision on a mail's way."""

    check: str
    result: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """`outcome` and `reason` say what to write down when the mail is not sent."""

    send: bool
    outcome: Literal["expired", "skipped"] | None
    reason: str | None
    decisions: tuple[Decision, ...]


def decide(request: MailRequest, facts: RecipientStatus | None, *, now_ms: int, made_ms: int) -> PolicyResult:
    """Judge a mail whose job was made at `made_ms`. `facts` None: nobody could be asked."""
    chain: list[Decision] = []
    kind = request.kind
    for step in (_expiry(request, now_ms, made_ms), _suppression(kind, facts), _preference(kind, facts)):
        if step is None:
            continue
        chain.append(step)
        if step.result == EXPIRED:
            return PolicyResult(send=False, outcome="expired", reason=step.reason, decisions=tuple(chain))
        if step.result == SKIP:
            return PolicyResult(send=False, outcome="skipped", reason=step.reason, decisions=tuple(chain))
    return PolicyResult(send=True, outcome=None, reason=None, decisions=tuple(chain))


def reason_to_skip(kind: str, facts: RecipientStatus) -> Decision | None:
    """What stands against mails of a kind to somebody, before there is one; None when nothing does."""
    steps = (_suppression(kind, facts), _preference(kind, facts))
    return next((step for step in steps if step is not None and step.result == SKIP), None)


def expires_at_ms(request: MailRequest, made_ms: int) -> int | None:
    """From when on a mail is worthless; None for mails that do not age."""
    if not isinstance(request.context, OneTimeCode):
        return None
    return made_ms + parse_lifetime(request.context.expires_in) * 1000


def _expiry(request: MailRequest, now_ms: int, made_ms: int) -> Decision | None:
    end_ms = expires_at_ms(request, made_ms)
    if end_ms is None:
        return None
    if now_ms < end_ms:
        return Decision("expiry", PASS)
    life = f"{(end_ms - made_ms) / 1000 / MINUTE_S:g} min"
    return Decision("expiry", EXPIRED, f"the code was valid for {life} and is {(now_ms - made_ms) // 1000} s old")


def _suppression(kind: str, facts: RecipientStatus | None) -> Decision:
    """A hard bounce stops everything; anything else spares codes, which the person has just asked for."""
    if facts is None:
        return Decision("suppression", UNKNOWN, LOOKUP_FAILED_REASON)
    if not facts.suppressed:
        return Decision("suppression", PASS)
    reason = BOUNCED if BOUNCED in facts.suppressed else min(facts.suppressed)
    why = REASON_TEXTS.get(reason, f"the address is suppressed ({reason})")
    if reason != BOUNCED and issubclass(KINDS[kind].context, OneTimeCode):
        return Decision("suppression", PASS, f"{why}; codes are sent nevertheless")
    return Decision("suppression", SKIP, why)


def _preference(kind: str, facts: RecipientStatus | None) -> Decision | None:
    if not KINDS[kind].unsubscribable:
        return None
    if facts is None:
        return Decision("preference", UNKNOWN, LOOKUP_FAILED_REASON)
    if ALL_KINDS in facts.unsubscribed:
        return Decision("preference", SKIP, "the person has unsubscribed from all such mails")
    if kind in facts.unsubscribed:
        return Decision("preference", SKIP, "the person has unsubscribed from this kind of mail")
    return Decision("preference", PASS)

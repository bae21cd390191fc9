"""Send or not, and why: pure decisions out of a request and what is known about the person.

`work` asks just before a mail is rendered. Every step leaves a word in the chain, which the ledger keeps and
`explain` shows; it never holds a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowstate_daemon.mail.catalogue import KINDS, MailRequest
from flowstate_daemon.mail.contexts import OneTimeCode
from flowstate_daemon.mail.facts import EVERYTHING, PersonFacts
from flowstate_daemon.mail.lifetime import MINUTE_S, read_lifetime

PASS, SKIP, EXPIRED, UNKNOWN = "pass", "skip", "expired", "unknown"
BOUNCED = "bounced"
WHY = {
    BOUNCED: "the address does not exist or refuses all mail (hard bounce)",
    "complained": "the person has reported our mail as spam",
    "manual": "an operator has suppressed the address",
}
NOT_ASKED = "what stands against the address could not be looked up"


@dataclass(frozen=True, slots=True)
class Step:
    """One decision on a mail's way."""

    step: str
    verdict: str
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`outcome` and `reason` say what to write down when the mail is not sent."""

    send: bool
    outcome: Literal["expired", "skipped"] | None
    reason: str | None
    chain: tuple[Step, ...]


def decide(request: MailRequest, facts: PersonFacts | None, *, now_ms: int, made_ms: int) -> Decision:
    """Judge a mail whose job was made at `made_ms`. `facts` None: nobody could be asked."""
    chain: list[Step] = []
    kind = request.kind
    for step in (_expiry(request, now_ms, made_ms), _suppression(kind, facts), _preference(kind, facts)):
        if step is None:
            continue
        chain.append(step)
        if step.verdict == EXPIRED:
            return Decision(send=False, outcome="expired", reason=step.why, chain=tuple(chain))
        if step.verdict == SKIP:
            return Decision(send=False, outcome="skipped", reason=step.why, chain=tuple(chain))
    return Decision(send=True, outcome=None, reason=None, chain=tuple(chain))


def objection(kind: str, facts: PersonFacts) -> Step | None:
    """What stands against mails of a kind to somebody, before there is one; None when nothing does."""
    steps = (_suppression(kind, facts), _preference(kind, facts))
    return next((step for step in steps if step is not None and step.verdict == SKIP), None)


def expires_at_ms(request: MailRequest, made_ms: int) -> int | None:
    """From when on a mail is worthless; None for mails that do not age."""
    if not isinstance(request.context, OneTimeCode):
        return None
    return made_ms + read_lifetime(request.context.expires_in) * 1000


def _expiry(request: MailRequest, now_ms: int, made_ms: int) -> Step | None:
    end_ms = expires_at_ms(request, made_ms)
    if end_ms is None:
        return None
    if now_ms < end_ms:
        return Step("expiry", PASS)
    life = f"{(end_ms - made_ms) / 1000 / MINUTE_S:g} min"
    return Step("expiry", EXPIRED, f"the code was valid for {life} and is {(now_ms - made_ms) // 1000} s old")


def _suppression(kind: str, facts: PersonFacts | None) -> Step:
    """A hard bounce stops everything; anything else spares codes, which the person has just asked for."""
    if facts is None:
        return Step("suppression", UNKNOWN, NOT_ASKED)
    if not facts.suppressed:
        return Step("suppression", PASS)
    reason = BOUNCED if BOUNCED in facts.suppressed else min(facts.suppressed)
    why = WHY.get(reason, f"the address is suppressed ({reason})")
    if reason != BOUNCED and issubclass(KINDS[kind].context, OneTimeCode):
        return Step("suppression", PASS, f"{why}; codes are sent nevertheless")
    return Step("suppression", SKIP, why)


def _preference(kind: str, facts: PersonFacts | None) -> Step | None:
    if not KINDS[kind].unsubscribable:
        return None
    if facts is None:
        return Step("preference", UNKNOWN, NOT_ASKED)
    if EVERYTHING in facts.unsubscribed:
        return Step("preference", SKIP, "the person has unsubscribed from all such mails")
    if kind in facts.unsubscribed:
        return Step("preference", SKIP, "the person has unsubscribed from this kind of mail")
    return Step("preference", PASS)

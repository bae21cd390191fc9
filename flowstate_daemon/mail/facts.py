"""What is known about a person before a mail to them is decided. `database` finds it, `policy` judges by it; pure."""

from __future__ import annotations

from dataclasses import dataclass

EVERYTHING = "*"  # in place of a kind: all that can be unsubscribed from


@dataclass(frozen=True, slots=True)
class PersonFacts:
    """Why an address is suppressed (bounced, complained, manual), and the kinds that its owner does not want.

    `language` is what the owner has chosen, in whatever spelling.
    """

    suppressed: frozenset[str] = frozenset()
    unsubscribed: frozenset[str] = frozenset()
    language: str | None = None


NOTHING_KNOWN = PersonFacts()

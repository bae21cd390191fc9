"""Translates what the daemon says in English: reasons, errors, its health. What others say stays as it is. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial

PLACEHOLDER = re.compile(r"\{(\w+)\}")
NESTED = "reason"  # placeholders whose names end like this hold another reason
MAX_LENGTH = 500  # characters: the patterns take quadratic time, and a longer reason is not ours
MAX_DEPTH = 3  # reasons in each other
CACHED_REASONS = 2_048


class ReasonTranslator:
    """Translates to one language. `translations` has the texts by the English ones, both with `{placeholders}`."""

    def __init__(self, translations: Mapping[str, str]) -> None:
        self._fixed = {english: text for english, text in translations.items() if not PLACEHOLDER.search(english)}
        with_values = translations.keys() - self._fixed
        # What is added to another reason first, then by length of the literal text: `Resend: no message ({status})`
        # before `Resend: {message} ({status})`.
        ordered = sorted(with_values, key=lambda one: (_prefix(one) != "", -len(PLACEHOLDER.sub("", one))))
        self._patterns = [(_prefix(one), _suffix(one), _compile(one), translations[one]) for one in ordered]
        # A page shows the same reasons again and again.
        self.translate = lru_cache(CACHED_REASONS)(self._translate)

    def _translate(self, reason: str, depth: int = 0) -> str:
        """The reason in the language; unchanged if it is not one of the daemon's own."""
        if reason in self._fixed:
            return self._fixed[reason]
        if len(reason) > MAX_LENGTH or depth > MAX_DEPTH:
            return reason
        for prefix, suffix, pattern, text in self._patterns:
            found = pattern.fullmatch(reason) if reason.startswith(prefix) and reason.endswith(suffix) else None
            if found is not None:
                return PLACEHOLDER.sub(partial(self._value, found, depth), text)
        return reason

    def _value(self, found: re.Match[str], depth: int, placeholder: re.Match[str]) -> str:
        """What stands for a placeholder: the text as it was found, or the translation of a reason in the reason."""
        value = found[placeholder[1]]
        return self._translate(value, depth + 1) if placeholder[1].endswith(NESTED) else value


def _prefix(english: str) -> str:
    """The text before the first placeholder, which is quick to compare."""
    return PLACEHOLDER.split(english, maxsplit=1)[0]


def _suffix(english: str) -> str:
    """The text after the last placeholder, of which the same is true."""
    return PLACEHOLDER.split(english)[-1]


def _compile(english: str) -> re.Pattern[str]:
    parts = PLACEHOLDER.split(english)  # literal text and names in turn
    pattern = "".join(f"(?P<{part}>.*?)" if number % 2 else re.escape(part) for number, part in enumerate(parts))
    return re.compile(pattern, re.DOTALL)

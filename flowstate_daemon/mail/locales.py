"""The languages that mails are written in, and which of them a wish names. Pure.

Wishes come from jobs, from people's preferences and from the configuration, in any spelling or shape.
"""

from __future__ import annotations

import re

LOCALES = ("en", "fr")
TAG_SEPARATORS = re.compile("[-_.@]")
MAX_TAG_LENGTH = 64


def match_locale(request: object) -> str | None:
    """The language of ours that a wish such as `fr`, `fr-CA` or `FR_fr.UTF-8` names; None for all else."""
    if not isinstance(request, str) or len(request) > MAX_TAG_LENGTH:
        return None
    language = TAG_SEPARATORS.split(request.strip())[0].lower()
    return language if language in LOCALES else None

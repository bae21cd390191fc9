"""The languages that mails are written in, and which of them a wish names. Pure.

Wishes come from jobs, from people's preferences and from the configuration, in any spelling or shape.
"""

from __future__ import annotations

import re

LOCALES = ("en", "fr")
REGION = re.compile("[-_.@]")
LONGEST_WISH = 64


def spoken(wish: object) -> str | None:
    """The language of ours that a wish such as `fr`, `fr-CA` or `FR_fr.UTF-8` names; None for all else."""
    if not isinstance(wish, str) or len(wish) > LONGEST_WISH:
        return None
    language = REGION.split(wish.strip())[0].lower()
    return language if language in LOCALES else None

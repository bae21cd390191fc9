"""The built-in languages, and matching of language tags. Pure.

Tags come from jobs, user preferences and the configuration, in any spelling and of any type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LOCALES = ("en", "fr")
TAG_SEPARATORS = re.compile("[-_.@]")
MAX_TAG_LENGTH = 64


def match_locale(tag: object, locales: Sequence[str] = LOCALES) -> str | None:
    """The supported language of a tag such as `fr`, `fr-CA` or `FR_fr.UTF-8`; None for anything else."""
    if not isinstance(tag, str) or len(tag) > MAX_TAG_LENGTH:
        return None
    language = TAG_SEPARATORS.split(tag.strip())[0].lower()
    return language if language in locales else None

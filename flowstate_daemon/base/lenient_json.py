"""Repairs JSON whose only fault is dirt: the text parses again, and what it means stays. Pure."""

from __future__ import annotations

import codecs
import json

from flowstate_daemon.base.text import replace_surrogates


def repair_json(data: bytes) -> bytes:
    """The same JSON without what strict parsers refuse.

    Half surrogate pairs, which `JSON.stringify` writes for an emoji cut in the middle, and bytes that are not UTF-8
    become U+FFFD. Bare control characters in strings are escaped, a byte order mark is removed, and NaN and Infinity
    become null, as JavaScript writes them.

    Raises:
        ValueError, RecursionError: the text is not JSON, or it is nested too deeply.
    """
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    value = json.loads(text, strict=False, parse_constant=_null)
    return replace_surrogates(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode()


def _null(_name: str) -> None:
    return None

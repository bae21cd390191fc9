"""One-time codes leave a job when it has ended: what is left of its data may be looked at by anybody. Pure.

`work` asks for the data to put in place of a job's own; the marks are known to `fields`, which refuses to send them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flowstate_daemon.mail.catalogue import KINDS
from flowstate_daemon.mail.fields import SCRUBBED

NOTHING_LEFT = msgspec.json.encode({"scrubbed": "this data could not be read, and may have held a one-time code"})
SECRET = frozenset(name for kind in KINDS.values() for name in kind.secret_fields)
MARKS = tuple(f'"{name}"'.encode() for name in SECRET)


def without_codes(kind: str, data: bytes) -> bytes:
    """The data of an ended job without its codes; empty when it never held any."""
    known = KINDS.get(kind)
    if known is None or not known.secret_fields:
        return _elsewhere(data) if any(mark in data for mark in MARKS) else b""
    try:
        content = msgspec.json.decode(data)
        context = content["context"]
        left = {name: SCRUBBED if name in known.secret_fields else value for name, value in context.items()}
        return msgspec.json.encode({**content, "context": left})
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError, KeyError, AttributeError):
        return NOTHING_LEFT


def _elsewhere(data: bytes) -> bytes:
    """The data of a job under another name: whatever stands where a code would stand is taken for one."""
    try:
        return msgspec.json.encode(_scrubbed(msgspec.json.decode(data)))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return NOTHING_LEFT


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: SCRUBBED if name in SECRET else _scrubbed(member) for name, member in value.items()}
    return [_scrubbed(member) for member in value] if isinstance(value, list) else value

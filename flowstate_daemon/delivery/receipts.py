"""Who of a request was accepted: the provider's good answer, matched with the mails in the order of the body.

Pure; called by `answers`, which asks whether an answer is one of these at all, and by the gateways. In a permissive
batch the provider names the refused by their place and lists only the ids of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowstate_daemon.delivery.gateway import Refused, Result
from flowstate_daemon.mail.message import Accepted


def is_receipt(content: object) -> bool:
    """Does this look like the acceptance of a request, be it of some of its mails only?"""
    match content:
        case {"id": str(one)}:
            return bool(one)
        case {"data": list(rows), **more}:
            return all(_id(row) or (more.get("errors") and row in (None, {}, {"id": None})) for row in rows)
    return False


def results_in(content: object, count: int, provider: str) -> tuple[Result, ...] | None:
    """What became of each of `count` mails; None when the answer does not fit the request."""
    match content:
        case {"id": str(one)} if one and count == 1:
            return (Accepted(one, provider),)
        case {"data": list(rows), **more}:
            refused = _refused(more.get("errors") or [], count)
            return None if refused is None else _matched(rows, refused, count, provider)
    return None


def _refused(errors: Any, count: int) -> Mapping[int, str] | None:
    """The provider's words on each refused mail, by its place."""
    refused: dict[int, str] = {}
    for error in errors if isinstance(errors, list) else [None]:
        match error:
            case {"index": int(index), **more} if 0 <= index < count and index not in refused:
                message = more.get("message")
                refused[index] = message if isinstance(message, str) else ""
            case _:
                return None
    return refused


def _matched(rows: Sequence[Any], refused: Mapping[int, str], count: int, provider: str) -> tuple[Result, ...] | None:
    """Ids stand in the order of the body; the refused have no row, or one without an id."""
    ids = [_id(row) for row in rows]
    if len(ids) == count - len(refused) and refused:
        following = iter(ids)
        ids = [None if place in refused else next(following) for place in range(count)]
    if len(ids) != count or any(one is None and place not in refused for place, one in enumerate(ids)):
        return None
    return tuple(Refused(refused[place]) if one is None else Accepted(one, provider) for place, one in enumerate(ids))


def _id(row: Any) -> str | None:
    return str(row["id"]) if isinstance(row, dict) and row.get("id") else None

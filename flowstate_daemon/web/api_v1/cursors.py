"""Cursors of the API: the last row of a page, as text that clients pass on unread."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from pydantic import AfterValidator, Field

from flowstate_daemon.base.text import storable
from flowstate_daemon.web.api_v1.endpoints import unfulfillable

INVALID = "use next_cursor of the page before"
MAX_TEXT = 2_000


class RowCursor(msgspec.Struct, frozen=True, array_like=True):
    """The last row of a page of the ledger."""

    at: datetime
    key: str
    outcome: str


class EntryCursor(msgspec.Struct, frozen=True, array_like=True):
    """The last entry of a page of suppressions or unsubscribes: the address, and the reason or kind."""

    address: str
    detail: str


C = TypeVar("C", RowCursor, EntryCursor)


def write_cursor(cursor: RowCursor | EntryCursor) -> str:
    return urlsafe_b64encode(msgspec.json.encode(cursor)).decode()


def read_cursor(text: str, kind: type[C]) -> C | None:
    """The cursor, None for "". Raises PydanticCustomError, as validators do, for what this API has not written."""
    if not text:
        return None
    try:
        cursor = msgspec.json.decode(urlsafe_b64decode(text.encode("ascii")), type=kind)
    except (binascii.Error, ValueError):
        raise unfulfillable(INVALID) from None
    if not all(is_storable(value) for value in msgspec.structs.astuple(cursor)):
        raise unfulfillable(INVALID)
    return cursor


def _check_row(text: str) -> str:
    read_cursor(text, RowCursor)
    return text


def _check_entry(text: str) -> str:
    read_cursor(text, EntryCursor)
    return text


RowCursorText = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_check_row)]
EntryCursorText = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_check_entry)]


def is_storable(value: str | datetime) -> bool:
    """Whether Postgres accepts the value: text without NUL, a time with a zone. Pure."""
    return value.tzinfo is not None if isinstance(value, datetime) else storable(value, MAX_TEXT) == value

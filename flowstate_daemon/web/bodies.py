"""Reads request bodies and posted forms, within limits of size, time and memory."""

from __future__ import annotations

import asyncio
from email import message_from_bytes
from urllib.parse import parse_qsl

from aiohttp import web

from flowstate_daemon.web.limits import BODY_MEMORY

READ_TIMEOUT_S = 10.0
MAX_FIELDS = 20


async def read_body(request: web.Request, max_bytes: int, *, within_s: float = READ_TIMEOUT_S) -> bytes:
    """The raw body.

    Raises 408 after `within_s`, 413 above `max_bytes`, 400 for an incomplete body, and 503 when the bodies of all
    requests use too much memory.
    """
    body = bytearray()
    announced = request.content_length or 0
    memory = request.app[BODY_MEMORY]
    try:
        async with asyncio.timeout(within_s):
            while announced <= max_bytes >= len(body) and (part := await request.content.readany()):
                memory.add(request, len(part))
                body += part
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError:
        raise web.HTTPBadRequest from None
    if max(announced, len(body)) > max_bytes:
        raise web.HTTPRequestEntityTooLarge(max_bytes, max(announced, len(body)))
    return bytes(body)


def read_form(content_type: str, body: bytes, *, max_fields: int = MAX_FIELDS) -> dict[str, str]:
    """The fields of a URL-encoded or multipart form; empty for any other body, and for one with too many fields."""
    if content_type.lower().startswith("multipart/form-data"):
        return _read_multipart(content_type, body)
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=max_fields))
    except ValueError:
        return {}


def _read_multipart(content_type: str, body: bytes) -> dict[str, str]:
    """Parse with the standard email parser: multipart forms use its format, and it accepts any bytes."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("utf-8", "replace")
    message = message_from_bytes(head + body)
    fields = {}
    for part in message.walk():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content.decode("utf-8", "replace").strip()
    return fields

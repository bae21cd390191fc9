"""Bodies that strangers send: read up to a size and a deadline, and forms taken out of them without a crash.

Used by the routes that take a POST. aiohttp's own reader of forms raises a dozen kinds of errors and writes files.
"""

from __future__ import annotations

import asyncio
from email import message_from_bytes
from urllib.parse import parse_qsl

from aiohttp import web

READ_S = 10.0
MOST_FIELDS = 20


async def read_body(request: web.Request, most: int, *, within_s: float = READ_S) -> bytes:
    """The raw body; never more than `most` bytes are kept. Refuses with 408, 413, or 400 for a body cut off."""
    body = bytearray()
    announced = request.content_length or 0
    try:
        async with asyncio.timeout(within_s):
            while announced <= most >= len(body) and (part := await request.content.readany()):
                body += part
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError:
        raise web.HTTPBadRequest from None
    if max(announced, len(body)) > most:
        raise web.HTTPRequestEntityTooLarge(most, max(announced, len(body)))
    return bytes(body)


def read_form(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form of either type; empty for anything that is none."""
    if content_type.lower().startswith("multipart/form-data"):
        return _parts(content_type, body)
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        return {}


def _parts(content_type: str, body: bytes) -> dict[str, str]:
    """The mail library reads what web forms borrowed from mail, and takes any bytes whatever."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("utf-8", "replace")
    message = message_from_bytes(head + body)
    fields = {}
    for part in message.walk():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content.decode("utf-8", "replace").strip()
    return fields

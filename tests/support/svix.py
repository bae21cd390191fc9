"""Webhooks as Resend signs and sends them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import msgspec

from flowstate_daemon.base.clock import Clock

SECRET = "whsec_" + base64.b64encode(b"twenty-four bytes of key").decode()


def report(event_type: str, *, created_at: Any = "2026-03-02T08:00:00.000Z", **data: Any) -> bytes:
    """The body of a webhook; `data` replaces members of its data."""
    members = {"email_id": "re-1", "to": ["ada@example.org"], "from": "x@example.org", "subject": "s", **data}
    return msgspec.json.encode({"type": event_type, "created_at": created_at, "data": members})


def signed(body: bytes, *, secret: str = SECRET, svix_id: str = "msg_1", sent_s: int | None = None) -> dict[str, str]:
    """The signature headers for a body."""
    when = Clock().now_ms() // 1000 if sent_s is None else sent_s
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, b"%s.%d.%s" % (svix_id.encode(), when, body), hashlib.sha256)
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"svix-id": svix_id, "svix-timestamp": str(when), "svix-signature": signature}

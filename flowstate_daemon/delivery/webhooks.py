"""Resend's webhooks: verifies the signature of the raw body and parses the payload into an event.

The SDK verifies the signature; it reports neither which rule failed nor what the payload means. Unknown members are
ignored, because the provider adds to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import resend

from flowstate_daemon.base.address import ascii_domain
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, FlowstateError, InvalidDataError
from flowstate_daemon.config.validators import is_webhook_secret
from flowstate_daemon.mail.message import ProviderEvent

TOLERANCE_S = 300  # the SDK's own
SIGNATURE = re.compile(r"(?:^| )v1,[A-Za-z0-9+/]{43}=(?: |$)", re.ASCII)  # HMAC-SHA256 in base64; several are possible
PREFIX = "email."
SUPPRESSION_REMOVED = "suppression.removed"
ANGLE_ADDRESS = re.compile(r"<([^<>]*)>\s*$")
HARD_BOUNCE = "permanent"  # the provider's type of a bounce after which no email can arrive


class InvalidSignatureError(FlowstateError):
    """The webhook is not signed with any of our secrets."""


class StaleTimestampError(FlowstateError):
    """The webhook was signed too long ago or in the future: it may be a replay."""


class WebhookVerifier:
    """Verifies signed webhooks. Several secrets are valid while one replaces another."""

    def __init__(self, secrets: Sequence[str], clock: Clock) -> None:
        """Raises ConfigError for a secret that does not have the provider's format."""
        if not secrets or not all(map(is_webhook_secret, secrets)):
            raise ConfigError(["the webhook secret must be like whsec_…: copy it from the webhook's page at Resend"])
        self._secrets = tuple(secrets)
        self._clock = clock

    def check_headers(self, headers: Mapping[str, str]) -> None:
        """Reject what no body can make valid.

        Raises:
            StaleTimestampError, InvalidSignatureError: the webhook must not be trusted.
        """
        sent_s = _parse_timestamp(headers.get("svix-timestamp", ""))
        if abs(self._clock.now_ms() // 1000 - sent_s) > TOLERANCE_S:
            raise StaleTimestampError("the webhook was signed too long ago, or this machine's clock is wrong")
        if not headers.get("svix-id", "") or not SIGNATURE.search(headers.get("svix-signature", "")):
            raise InvalidSignatureError("the webhook has no id or no valid signature")

    def verify(self, headers: Mapping[str, str], body: bytes) -> ProviderEvent | None:
        """The event of a signed webhook; None if it is not about an email.

        Raises:
            StaleTimestampError, InvalidSignatureError: the webhook must not be trusted.
            InvalidDataError: it is signed, but the payload is invalid.
        """
        self.check_headers(headers)
        signed = {name: headers.get(f"svix-{name}", "") for name in ("id", "timestamp", "signature")}
        return _parse_event(signed["id"], _parse_timestamp(signed["timestamp"]), self._verify_signature(signed, body))

    def _verify_signature(self, signed: Mapping[str, str], body: bytes) -> object:
        try:
            payload = body.decode()
        except UnicodeDecodeError:
            raise InvalidSignatureError("the body is not UTF-8 text") from None
        for secret in self._secrets:
            options: Any = {"payload": payload, "headers": signed, "webhook_secret": secret}
            try:
                return resend.Webhooks.verify(options)
            except RecursionError:
                raise InvalidDataError("Expected JSON that is less deeply nested") from None
            except ValueError as refusal:
                if isinstance(refusal.__cause__, json.JSONDecodeError):  # parsed only once the signature is right
                    raise InvalidDataError("Expected JSON") from None
        raise InvalidSignatureError("the signature matches none of our secrets")


def _parse_timestamp(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidSignatureError("the webhook has no valid timestamp") from None


def _parse_event(svix_id: str, sent_s: int, payload: object) -> ProviderEvent | None:
    members = _members(payload)
    event_type = members.get("type")
    if not isinstance(event_type, str) or not event_type:
        raise InvalidDataError("Expected an event with a type - at `$.type`")
    data = _members(members.get("data"))
    at = _parse_time_ms(members.get("created_at"), sent_s * 1000)
    if event_type == SUPPRESSION_REMOVED:
        address = _address(data.get("email"))
        return ProviderEvent(svix_id, _text(data.get("id")), event_type, at, address) if address else None
    provider_id = _text(data.get("email_id"))
    if not event_type.startswith(PREFIX) or not provider_id:
        return None
    event_type = event_type.removeprefix(PREFIX)
    return ProviderEvent(
        svix_id=svix_id,
        provider_id=provider_id,
        type=event_type,
        at=at,
        address=_address(data.get("to")),
        reason=_reason(data, event_type),
        suppress=_suppression(event_type, data),
        sender_domain=ascii_domain(_bare_address(_text(data.get("from"))).rpartition("@")[2]),
    )


def _suppression(event_type: str, data: Mapping[str, Any]) -> str | None:
    """Complaints, hard bounces and the provider's list suppress an address; a full mailbox does not."""
    if event_type == "bounced":
        return event_type if _text(_members(data.get("bounce")).get("type")).lower() == HARD_BOUNCE else None
    return event_type if event_type in {"complained", "suppressed"} else None


def _address(to: object) -> str:
    """The recipient. Our emails have exactly one; of several, it is unknown which address bounced."""
    if isinstance(to, list):
        to = to[0] if len(to) == 1 else ""
    return _bare_address(_text(to))


def _bare_address(text: str) -> str:
    """The address in `a@b.c` or `Name <a@b.c>`, whatever the name contains."""
    angle = ANGLE_ADDRESS.search(text)
    return (angle[1] if angle else text).strip()


def _reason(data: Mapping[str, Any], event_type: str) -> str | None:
    """The provider's explanation of what went wrong, from general to specific."""
    details = _members(data.get({"bounced": "bounce"}.get(event_type, event_type)))
    parts = [_text(details.get(name)) for name in ("type", "subType", "reason", "message")]
    return ": ".join(part for part in parts if part) or None


def _parse_time_ms(text: object, default_ms: int) -> int:
    try:
        parsed = datetime.fromisoformat(_text(text))
        aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        return int(aware.timestamp() * 1000)
    except (ValueError, OverflowError):
        return default_ms


def _members(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

"""What Resend reports about mails: signatures verified on the raw body, reports read into events. Used by `web`.

The SDK verifies; it says neither which rule was broken nor what a report means. Whatever a report holds beyond the
few members that we know is ignored, because the provider adds to them.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parseaddr
from typing import Any

import resend

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, FlowstateError, InvalidDataError
from flowstate_daemon.mail.message import Bounce, ProviderEvent

TOLERANCE_S = 300  # the SDK's own
MIN_KEY_BYTES = 16  # bytes; the SDK would take an empty key, under which anybody can sign
PREFIX = "email."
BOUNCES: Mapping[str, Bounce] = {"permanent": "permanent", "transient": "transient", "temporary": "transient"}


class InvalidSignatureError(FlowstateError):
    """Not signed under any of our secrets."""


class StaleTimestampError(FlowstateError):
    """Signed too long ago, or in the future: somebody may be playing an old report again."""


class WebhookVerifier:
    """Reads signed reports; several secrets while one replaces the other."""

    def __init__(self, secrets: Sequence[str], clock: Clock) -> None:
        """Raises ConfigError for a secret that no provider has given out."""
        if not secrets or not all(map(_is_usable_secret, secrets)):
            raise ConfigError(["the webhook secret must be like whsec_…: copy it from the webhook's page at Resend"])
        self._secrets = tuple(secrets)
        self._clock = clock

    def verify(self, headers: Mapping[str, str], body: bytes) -> ProviderEvent | None:
        """The event in a signed report; None for a report that is not about a mail.

        Raises:
            Stale, Forged: the report must not be believed.
            Malformed: it is signed, but it is no report.
        """
        signed = {name: headers.get(f"svix-{name}", "") for name in ("id", "timestamp", "signature")}
        sent_s = _parse_timestamp(signed["timestamp"])
        if abs(self._clock.now_ms() // 1000 - sent_s) > TOLERANCE_S:
            raise StaleTimestampError("the report was signed too long ago, or this machine's clock is wrong")
        return _event(signed["id"], sent_s, self._verified(signed, body))

    def _verified(self, signed: Mapping[str, str], body: bytes) -> object:
        try:
            payload = body.decode()
        except UnicodeDecodeError:
            raise InvalidSignatureError("the report is no text") from None
        for secret in self._secrets:
            options: Any = {"payload": payload, "headers": signed, "webhook_secret": secret}
            try:
                return resend.Webhooks.verify(options)
            except RecursionError:
                raise InvalidDataError("Expected a report in JSON, less deeply nested") from None
            except ValueError as refusal:
                if isinstance(refusal.__cause__, json.JSONDecodeError):  # parsed only once the signature is right
                    raise InvalidDataError("Expected a report in JSON") from None
        raise InvalidSignatureError("the signature fits none of our secrets")


def _is_usable_secret(secret: str) -> bool:
    try:
        return len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) >= MIN_KEY_BYTES
    except (ValueError, binascii.Error):
        return False


def _parse_timestamp(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidSignatureError("the report carries no time of signing") from None


def _event(svix_id: str, sent_s: int, report: object) -> ProviderEvent | None:
    members = _members(report)
    word = members.get("type")
    if not isinstance(word, str) or not word:
        raise InvalidDataError("Expected a report with a type - at `$.type`")
    data = _members(members.get("data"))
    provider_id = _text(data.get("email_id"))
    if not word.startswith(PREFIX) or not provider_id:
        return None
    kind = word.removeprefix(PREFIX)
    bounce = _bounce(data) if kind == "bounced" else None
    return ProviderEvent(
        svix_id=svix_id,
        provider_id=provider_id,
        type=kind,
        at=_instant_ms(members.get("created_at"), sent_s * 1000),
        address=_address(data.get("to")),
        reason=_reason(data, kind),
        suppress=_suppression(kind, bounce),
        bounce=bounce,
    )


def _suppression(kind: str, bounce: Bounce | None) -> str | None:
    """A full mailbox or an unclear refusal is no reason to give an address up."""
    if kind == "complained" or (kind == "bounced" and bounce == "permanent"):
        return kind
    return None


def _bounce(data: Mapping[str, Any]) -> Bounce:
    word = _text(_members(data.get("bounce")).get("type")).lower()
    return BOUNCES.get(word, "undetermined")


def _address(to: object) -> str:
    """The one recipient. Our mails have one; of several, nobody can say whose address bounced."""
    if isinstance(to, list):
        to = to[0] if len(to) == 1 else ""
    return parseaddr(_text(to))[1]


def _reason(data: Mapping[str, Any], kind: str) -> str | None:
    """The provider's words about what went wrong, most telling last."""
    details = _members(data.get({"bounced": "bounce"}.get(kind, kind)))
    text = [_text(details.get(name)) for name in ("type", "subType", "reason", "message")]
    return ": ".join(word for word in text if word) or None


def _instant_ms(text: object, otherwise_ms: int) -> int:
    try:
        instant = datetime.fromisoformat(_text(text))
        aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
        return int(aware.timestamp() * 1000)
    except (ValueError, OverflowError):
        return otherwise_ms


def _members(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

"""The rendered email, and what the provider reports about it. Independent of queue and provider."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from flowstate_daemon.base.redaction import mask_address


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """One webhook event, `svix_id`, about the email `provider_id`. `type` has no `email.` prefix; `at` is Unix ms.

    `suppress` is `bounced`, `complained` or `suppressed` when no more emails may be sent to the address.
    `sender_domain` is that of the email's `From`: other senders may use the same account.
    """

    svix_id: str
    provider_id: str
    type: str
    at: int
    address: str = field(repr=False)
    reason: str | None = None
    suppress: str | None = None
    sender_domain: str = ""


__all__ = ["Accepted", "Email", "mask_address"]


class Email(msgspec.Struct, frozen=True):
    """One rendered email to one recipient. `headers` are extra RFC 5322 header fields; `tags` are ASCII."""

    kind: str
    sender: str
    to: str
    subject: str
    html: str
    text: str
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    has_code: bool = False
    reply_to: str = ""


class Accepted(msgspec.Struct, frozen=True):
    """The provider accepted the email; `provider_id` is the provider's id for it."""

    provider_id: str
    provider: str

"""The finished mail as it travels from the renderer to the provider. Knows nothing of queues or providers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flowstate_daemon.base.redaction import mask_address

Bounce = Literal["permanent", "transient", "undetermined"]


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """`svix_id` names the report itself, `provider_id` the mail; `type` is without `email.`, `at` in Unix ms.

    `suppress` is `bounced` or `complained` when the address must not be written to again.
    """

    svix_id: str
    provider_id: str
    type: str
    at: int
    address: str = field(repr=False)
    reason: str | None = None
    suppress: str | None = None
    bounce: Bounce | None = None


__all__ = ["Accepted", "Email", "mask_address"]


@dataclass(frozen=True, slots=True)
class Email:
    """One mail to one person, rendered. `headers` are extra RFC 5322 header fields; `tags` ASCII words."""

    kind: str
    sender: str
    to: str
    subject: str
    html: str
    text: str
    headers: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has taken the mail; `provider_id` is its own name for it."""

    provider_id: str
    provider: str

"""The finished mail as it travels from the renderer to the provider. Knows nothing of queues or providers."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowstate_daemon.base.privacy import masked

__all__ = ["Accepted", "Email", "masked"]


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

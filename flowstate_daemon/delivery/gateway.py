"""What the engine asks of a provider. Two implementations: `resend_gateway` and, without a key, `outbox`."""

from __future__ import annotations

from typing import ClassVar, Protocol

from flowstate_daemon.mail.message import Accepted, Email


class Gateway(Protocol):
    """A way out for mails. `open` connects, `close` closes; many coroutines may `send` at once."""

    name: ClassVar[str]

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, email: Email, *, idempotency_key: str) -> Accepted:
        """Hand over one mail, at most once per `idempotency_key` (1 to 256 characters) within 24 h.

        Raises:
            Retry: the outcome is unknown or the provider is ill: try again with the same key.
            Throttled: not processed, the whole pool slows down for `after_ms`.
            LaneClosed: key, account or domain are refused: no mail can leave.
            Final: this mail will never be accepted.
        """
        ...

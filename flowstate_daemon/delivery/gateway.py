"""What the engine asks of a provider. Two implementations: `resend_gateway` and, without a key, `outbox`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeAlias

from flowstate_daemon.mail.message import Accepted, Email

MAX_BATCH_SIZE: Final = 100
MAX_BATCHED_MAIL_SIZE: Final = 256 * 1024  # characters of one mail: a hundred of them are a request of 25 MB
SINGLE_PATH: Final = "/emails"
BATCH_PATH: Final = "/emails/batch"


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider has not taken this mail of a request, and why; the others of the request are not touched."""

    reason: str


Result: TypeAlias = Accepted | Rejected


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of each mail of a request, in the order of its body."""

    results: tuple[Result, ...]


def size(email: Email) -> int:
    """How long a mail is, in characters."""
    return len(email.html) + len(email.text)


class Gateway(Protocol):
    """A way out for mails. `open` connects, `close` closes; many coroutines may `deliver` at once."""

    name: ClassVar[str]

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def can_batch(self, email: Email) -> bool:
        """May this mail travel with others in one request?"""
        ...

    def encode(self, email: Email) -> bytes:
        """The mail as its part of a request: the same bytes for the same mail. Raises Final."""
        ...

    def build_request(self, written: Sequence[bytes]) -> tuple[str, bytes]:
        """Path and body of the request for mails that were written before."""
        ...

    async def send(self, path: str, body: bytes, idempotency_key: str, mails: int) -> Delivery:
        """Hand over a composed request of `mails` mails, at most once per `idempotency_key` within 24 h.

        The key has 1 to 256 characters.

        Raises:
            Retry: the outcome is unknown or the provider is ill: try again with the same key.
            InProgress: the provider works on this request already: ask again after `after_ms`.
            AcceptedEarlier: the provider has taken it before, with another body.
            Throttled: not processed, the whole pool slows down for `after_ms`.
            QuotaExhausted: not processed, nor will others be until `until_ms`.
            LaneClosed: key, account or domain are refused: no mail can leave.
            Final: the request as a whole will never be accepted; none of its mails was.
        """
        ...

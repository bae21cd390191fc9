"""The interface to an email provider. Implemented by `resend_gateway` and by `outbox`, which writes files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeAlias

from flowstate_daemon.base.errors import RateLimit, ResultClass
from flowstate_daemon.mail.message import Accepted, Email

MAX_BATCH_SIZE: Final = 100
MAX_BATCHED_MAIL_SIZE: Final = 256 * 1024  # characters of one email: a hundred of them are a request of 25 MB
SINGLE_PATH: Final = "/emails"
BATCH_PATH: Final = "/emails/batch"


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider rejected this email of a request; the other emails of the request are not affected."""

    reason: str


Result: TypeAlias = Accepted | Rejected


@dataclass(frozen=True, slots=True)
class SendResult:
    """The response to one request: a result for each email, in the order of the body, and the rate headers.

    `result` is the class of the result for the metrics; None if no request was made to a provider.
    """

    results: tuple[Result, ...]
    rate_limit: RateLimit | None = None
    result: ResultClass | None = None


def size(email: Email) -> int:
    """The size of an email, in characters."""
    return len(email.html) + len(email.text)


class Gateway(Protocol):
    """Sends emails. `open` connects, `close` closes; several coroutines may call `send` at the same time."""

    name: ClassVar[str]

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def can_batch(self, email: Email) -> bool:
        """Whether this email may share a request with others."""
        ...

    def encode(self, email: Email) -> bytes:
        """The email as its part of a request: the same bytes for the same email. Raises PermanentError."""
        ...

    def build_request(self, encoded: Sequence[bytes]) -> tuple[str, bytes]:
        """Path and body of the request for encoded emails."""
        ...

    async def check_access(self) -> None:
        """Ask the provider for something that sends nothing. Raises the errors that `send` raises."""
        ...

    async def send(self, path: str, body: bytes, idempotency_key: str, mails: int) -> SendResult:
        """Send a request of `mails` emails; the provider accepts it at most once per `idempotency_key` within 24 h.

        The key has 1 to 256 characters. Each error carries the class of the result and the rate headers.

        Raises:
            RetryableError: the outcome is unknown or the provider fails: try again with the same key.
            ProviderUnreachableError: the request could not start, for want of descriptors, memory, DNS or a network.
            RequestInProgressError: the provider still processes this request: ask again after `after_ms`.
            AlreadyAcceptedError: the provider accepted this key before, with another body.
            RateLimitedError: not processed; every sender waits for `after_ms`.
            QuotaExceededError: not processed; nor will other requests be until `until_ms`.
            ProviderRefusedError: key, account, sender or endpoint are refused: no email can be sent.
            UnclearRefusalError: a refusal that may concern every email or only these.
            PermanentError: the request as a whole will never be accepted; none of its emails was.
        """
        ...

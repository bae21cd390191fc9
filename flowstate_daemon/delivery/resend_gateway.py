"""The way out through Resend: its SDK builds requests, `transport` carries them, `answers` reads the replies.

Built by `daemon`, and by `cli` for `check`. Nothing here logs, so no key is ever logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

import msgspec
import resend
from resend.exceptions import ResendError

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, PermanentError, ProviderRefusedError, RetryableError
from flowstate_daemon.delivery.gateway import (
    BATCH_PATH,
    MAX_BATCHED_MAIL_SIZE,
    SINGLE_PATH,
    Delivery,
    Rejected,
    Result,
    size,
)
from flowstate_daemon.delivery.responses import parse_results, safe_text
from flowstate_daemon.delivery.transport import OnAnswer, RequestFailedError, Transport, raw_body
from flowstate_daemon.mail.message import Email


@dataclass(frozen=True, slots=True)
class ResendOptions:
    """Where and how to reach Resend over `concurrency` connections; the key stays out of `repr`."""

    api_key: str = field(repr=False)
    api_url: str = "https://api.resend.com"
    timeout_s: float = 15.0
    concurrency: int = 12


class KeyStatus(Enum):
    """What the provider thinks of our key."""

    FULL = "full access"
    SENDING = "may send only"
    REFUSED = "refused"
    UNKNOWN = "no answer"


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """The provider's word on the key, and the state of each domain where the key may ask for it."""

    standing: KeyStatus
    reason: str = ""
    domains: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        return self.standing in (KeyStatus.FULL, KeyStatus.SENDING)


class ResendGateway:
    """Sends through `resend.Emails.send_async` and `resend.Batch.send_async` over one shared session."""

    name: ClassVar[str] = "resend"

    def __init__(
        self, settings: ResendOptions, *, clock: Clock | None = None, on_answer: OnAnswer | None = None
    ) -> None:
        """`on_answer(class, seconds, rate)` hears of every answer, and of every request that got none."""
        self._settings = settings
        self._transport = Transport(
            timeout_s=settings.timeout_s,
            concurrency=settings.concurrency,
            clock=clock or Clock(),
            on_answer=on_answer,
        )

    async def open(self) -> None:
        await self._transport.open()
        self._configure_sdk()

    async def close(self) -> None:
        if resend.default_async_http_client is self._transport:
            resend.default_async_http_client = None
            resend.api_key = None
        await self._transport.close()

    def can_batch(self, email: Email) -> bool:
        """Attachments, which batches exclude, no mail of ours has; giants would make a request too long to carry."""
        return size(email) <= MAX_BATCHED_MAIL_SIZE

    def encode(self, email: Email) -> bytes:
        """The mail as the API wants it. Raises Final."""
        try:
            return msgspec.json.encode(_parameters(email))
        except UnicodeEncodeError as error:
            raise PermanentError(
                "the mail holds half a character (a lone surrogate), which no provider can be told"
            ) from error

    def build_request(self, written: Sequence[bytes]) -> tuple[str, bytes]:
        """One mail goes to the single endpoint, several to the batch endpoint."""
        if len(written) == 1:
            return SINGLE_PATH, written[0]
        return BATCH_PATH, b"[%b]" % b",".join(written)

    async def send(self, path: str, body: bytes, idempotency_key: str, mails: int) -> Delivery:
        """Hand over one composed request. Raises as `Gateway.deliver` says."""
        self._configure_sdk()
        try:
            content = await self._send(path, body, idempotency_key)
        except ResendError as error:
            raise _to_error(error) from error
        results = parse_results(content, mails, self.name)
        if results is None:
            raise RetryableError(f"Resend's answer does not fit a request of {mails} mails")
        return Delivery(tuple(_redact_result(result) for result in results))

    async def _send(self, path: str, body: bytes, key: str) -> Any:
        if path == SINGLE_PATH:
            return await resend.Emails.send_async(raw_body(body), {"idempotency_key": key})
        # Where the provider does not know this option (any more), one bad mail has the whole batch refused.
        options: resend.Batch.SendOptions = {"idempotency_key": key, "batch_validation": "permissive"}
        return await resend.Batch.send_async([raw_body(body)], options)

    async def check(self) -> KeyCheck:
        """Is the key good? Asks for the domains; a key that may only send is refused that, and is fine."""
        self._configure_sdk()
        try:
            content = await resend.Domains.list_async()
        except ResendError as error:
            result = _to_error(error)
            if error.error_type == "restricted_api_key":
                return KeyCheck(KeyStatus.SENDING)
            refused = isinstance(result, ProviderRefusedError)
            return KeyCheck(KeyStatus.REFUSED if refused else KeyStatus.UNKNOWN, result.reason)
        domains = {str(row.get("name")): str(row.get("status")) for row in content.get("data", [])}
        return KeyCheck(KeyStatus.FULL, domains=domains)

    def _configure_sdk(self) -> None:
        """Point the SDK's module globals at this gateway.

        The SDK has no client object: key, address and HTTP client are globals, which it reads when a call
        starts, before its first await. Setting them just before each call therefore keeps several gateways in
        one event loop apart, which setting them once would not.
        """
        resend.api_key = self._settings.api_key
        resend.api_url = self._settings.api_url.rstrip("/")
        resend.default_async_http_client = self._transport


def _redact_result(result: Result) -> Result:
    """The provider's words on a refused mail, fit to be stored and shown."""
    if isinstance(result, Rejected):
        return Rejected(f"Resend: {safe_text(result.reason) or 'no message'} (refused in a batch)")
    return result


def _parameters(email: Email) -> dict[str, Any]:
    """The mail's members, always in the same order: the same mail is the same bytes."""
    parameters: dict[str, Any] = {
        "from": email.sender,
        "to": [email.to],
        "subject": email.subject,
        "html": email.html,
        "text": email.text,
    }
    if email.headers:
        parameters["headers"] = dict(email.headers)
    if email.tags:
        parameters["tags"] = [{"name": name, "value": value} for name, value in email.tags.items()]
    return parameters


def _to_error(error: ResendError) -> FlowstateError:
    """What an error out of the SDK means; one that is not ours is the SDK's own trouble with an answer."""
    if isinstance(error, RequestFailedError) and error.result.error is not None:
        return error.result.error
    cause = type(error.__context__ or error).__name__
    return RetryableError(f"Resend's library could not use the answer ({cause})")

"""Sends through Resend: its SDK builds the requests, `transport` sends them, `responses` interprets the responses.

Nothing here logs, so no key is ever logged.
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
from flowstate_daemon.base.redaction import redact_provider_text
from flowstate_daemon.delivery.gateway import (
    BATCH_PATH,
    MAX_BATCHED_MAIL_SIZE,
    SINGLE_PATH,
    Rejected,
    Result,
    SendResult,
    size,
)
from flowstate_daemon.delivery.responses import parse_rate_limit, parse_results
from flowstate_daemon.delivery.transport import RequestFailedError, Transport, raw_body
from flowstate_daemon.mail.message import Email


@dataclass(frozen=True, slots=True)
class ResendOptions:
    """How to reach Resend, over at most `concurrency` connections. `repr` does not show the key."""

    api_key: str = field(repr=False)
    api_url: str = "https://api.resend.com"
    timeout_s: float = 15.0
    concurrency: int = 12
    proxy_url: str | None = field(default=None, repr=False)


class KeyStatus(Enum):
    """What our key may do."""

    FULL = "full access"
    SENDING = "may send only"
    REFUSED = "refused"
    UNKNOWN = "no response"


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """The status of the key, and the state of each domain if the key may list them."""

    status: KeyStatus
    reason: str = ""
    domains: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        return self.status in (KeyStatus.FULL, KeyStatus.SENDING)


class ResendGateway:
    """Sends through `resend.Emails.send_async` and `resend.Batch.send_async` over one shared session."""

    name: ClassVar[str] = "resend"

    def __init__(self, options: ResendOptions, *, clock: Clock | None = None) -> None:
        self._options = options
        self._transport = Transport(
            timeout_s=options.timeout_s,
            concurrency=options.concurrency,
            clock=clock or Clock(),
            proxy_url=options.proxy_url,
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
        """Large emails are sent alone: a hundred of them would make a request that is too large."""
        return size(email) <= MAX_BATCHED_MAIL_SIZE

    def encode(self, email: Email) -> bytes:
        """The email in the form of the API. Raises PermanentError."""
        try:
            return msgspec.json.encode(_parameters(email))
        except UnicodeEncodeError as error:
            raise PermanentError(
                "the email contains a lone surrogate (half a character), which cannot be encoded"
            ) from error

    def build_request(self, encoded: Sequence[bytes]) -> tuple[str, bytes]:
        """One email uses the single endpoint, several use the batch endpoint."""
        if len(encoded) == 1:
            return SINGLE_PATH, encoded[0]
        return BATCH_PATH, b"[%b]" % b",".join(encoded)

    async def send(self, path: str, body: bytes, idempotency_key: str, mails: int) -> SendResult:
        """Send one request. Raises the errors that `Gateway.send` lists."""
        self._configure_sdk()
        try:
            content = await self._send(path, body, idempotency_key)
        except ResendError as error:
            raise _to_error(error) from error
        rate_limit = parse_rate_limit(content.get("http_headers", {}))  # the SDK adds the headers to the content
        results = parse_results(content, mails, self.name)
        if results is None:
            mismatch = RetryableError(f"Resend's response does not fit a request of {mails} emails")
            mismatch.result, mismatch.rate_limit = "accepted", rate_limit
            raise mismatch
        return SendResult(tuple(_redact_result(result) for result in results), rate_limit, "accepted")

    async def _send(self, path: str, body: bytes, key: str) -> Any:
        if path == SINGLE_PATH:
            return await resend.Emails.send_async(raw_body(body), {"idempotency_key": key})
        # If the provider does not support this option, one invalid email makes it reject the whole batch.
        options: resend.Batch.SendOptions = {"idempotency_key": key, "batch_validation": "permissive"}
        return await resend.Batch.send_async([raw_body(body)], options)

    async def check_access(self) -> None:
        """List the domains: a key that may only send is refused the list, and is valid. Raises as `send` does."""
        self._configure_sdk()
        try:
            await resend.Domains.list_async()
        except ResendError as error:
            if error.error_type != "restricted_api_key":
                raise _to_error(error) from error

    async def check(self) -> KeyCheck:
        """Check the key by listing the domains. A key that may only send is refused the list, and is valid."""
        self._configure_sdk()
        try:
            content = await resend.Domains.list_async()
        except ResendError as error:
            reason = _to_error(error)
            if error.error_type == "restricted_api_key":
                return KeyCheck(KeyStatus.SENDING)
            refused = isinstance(reason, ProviderRefusedError)
            return KeyCheck(KeyStatus.REFUSED if refused else KeyStatus.UNKNOWN, reason.reason)
        domains = {str(row.get("name")): str(row.get("status")) for row in content.get("data", [])}
        return KeyCheck(KeyStatus.FULL, domains=domains)

    def _configure_sdk(self) -> None:
        """Point the SDK's module globals at this gateway.

        The SDK has no client object. It reads key, address and HTTP client from module globals when a call starts,
        before its first await. Setting them just before each call therefore keeps several gateways in one event
        loop apart.
        """
        resend.api_key = self._options.api_key
        resend.api_url = self._options.api_url.rstrip("/")
        resend.default_async_http_client = self._transport


def _redact_result(result: Result) -> Result:
    """The provider's message about a rejected email, redacted so that it may be stored and shown."""
    if isinstance(result, Rejected):
        return Rejected(f"Resend: {redact_provider_text(result.reason) or 'no message'} (refused in a batch)")
    return result


def _parameters(email: Email) -> dict[str, Any]:
    """The members of the email, always in the same order: the same email gives the same bytes."""
    parameters: dict[str, Any] = {
        "from": email.sender,
        "to": [email.to],
        "subject": email.subject,
        "html": email.html,
        "text": email.text,
    }
    if email.reply_to:
        parameters["reply_to"] = email.reply_to
    if email.headers:
        parameters["headers"] = dict(email.headers)
    if email.tags:
        parameters["tags"] = [{"name": name, "value": value} for name, value in email.tags.items()]
    return parameters


def _to_error(error: ResendError) -> FlowstateError:
    """Our own error out of the SDK's; any other one means that the SDK could not use the response."""
    if isinstance(error, RequestFailedError):
        return error.error
    cause = type(error.__context__ or error).__name__
    unusable = RetryableError(f"Resend's library could not use the response ({cause})")
    unusable.result = "server_error"
    return unusable

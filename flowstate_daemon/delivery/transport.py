"""The wire under the provider's SDK: one shared aiohttp session; answers are judged before the SDK sees them.

The SDK turns network trouble, HTML pages and bugs alike into one error of code 500. It lets errors of its own
family pass, so what went wrong travels through it as an `Undelivered`, with the fate inside. Used by
`resend_gateway` only; knows nothing of mails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp
import resend
from resend.exceptions import ResendError

from flowstate_daemon import __version__
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ProviderRefusedError, RetryableError
from flowstate_daemon.delivery.responses import (
    Classification,
    RateLimit,
    Response,
    ResultClass,
    classify,
    parse_rate_limit,
)

USER_AGENT = f"flowstate-daemon/{__version__}"
CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 60.0  # a one-time code after a quiet minute should not wait for a TLS handshake
CONNECTION_ERRORS = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
MAX_RESPONSE_BYTES = 1_048_576  # bytes; that to a hundred mails has five thousand

RAW_BODY_KEY = (
    "sealed"  # the SDK copies what it is given, dicts and lists by their members: the bytes travel as a member
)

OnAnswer = Callable[[str, float, RateLimit | None], None]


class ResponseTooLargeError(aiohttp.ClientError):
    """An answer that is none: whatever sends it does not stop."""


class RequestFailedError(ResendError):
    """No acceptance: carries the verdict through the SDK, which passes on only errors of its own family."""

    def __init__(self, result: Classification) -> None:
        super().__init__(0, result.error_type, str(result.error), "")
        self.result = result


# The first class that fits names the metrics' word, the fate and the reason.
EXCEPTION_RESULTS: tuple[tuple[type[Exception], ResultClass, type[RetryableError | ProviderRefusedError], str], ...] = (
    (
        aiohttp.ClientConnectorCertificateError,
        "refused",
        ProviderRefusedError,
        "the provider's TLS certificate is not trusted; check RESEND_API_URL and the machine's certificates",
    ),
    (aiohttp.InvalidURL, "refused", ProviderRefusedError, "the provider's address is no URL; check RESEND_API_URL"),
    (
        ResponseTooLargeError,
        "network_error",
        RetryableError,
        f"the answer is longer than {MAX_RESPONSE_BYTES} bytes: not the provider's own",
    ),
    (aiohttp.ConnectionTimeoutError, "timeout", RetryableError, "no connection to the provider within {limit_s:g} s"),
    (TimeoutError, "timeout", RetryableError, "the provider did not answer within {limit_s:g} s"),
    (aiohttp.ClientConnectorDNSError, "network_error", RetryableError, "the provider's host name does not resolve"),
    (aiohttp.ClientConnectorSSLError, "network_error", RetryableError, "the TLS handshake with the provider failed"),
    (aiohttp.ClientConnectorError, "network_error", RetryableError, "no connection to the provider ({cause})"),
    (Exception, "network_error", RetryableError, "the connection broke before the provider's answer ({cause})"),
)


def classify_exception(error: Exception, timeout_s: float) -> Classification:
    """The verdict on a request that got no answer: its outcome is unknown unless it could not even start."""
    word, result, reason = next(row[1:] for row in EXCEPTION_RESULTS if isinstance(error, row[0]))
    limit_s = CONNECT_TIMEOUT_S if isinstance(error, aiohttp.ConnectionTimeoutError) else timeout_s
    number = getattr(error, "errno", None)
    cause = os.strerror(number) if number else type(error).__name__
    return Classification(word, result(reason.format(limit_s=limit_s, cause=cause)))


class Transport(resend.AsyncHTTPClient):
    """The SDK's HTTP client, with at most `concurrency` connections, kept alive and shared by all sends."""

    def __init__(self, *, timeout_s: float, concurrency: int, clock: Clock, on_answer: OnAnswer | None) -> None:
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._clock = clock
        self._on_answer = on_answer
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_mark_connection_reused)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[tracing],
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        json: dict[str, object] | list[object] | None = None,
        files: dict[str, Any] | None = None,
        data: dict[str, str] | None = None,
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """One request for the SDK. Raises Undelivered unless the provider has accepted it."""
        if files is not None or data is not None:
            raise NotImplementedError("the daemon sends JSON only")
        started = self._clock.monotonic()
        body = _stored_bytes(json) if json else None
        worn = {**headers, "User-Agent": USER_AGENT, "Content-Type": "application/json"}
        try:
            answer = await self._exchange(method, url, worn, body)
        except (aiohttp.ClientError, OSError) as error:  # the builtin TimeoutError is an OSError
            result = classify_exception(error, self._timeout_s)
            self._tell(result, started, None)
            raise RequestFailedError(result) from error
        result = classify(answer, self._clock.now())
        self._tell(result, started, parse_rate_limit(answer.headers))
        if result.error is not None:
            raise RequestFailedError(result)
        # The body has been read as JSON, whatever its label says; the SDK goes by the label.
        return answer.body, answer.status, {**answer.headers, "content-type": "application/json"}

    def _tell(self, result: Classification, started: float, rate: RateLimit | None) -> None:
        if self._on_answer is not None:
            self._on_answer(result.result, self._clock.monotonic() - started, rate)

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """Send, and send again while the connection was a kept one that had died meanwhile.

        The provider may close it at the very moment of our request. Nothing goes out twice: a request is
        repeated only under its idempotency key, and only until one has gone over a fresh connection.
        """
        repeats = self._concurrency if "Idempotency-Key" in headers else 0
        while True:
            trail = SimpleNamespace(reused=False)
            try:
                return await self._once(method, url, headers, body, trail)
            except CONNECTION_ERRORS:
                if not trail.reused or not repeats:
                    raise
                repeats -= 1

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, trail: SimpleNamespace
    ) -> Response:
        if self._session is None:
            raise RuntimeError("the gateway is not open")
        async with self._session.request(
            method, url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=trail
        ) as response:
            content = await _read(response.content)
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status, lowered, content)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """All of an answer. Raises TooLong."""
    parts: list[bytes] = []
    left = MAX_RESPONSE_BYTES
    async for part in content.iter_any():
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise ResponseTooLargeError
    return b"".join(parts)


def raw_body(body: bytes) -> Any:
    """Parameters for the SDK, whatever it expects, that leave as exactly these bytes."""
    return {RAW_BODY_KEY: body}


def _stored_bytes(content: dict[str, Any] | list[Any]) -> bytes:
    batch_sender = content[0] if isinstance(content, list) else content
    body: bytes = batch_sender[RAW_BODY_KEY]
    return body


async def _mark_connection_reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.reused = True

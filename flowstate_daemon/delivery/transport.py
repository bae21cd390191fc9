"""HTTP transport for the provider's SDK: one shared aiohttp session, responses classified before the SDK sees them.

The SDK turns network errors, HTML pages and bugs alike into one error with code 500, but it passes on errors of its own
class. So a classified error travels through it inside a RequestFailedError.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp
import resend
from resend.exceptions import ResendError

from flowstate_daemon import __version__
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import (
    NETWORK_ERRNOS,
    FlowstateError,
    ProviderRefusedError,
    ProviderUnreachableError,
    RateLimit,
    ResultClass,
    RetryableError,
    is_resource_shortage,
)
from flowstate_daemon.delivery.responses import Classification, Response, classify, parse_rate_limit

USER_AGENT = f"flowstate-daemon/{__version__}"
CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 60.0  # a one-time code after a quiet minute should not wait for a TLS handshake
CONNECTION_ERRORS = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
CLIENT_ERRORS = range(400, 500)
BUSY_STATUS = (408, 425, 429, 499)
MAX_RESPONSE_BYTES = 1_048_576  # the response to a hundred emails has about five thousand

# The SDK copies the parameters that it is given member by member, so the body travels as one member.
RAW_BODY_KEY = "raw_body"


class ResponseTooLargeError(aiohttp.ClientError):
    """The response is too long to come from the provider."""


class RequestFailedError(ResendError):
    """Carries our error through the SDK, which passes on only errors of its own class."""

    def __init__(self, error: FlowstateError, error_type: str = "") -> None:
        super().__init__(0, error_type, str(error), "")
        self.error = error


# The first class that matches names the result for the metrics, the error and its reason.
EXCEPTION_RESULTS: tuple[tuple[type[Exception], ResultClass, type[FlowstateError], str], ...] = (
    (
        aiohttp.ClientConnectorCertificateError,
        "refused",
        ProviderRefusedError,
        "the provider's TLS certificate is not trusted; check RESEND_API_URL and the machine's certificates",
    ),
    (aiohttp.InvalidURL, "refused", ProviderRefusedError, "the provider's address is not a URL; check RESEND_API_URL"),
    (
        ResponseTooLargeError,
        "network_error",
        RetryableError,
        f"the response is longer than {MAX_RESPONSE_BYTES} bytes: it is not the provider's own",
    ),
    (aiohttp.ConnectionTimeoutError, "timeout", RetryableError, "no connection to the provider within {limit_s:g} s"),
    (TimeoutError, "timeout", RetryableError, "the provider did not answer within {limit_s:g} s"),
    (
        aiohttp.ClientConnectorDNSError,
        "network_error",
        ProviderUnreachableError,
        "the provider's host name does not resolve",
    ),
    (
        aiohttp.ClientProxyConnectionError,
        "network_error",
        ProviderUnreachableError,
        "no connection to the proxy ({cause}); check HTTPS_PROXY",
    ),
    (aiohttp.ClientConnectorSSLError, "network_error", RetryableError, "the TLS handshake with the provider failed"),
    (aiohttp.ClientConnectorError, "network_error", RetryableError, "no connection to the provider ({cause})"),
    (Exception, "network_error", RetryableError, "the connection broke before the provider's answer ({cause})"),
)


def classify_exception(error: Exception, timeout_s: float) -> Classification:
    """The meaning of a request without a response: the outcome is unknown unless the request could not even start."""
    if (shortage := _local_cause(error)) is not None:
        maybe_sent = not isinstance(error, aiohttp.ClientConnectorError)
        return Classification("network_error", ProviderUnreachableError(shortage, maybe_sent=maybe_sent))
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _classify_proxy_refusal(error)
    result, error_class, reason = next(row[1:] for row in EXCEPTION_RESULTS if isinstance(error, row[0]))
    limit_s = CONNECT_TIMEOUT_S if isinstance(error, aiohttp.ConnectionTimeoutError) else timeout_s
    number = getattr(error, "errno", None)
    cause = os.strerror(number) if number else type(error).__name__
    return Classification(result, error_class(reason.format(limit_s=limit_s, cause=cause)))


def _local_cause(error: Exception) -> str | None:
    """Why this machine could not even start a request, if that is the reason."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if is_resource_shortage(cause):
        text = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else "out of memory or threads"
        return f"this machine has no resources for a request ({text}); raise its limits, see LimitNOFILE"
    number = getattr(cause, "errno", None)
    if isinstance(error, aiohttp.ClientConnectorError) and number in NETWORK_ERRNOS:
        return f"this machine has no network to the provider ({os.strerror(number)})"
    return None


def _classify_proxy_refusal(error: aiohttp.ClientHttpProxyError) -> Classification:
    """The proxy did not open a connection to the provider: a matter of its rules, or it does not reach the provider."""
    reason = f"the proxy answered {error.status}; check HTTPS_PROXY and NO_PROXY"
    if error.status in CLIENT_ERRORS and error.status not in BUSY_STATUS:
        return Classification("refused", ProviderRefusedError(reason))
    return Classification("network_error", ProviderUnreachableError(reason))


class Transport(resend.AsyncHTTPClient):
    """The SDK's HTTP client, with at most `concurrency` connections, kept alive and shared by all requests."""

    def __init__(self, *, timeout_s: float, concurrency: int, clock: Clock, proxy_url: str | None = None) -> None:
        self._proxy_url = proxy_url
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._clock = clock
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
        """One request for the SDK. Raises RequestFailedError unless the provider accepted it."""
        if files is not None or data is not None:
            raise NotImplementedError("the daemon sends JSON only")
        body = _raw_body_of(json) if json else None
        sent_headers = {**headers, "User-Agent": USER_AGENT, "Content-Type": "application/json"}
        try:
            response = await self._exchange(method, url, sent_headers, body)
        except (aiohttp.ClientError, OSError) as error:  # the builtin TimeoutError is an OSError
            raise _failure(classify_exception(error, self._timeout_s), None) from error
        except (MemoryError, RuntimeError) as error:
            if not is_resource_shortage(error):
                raise
            raise _failure(classify_exception(error, self._timeout_s), None) from error
        classification = classify(response, self._clock.now())
        if classification.error is not None:
            raise _failure(classification, parse_rate_limit(response.headers))
        # The body was parsed as JSON, whatever its content type says; the SDK goes by the content type.
        return response.body, response.status, {**response.headers, "content-type": "application/json"}

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """Send, and send again as long as the request used a kept connection that had already died.

        The provider may close a connection at the moment of our request. Nothing is sent twice: a request is
        repeated only with its idempotency key, and only until it used a new connection.
        """
        repeats = self._concurrency if "Idempotency-Key" in headers else 0
        while True:
            trace = SimpleNamespace(reused=False)
            try:
                return await self._once(method, url, headers, body, trace)
            except CONNECTION_ERRORS:
                if not trace.reused or not repeats:
                    raise
                repeats -= 1

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, trace: SimpleNamespace
    ) -> Response:
        if self._session is None:
            raise RuntimeError("the gateway is not open")
        async with self._session.request(
            method,
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=trace,
            proxy=self._proxy_url,
        ) as response:
            content = await _read(response.content)
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status, lowered, content)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The whole body. Raises ResponseTooLargeError."""
    parts: list[bytes] = []
    left = MAX_RESPONSE_BYTES
    async for part in content.iter_any():
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise ResponseTooLargeError
    return b"".join(parts)


def raw_body(body: bytes) -> Any:
    """Parameters for the SDK, of any type it expects, that are sent as exactly these bytes."""
    return {RAW_BODY_KEY: body}


def _raw_body_of(content: dict[str, Any] | list[Any]) -> bytes:
    parameters = content[0] if isinstance(content, list) else content
    body: bytes = parameters[RAW_BODY_KEY]
    return body


def _failure(classification: Classification, rate_limit: RateLimit | None) -> RequestFailedError:
    error = classification.error
    assert error is not None, "only a request that was not accepted fails"
    error.result, error.rate_limit = classification.result, rate_limit
    return RequestFailedError(error, classification.error_type)


async def _mark_connection_reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.reused = True

"""The meaning of a request without a response, and the interface that the SDK expects."""

from __future__ import annotations

import errno
import inspect
import socket
import ssl

import aiohttp
import pytest
import resend
from aiohttp.client_reqrep import ConnectionKey
from resend.exceptions import ResendError

from flowstate_daemon.base.errors import (
    NETWORK_ERRNOS,
    NO_THREAD,
    RESOURCE_ERRNOS,
    ProviderRefusedError,
    ProviderUnreachableError,
    RetryableError,
)
from flowstate_daemon.delivery.transport import RequestFailedError, Transport, classify_exception

KEY = ConnectionKey("api.resend.com", 443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (aiohttp.ConnectionTimeoutError(), "timeout", "no connection to the provider within 5 s"),
        (TimeoutError(), "timeout", "the provider did not answer within 15 s"),
        (
            aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "refused")),
            "network_error",
            "no connection to the provider (Connection refused)",
        ),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "handshake")), "network_error", "TLS handshake"),
        (aiohttp.ServerDisconnectedError(), "network_error", "the connection broke"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), "network_error", "answer (Connection reset by peer)"),
        (aiohttp.ClientPayloadError("half"), "network_error", "the connection broke"),
        (ConnectionResetError(), "network_error", "the connection broke"),
    ],
)
def test_missing_response_is_retryable(error: Exception, expected: str, text: str) -> None:
    """Timeouts, name resolution, refused and broken connections: RetryableError with a readable reason."""
    result = classify_exception(error, 15)
    assert result.result == expected
    assert isinstance(result.error, RetryableError)
    assert text in result.error.reason


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("self-signed")),
        aiohttp.InvalidURL("nonsense"),
    ],
)
def test_invalid_address_or_certificate_refuses_every_mail(error: Exception) -> None:
    """An untrusted certificate or an invalid address is not the fault of an email."""
    result = classify_exception(error, 15)
    assert result.result == "refused"
    assert isinstance(result.error, ProviderRefusedError)
    assert "RESEND_API_URL" in result.error.reason


@pytest.mark.parametrize(
    ("error", "text", "maybe_sent"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name not known")), "does not resolve", False),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-3, "Temporary failure")), "does not resolve", False),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(errno.ECONNREFUSED, "x")), "HTTPS_PROXY", False),
        *(
            (aiohttp.ClientConnectorError(KEY, OSError(number, "x")), "this machine", False)
            for number in sorted(RESOURCE_ERRNOS | NETWORK_ERRNOS)
        ),
        (OSError(errno.EMFILE, "x"), "Too many open files", True),
        (aiohttp.ClientOSError(errno.ENOBUFS, "x"), "this machine", True),
        (MemoryError(), "out of memory", True),
        (RuntimeError(NO_THREAD), "threads", True),
    ],
)
def test_request_that_this_machine_could_not_start_is_no_attempt(
    error: Exception, text: str, *, maybe_sent: bool
) -> None:
    """Descriptors, memory, threads, name resolution, network: an outage on this side."""
    result = classify_exception(error, 15).error
    assert isinstance(result, ProviderUnreachableError)
    assert text in result.reason
    assert result.maybe_sent is maybe_sent


def test_request_failed_error_is_an_error_of_the_sdk() -> None:
    """The SDK passes on only its own errors, so ours must be one of them."""
    error = RequestFailedError(RetryableError("reason"), "kind")
    assert isinstance(error, ResendError)
    assert (str(error), error.error_type) == ("reason", "kind")


def test_transport_has_the_signature_of_the_sdk() -> None:
    """Our `request` takes the parameters of the SDK's interface, in its order."""
    expected, actual = inspect.signature(resend.AsyncHTTPClient.request), inspect.signature(Transport.request)
    assert list(expected.parameters) == list(actual.parameters)

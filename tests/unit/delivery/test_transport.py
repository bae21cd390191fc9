"""What a request that got no answer means, and what the SDK promises us."""

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

from flowstate_daemon.base.errors import ProviderRefusedError, RetryableError
from flowstate_daemon.delivery.transport import RequestFailedError, Transport, classify_exception

KEY = ConnectionKey("api.resend.com", 443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "word", "text"),
    [
        (aiohttp.ConnectionTimeoutError(), "timeout", "no connection to the provider within 5 s"),
        (TimeoutError(), "timeout", "the provider did not answer within 15 s"),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name or service not known")),
            "network_error",
            "does not resolve",
        ),
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
def test_no_answer_is_an_unknown_outcome(error: Exception, word: str, text: str) -> None:
    """Timeouts, name service, refused and broken connections: Retry, with words that a person understands."""
    result = classify_exception(error, 15)
    assert result.result == word
    assert isinstance(result.error, RetryableError)
    assert text in result.error.reason


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("self-signed")),
        aiohttp.InvalidURL("nonsense"),
    ],
)
def test_what_no_mail_can_pass_closes_the_lane(error: Exception) -> None:
    """A certificate that is not trusted and an address that is none are no mail's fault."""
    result = classify_exception(error, 15)
    assert result.result == "refused"
    assert isinstance(result.error, ProviderRefusedError)
    assert "RESEND_API_URL" in result.error.reason


def test_verdicts_travel_in_the_sdks_own_family() -> None:
    """The SDK lets only its own errors pass, so ours must be one of them."""
    error = RequestFailedError(RetryableError("words"), "kind")
    assert isinstance(error, ResendError)
    assert (str(error), error.error_type) == ("words", "kind")


def test_the_sdk_calls_us_as_we_expect() -> None:
    """Our `request` takes what the SDK's interface declares, in its order."""
    other, own = inspect.signature(resend.AsyncHTTPClient.request), inspect.signature(Transport.request)
    assert list(other.parameters) == list(own.parameters)

"""Which proxy the environment names for the provider, and for which hosts it names none."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.config.loader import load
from flowstate_daemon.config.proxy import bypasses, find_proxy

API = "https://api.resend.com"
PROXY = "http://proxy.example.com:3128"
SENDER = {"RESEND_FROM_EMAIL": "hello@example.com", "RESEND_API_KEY": "re_key"}


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        (API, {}, None),
        (API, {"HTTPS_PROXY": PROXY}, ("HTTPS_PROXY", PROXY)),
        (API, {"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, ("https_proxy", PROXY)),
        (API, {"ALL_PROXY": PROXY}, ("ALL_PROXY", PROXY)),
        (API, {"HTTP_PROXY": PROXY}, None),
        (API, {"HTTPS_PROXY": " "}, None),
        (API, {"HTTPS_PROXY": "proxy.example.com:3128"}, ("HTTPS_PROXY", PROXY)),
        ("http://127.0.0.1:9", {"HTTP_PROXY": PROXY}, ("HTTP_PROXY", PROXY)),
        ("http://127.0.0.1:9", {"HTTPS_PROXY": PROXY}, None),
        (API, {"HTTPS_PROXY": PROXY, "NO_PROXY": "resend.com"}, None),
        (API, {"HTTPS_PROXY": PROXY, "no_proxy": "", "NO_PROXY": "*"}, None),
        (API, {"HTTPS_PROXY": PROXY, "NO_PROXY": "example.com"}, ("HTTPS_PROXY", PROXY)),
    ],
)
def test_proxy_of_the_environment(url: str, environ: dict[str, str], expected: tuple[str, str] | None) -> None:
    """As in curl: by the scheme of the address, small letters first."""
    assert find_proxy(url, environ) == expected


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "expected"),
    [
        ("*", "a.test", 443, True),
        ("a.test", "a.test", 443, True),
        (".a.test", "b.a.test", 443, True),
        ("*.a.test", "b.a.test", 443, True),
        ("A.Test", "b.a.tesT", 443, True),
        ("a.test.", "a.test", 443, True),
        ("a.test", "ba.test", 443, False),
        ("a.test:443", "a.test", 443, True),
        ("a.test:80", "a.test", 443, False),
        ("x , a.test", "a.test", 443, True),
        ("x a.test", "a.test", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("127.0.0.1", "127.0.0.1", 443, True),
        ("[::1]:443", "::1", 443, True),
        ("::1", "::1", 443, True),
        ("", "a.test", 443, False),
        (",", "a.test", 443, False),
        (".", "a.test", 443, False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, port: int, *, expected: bool) -> None:
    """Names with everything below them, addresses, networks, ports, and the asterisk."""
    assert bypasses(host, port, no_proxy) is expected


def test_setting_of_our_own_wins() -> None:
    """And a login in the proxy's URL is not shown."""
    config = load({**SENDER, "HTTPS_PROXY": "http://me:geheim@proxy:1"}, sending=True)
    assert config.resend.proxy_url is not None
    assert config.resend.proxy_url.get_secret_value() == "http://me:geheim@proxy:1"
    assert ("resend.proxy_url", "set, hidden", "HTTPS_PROXY") in config.describe()
    config = load({**SENDER, "HTTPS_PROXY": PROXY, "FLOWSTATE_RESEND_PROXY_URL": "http://own:1"}, sending=True)
    assert config.resend.proxy_url is not None
    assert config.resend.proxy_url.get_secret_value() == "http://own:1"


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "http://", "http://proxy:99999", "ftp://proxy"])
def test_unusable_proxy_is_an_error_that_names_the_variable(value: str) -> None:
    """Only where emails are sent: other commands do not need the proxy."""
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        load({**SENDER, "HTTPS_PROXY": value}, sending=True)
    assert load({"HTTPS_PROXY": value}).resend.proxy_url is None

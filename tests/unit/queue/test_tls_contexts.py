"""TLS contexts of connections to Redis: loaded once, and again after a file has changed."""

from __future__ import annotations

import os
from pathlib import Path
from ssl import SSLContext

import pytest

from flowstate_daemon.redis_client.transport import WatchedTlsConnection
from tests.support.redis_topologies import make_certificate


def context(**options: str) -> SSLContext:
    """The context with which a new connection with these options connects."""
    found = WatchedTlsConnection(host="127.0.0.1", **options)._connection_arguments()["ssl"]
    assert isinstance(found, SSLContext)
    return found


def test_connections_with_the_same_options_share_a_context() -> None:
    """A second connection does not load the system's authorities again."""
    assert context() is context()
    assert context(ssl_cert_reqs="none") is not context()
    assert context().get_ca_certs()
    assert context(ssl_check_hostname="").get_ca_certs()


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_renewed_file_is_loaded(option: str, tmp_path: Path) -> None:
    """The next connection uses an authority, a certificate or a key that was replaced."""
    options = dict.fromkeys(["ssl_ca_certs"], str(make_certificate(tmp_path)))
    options |= {"ssl_certfile": str(tmp_path / "cert.pem"), "ssl_keyfile": str(tmp_path / "key.pem")}
    before = context(**options)
    assert context(**options) is before
    file = Path(options[option])
    make_certificate(tmp_path)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        os.utime(tmp_path / name, ns=(0, 0))
    renewed = context(**options)
    assert renewed is not before
    assert renewed.get_ca_certs() != before.get_ca_certs()
    os.utime(file, ns=(1, 1))
    assert context(**options) is not renewed


def test_a_missing_file_is_an_error_each_time(tmp_path: Path) -> None:
    """An authority that cannot be read is not remembered: once it is there, it is used."""
    missing = tmp_path / "ca.pem"
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            context(ssl_ca_certs=str(missing))
    make_certificate(tmp_path)
    names = {item for authority in context(ssl_ca_certs=str(missing)).get_ca_certs() for item in authority["subject"]}
    assert any("test authority" in str(name) for name in names)

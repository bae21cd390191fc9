"""Fixtures for tests that need root: the image, built once per session, and a host with the service installed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.redis_client.keys import Keys
from tests.deploy.containers import HERE, IMAGE, PODMAN, run_command
from tests.deploy.guest import NspawnGuest, provide_base
from tests.deploy.service import CERTIFICATES, INSTALL_S, MAKE, ROOT, SOURCE, Host, Unit
from tests.support.fake_resend import FakeResend

BUILD_S = 1500.0


@pytest.fixture(scope="session")
async def image() -> AsyncIterator[str]:
    """The image of this source tree; the first time also replacements of its base images.

    The replacements are kept for the next session; unused networks, mounts and layers are not.
    """
    if os.geteuid() != 0:
        pytest.skip("building images needs root")
    code, _, stderr = await run_command(HERE / "image.sh", IMAGE, within_s=BUILD_S)
    assert code == 0, stderr
    yield IMAGE
    code, _, stderr = await run_command(PODMAN, "down")
    assert code == 0, stderr


@pytest.fixture(scope="session")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    """A booted guest in which `make install` was run."""
    binds = {ROOT: SOURCE, CERTIFICATES: str(CERTIFICATES)}
    guest = NspawnGuest(await provide_base(), tmp_path_factory.mktemp("guest"), binds)
    await guest.boot()
    try:
        output = await guest.check_call(*MAKE, "install", within_s=INSTALL_S)
        assert "systemctl enable --now flowstate-daemon.socket flowstate-daemon.service" in output
        yield Host(guest)
    finally:
        await guest.power_off()


@pytest.fixture
async def provider() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
def settings(valkey_url: str, keys: Keys, provider: FakeResend) -> dict[str, str]:
    """The environment file of a daemon on the test's own queue and provider."""
    return {
        "REDIS_URL": valkey_url,
        "RESEND_API_URL": provider.url,
        "RESEND_API_KEY": provider.api_key,
        "RESEND_FROM_EMAIL": '"FlowState <hello@flowstate.example>"',
        "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
    }


@pytest.fixture
async def unit(host: Host, settings: dict[str, str]) -> AsyncIterator[Unit]:
    """The service, not started."""
    yield await host.prepare(**settings)
    await host.cleanup()

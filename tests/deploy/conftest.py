"""What the tests that need root share: the image, built once a session."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.deploy.containers import HERE, IMAGE, PODMAN, called

BUILD_S = 1500.0


@pytest.fixture(scope="session")
async def image() -> AsyncIterator[str]:
    """The image of this very source; the first time also stand-ins for the images that it is made from.

    The stand-ins stay for the next session; networks, mounts and layers that nothing needs any more do not.
    """
    if os.geteuid() != 0:
        pytest.skip("images are built by root only here")
    code, _, complained = await called(HERE / "image.sh", IMAGE, within_s=BUILD_S)
    assert code == 0, complained
    yield IMAGE
    code, _, complained = await called(PODMAN, "down")
    assert code == 0, complained

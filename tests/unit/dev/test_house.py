"""The folder of `flowstate-daemon dev`: usable, and for one house at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.dev.environment import lock_folder


def test_two_houses_cannot_share_a_folder(tmp_path: Path) -> None:
    """Two Valkeys would append to the same file; the second person is told what to do."""
    with (
        lock_folder(tmp_path),
        pytest.raises(ConfigError, match="has this folder open: close that one"),
        lock_folder(tmp_path),
    ):
        pass


def test_a_folder_is_free_again_when_its_house_is_closed(tmp_path: Path) -> None:
    """The file that stays behind locks nobody out."""
    for _ in range(2):
        with lock_folder(tmp_path / "new"):
            assert (tmp_path / "new").is_dir()


def test_a_folder_that_cannot_be_made_is_told_with_the_remedy(tmp_path: Path) -> None:
    """A file is in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name another folder with --folder"), lock_folder(tmp_path / "file"):
        pass

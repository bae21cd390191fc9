"""The folder of `flowstate-daemon dev`: created, and locked for one environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.dev.environment import lock_folder


def test_folder_is_locked_for_one_environment(tmp_path: Path) -> None:
    """Two Valkeys would append to the same file; the error has a remedy."""
    with (
        lock_folder(tmp_path),
        pytest.raises(ConfigError, match="uses this folder: stop it"),
        lock_folder(tmp_path),
    ):
        pass


def test_folder_is_unlocked_after_close(tmp_path: Path) -> None:
    """The lock file that remains does not lock the folder."""
    for _ in range(2):
        with lock_folder(tmp_path / "new"):
            assert (tmp_path / "new").is_dir()


def test_folder_that_cannot_be_created_has_a_remedy(tmp_path: Path) -> None:
    """A file exists at that path."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="choose another folder with --folder"), lock_folder(tmp_path / "file"):
        pass

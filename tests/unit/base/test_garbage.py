"""The garbage collector: paused while a process starts, and tuned afterwards."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flowstate_daemon.base.garbage import GC_THRESHOLDS, paused_gc, tune_gc

RUN_IMPORTED = """
import gc, json
from flowstate_daemon.cli.main import app
generations = []
gc.callbacks.append(lambda phase, info: generations.append(info["generation"]))
app.get_command(None, "run")
print(json.dumps({"collections": len(generations), "frozen": gc.get_freeze_count(), "enabled": gc.isenabled()}))
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    enabled, thresholds = gc.isenabled(), gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    (gc.enable if enabled else gc.disable)()


def test_run_is_imported_without_a_collection() -> None:
    """The imports of `run` start no collection, and later ones do not examine what they created."""
    found = json.loads(subprocess.check_output([sys.executable, "-c", RUN_IMPORTED], text=True))
    assert found["collections"] == 0
    assert found["frozen"] > 50_000
    assert found["enabled"]


@pytest.mark.parametrize("enabled", [True, False])
def test_paused_gc_restores_what_it_found(*, enabled: bool) -> None:
    """After the block the collector is on or off as before, also after an error."""
    (gc.enable if enabled else gc.disable)()
    with paused_gc():
        assert not gc.isenabled()
    assert gc.isenabled() == enabled
    with pytest.raises(ValueError, match="inside"), paused_gc():
        raise ValueError("inside")
    assert gc.isenabled() == enabled


def test_objects_of_the_block_are_frozen() -> None:
    """What exists at the end of the block is not examined by later collections."""
    gc.unfreeze()
    with paused_gc():
        kept = [[number] for number in range(1_000)]
    assert gc.get_freeze_count() > len(kept)
    assert not any(each is kept for each in gc.get_objects())


def test_tune_gc_freezes_and_collects_rarely() -> None:
    """A running process has frozen what it started with, and collects less often than Python's default."""
    gc.unfreeze()
    tune_gc()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == GC_THRESHOLDS

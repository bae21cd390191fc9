"""Formatting of the queue commands."""

from __future__ import annotations

from flowstate_daemon.cli.queue import describe_workers

TOKEN = "0123456789abcdef" * 2


def test_workers_are_counted_and_daemons_are_named() -> None:
    """A slash in the base64 name of another worker does not make it a daemon."""
    names = ["bull:ZW1haW/=", f"my:bull:ZW1haWw=:mail-1/{TOKEN}", f"bull:ZW1haWw=:mail-2/{TOKEN}"]
    assert describe_workers(names) == "3 (flowstate-daemon: mail-1, mail-2)"
    assert describe_workers(names[:1]) == "1"

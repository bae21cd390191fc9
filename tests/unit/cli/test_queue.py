"""What the queue's commands make of what they read."""

from __future__ import annotations

from flowstate_daemon.cli.queue import describe_workers

TOKEN = "0123456789abcdef" * 2


def test_workers_are_counted_and_our_own_are_named() -> None:
    """A slash in another worker's name, which is base64, makes it no daemon."""
    names = ["bull:ZW1haW/=", f"my:bull:ZW1haWw=:mail-1/{TOKEN}", f"bull:ZW1haWw=:mail-2/{TOKEN}"]
    assert describe_workers(names) == "3, mail-1, mail-2 of this daemon among them"
    assert describe_workers(names[:1]) == "1"

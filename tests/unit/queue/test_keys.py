"""The names of keys: which of them a cluster keeps together."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from flowstate_daemon.redis_client.keys import Keys


@pytest.mark.parametrize(
    ("prefix", "name", "tagged"),
    [
        ("bull", "email", False),
        ("{bull}", "email", True),
        ("a{b}c", "email", True),
        ("bull", "{email}", True),
        ("{}bull", "email", False),
        ("{bull", "email", False),
        ("}bull{", "email", False),
    ],
)
def test_a_hash_tag_keeps_a_queue_in_one_slot(prefix: str, name: str, tagged: bool) -> None:
    """What counts is what stands between the first braces, if anything does; redis-py's arithmetic agrees."""
    keys = Keys(prefix, name)
    slots = {key_slot(key.encode()) for key in (keys("wait"), keys("active"), keys.job("7"), keys.own("rate"))}
    assert keys.hash_tagged is tagged
    assert (len(slots) == 1) is tagged

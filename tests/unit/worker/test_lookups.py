"""Lookups of recipients while Postgres does not answer: codes go on, and the log is not filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import structlog

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.logs import THROTTLE_INTERVAL_S
from flowstate_daemon.database.recipients import Suppressions, UserPreferenceReader
from flowstate_daemon.worker.lookups import RecipientLoader
from tests.support.clock import FakeClock


class Unreachable:
    """A server that refuses every query."""

    async def status_for(self, _addresses: Sequence[str]) -> Mapping[str, Any]:
        raise StoreUnavailableError("Postgres is unreachable")


async def test_failed_lookups_of_codes_are_logged_once_a_minute_with_a_count(clock: FakeClock) -> None:
    """Each code is sent without the lookup; the first one is logged, later ones are counted."""
    loader = RecipientLoader(cast("Suppressions", Unreachable()), cast("UserPreferenceReader", None), clock)
    with structlog.testing.capture_logs() as lines:
        for number in range(50):
            assert await loader.load(f"person-{number}@example.org", urgent=True) is None
        assert [line["more_since_last"] for line in lines] == [0]
        clock.advance(THROTTLE_INTERVAL_S)
        assert await loader.load("person-50@example.org", urgent=True) is None
    assert [(line["event"], line["more_since_last"]) for line in lines] == [
        ("recipient_lookup_failed", 0),
        ("recipient_lookup_failed", 49),
    ]
    assert all(line["remedy"] and "person" not in str(line) for line in lines)

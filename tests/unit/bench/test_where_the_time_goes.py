"""The profile in the benchmark's report: its tables, and the ratio that the peers' share of the work allows."""

from __future__ import annotations

from tests.bench.peers import US
from tests.bench.results import Results, Run
from tests.bench.sampling import ENCODING, PARSING, RENDERING
from tests.bench.where_the_time_goes import TEXT, where_the_time_goes

PROFILE = {f"part {PARSING}": 5.0, f"part {RENDERING}": 20.0, f"part {ENCODING}": 5.0, "part more": 60.0}
EMAIL = Run("profile-email", US, 1, {**PROFILE, "worker": 90.0, "command evalsha": 8.0, "calls evalsha": 0.1})
NO_OP = Run("profile-noop", US, 1, {"part more": 18.0, "worker": 18.0, "redis": 12.0, "provider": 0.0})


def page(*runs: Run) -> str:
    return "\n".join(where_the_time_goes(Results("full", "abc", runs=list(runs))))


def mails(cpu_us: float) -> tuple[Run, ...]:
    ours = Run("mails-batch", US, 1, {"rate": 900.0, "cpu_us": 90.0})
    return ours, Run("mails-batch", "taskiq", 1, {"rate": 500.0, "cpu_us": cpu_us})


def test_tables_have_both_kinds_of_work_and_the_largest_part_first() -> None:
    """A part that one of them lacks has an empty cell; a figure of zero is not shown as a cost."""
    rows = [line for line in page(EMAIL, NO_OP).splitlines() if line.startswith("|")]
    assert rows[2] == "| more | 60.0 | 18.0 |"
    assert rows[3] == f"| {RENDERING} | 20.0 |  |"
    assert "| **worker, all parts** | 90.0 | 18.0 |" in rows
    assert "| fake provider |  |  |" in rows
    assert "| evalsha | 8.00 |  |" in rows


def test_says_what_limits_the_drain_and_the_distance_to_its_goal() -> None:
    """Ten times a peer of 4,000 jobs a second is a job every 25 µs."""
    ours = Run("drain", US, 1, {"rate": 20_000.0, "cpu_us": 45.0, "redis_cpu_us": 12.0})
    text = page(ours, Run("drain", "taskiq", 1, {"rate": 4_000.0}))
    assert "takes 50.0 µs. The worker uses 45.0 µs of CPU time (90 %), and Redis 12.0 µs" in text
    assert "10 times the rate of the best Python peer, taskiq, would be a job every 25.0 µs." in text


def test_bound_of_the_ratio_is_the_cost_of_a_peer_by_the_shared_work() -> None:
    """A peer that uses 300 µs and shares 30 µs allows a ratio of 10, and 30 µs for the rest at a ratio of 5."""
    text = page(EMAIL, *mails(300.0))
    assert "take 30.0 of 90.0 µs of an email (33 %)" in text
    assert "could be at most 10.0; for a ratio of 5, everything else may take 30.0 µs." in text
    assert "no time: this goal cannot be reached on this machine" in page(EMAIL, *mails(140.0))


def test_results_without_a_profile_or_without_peers() -> None:
    """The results of any plan give a section: it says what is missing, and explains the rest."""
    assert "This run has no profile." in page(*mails(300.0))
    assert "could be at most" not in page(*mails(300.0))
    assert "could be at most" not in page(EMAIL)
    assert page().endswith(TEXT.read_text())
    assert page(Run("profile-email", US, 1, error="too few jobs")).endswith(TEXT.read_text())

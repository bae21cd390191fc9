"""Free slots, the reserve for codes, and who is still running."""

from __future__ import annotations

from dataclasses import replace

from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.worker.in_flight import MAX_UNWRITTEN, AbortReason, InFlightJobs


def job(number: int) -> Job:
    return Job(str(number), "welcome", b"{}", DEFAULTS, 0, 0, 5, b"[]")


def test_codes_have_slots_that_bulk_cannot_fill() -> None:
    """When bulk fills its slots, the reserve is still free; codes may fill both."""
    inflight = InFlightJobs(3, reserve=2)
    assert (inflight.free, inflight.free_for_urgent) == (3, 5)
    for number in range(3):
        inflight.add(job(number), 0.0)
    assert (inflight.free, inflight.free_for_urgent) == (0, 2)
    inflight.free_slot()
    assert (inflight.free, inflight.free_for_urgent) == (1, 3)


def test_what_cannot_be_written_down_holds_up_the_next() -> None:
    """Ended jobs that wait for Redis take room too, for codes as well."""
    inflight = InFlightJobs(2, reserve=1)
    for number in range(2 + 1 + MAX_UNWRITTEN):
        inflight.add(job(number), 0.0)
        inflight.free_slot()
    assert inflight.free < 0
    assert inflight.free_for_urgent == 0


def test_an_ended_run_has_no_lock_to_lose() -> None:
    """Whoever is over, or gone, is not called off for a lock that was given back."""
    inflight = InFlightJobs(3)
    runs = [inflight.add(job(number), 0.0) for number in range(3)]
    runs[0].finished = True
    inflight.remove(runs[1].job)
    assert inflight.running(["0", "1", "2", "9"]) == {"2"}


def test_an_id_may_be_in_hand_twice_after_obliterate() -> None:
    """The end of the old run does not let go of the new one."""
    inflight = InFlightJobs(3)
    old, new = inflight.add(job(1), 0.0), inflight.add(job(1), 1.0)
    assert inflight.remove(old.job) is None
    assert inflight.ids() == ["1"]
    assert inflight.remove(new.job) is new


def test_of_two_runs_of_one_job_the_newer_goes_on() -> None:
    """The lock of the older one had run out meanwhile; the job of another time under the same id is another job."""
    inflight = InFlightJobs(3)
    old, other = inflight.add(job(1), 0.0), inflight.add(replace(job(2), timestamp=7), 0.0)
    new, unlike = inflight.add(job(1), 1.0), inflight.add(job(2), 1.0)
    assert [run.abort_reason for run in (old, new, other, unlike)] == [AbortReason.LOCK_LOST, None, None, None]
    assert [inflight.is_superseded(run.job) for run in (old, new, other, unlike)] == [True, False, False, False]

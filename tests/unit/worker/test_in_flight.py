"""Free slots, the slots reserved for codes, and which jobs still run."""

from __future__ import annotations

from msgspec.structs import replace

from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.worker.in_flight import MAX_UNWRITTEN, AbortReason, InFlightJobs


def job(number: int) -> Job:
    return Job(str(number), "welcome", b"{}", DEFAULTS, 0, 0, 5, b"[]")


def test_reserved_slots_stay_free_for_codes() -> None:
    """When bulk emails fill their slots, the reserve is free; codes may use both."""
    in_flight = InFlightJobs(3, reserve=2)
    assert (in_flight.free, in_flight.free_for_urgent) == (3, 5)
    for number in range(3):
        in_flight.add(job(number), 0.0)
    assert (in_flight.free, in_flight.free_for_urgent) == (0, 2)
    in_flight.free_slot()
    assert (in_flight.free, in_flight.free_for_urgent) == (1, 3)


def test_unwritten_results_limit_further_claims() -> None:
    """Finished jobs whose result waits for Redis use capacity, for codes as well."""
    in_flight = InFlightJobs(2, reserve=1)
    for number in range(2 + 1 + MAX_UNWRITTEN):
        in_flight.add(job(number), 0.0)
        in_flight.free_slot()
    assert in_flight.free < 0
    assert in_flight.free_for_urgent == 0


def test_finished_run_is_not_running() -> None:
    """A finished or removed run is not aborted because of a lock that it returned."""
    in_flight = InFlightJobs(3)
    runs = [in_flight.add(job(number), 0.0) for number in range(3)]
    runs[0].finished = True
    in_flight.remove(runs[1].job)
    assert in_flight.running(["0", "1", "2", "9"]) == {"2"}


def test_same_id_may_be_in_flight_twice_after_obliterate() -> None:
    """Removing the old run does not remove the new one."""
    in_flight = InFlightJobs(3)
    old, new = in_flight.add(job(1), 0.0), in_flight.add(job(1), 1.0)
    assert in_flight.remove(old.job) is None
    assert in_flight.ids() == ["1"]
    assert in_flight.remove(new.job) is new


def test_second_run_of_a_job_aborts_the_first() -> None:
    """The lock of the first run had expired. A job with another timestamp under the same id is another job."""
    in_flight = InFlightJobs(3)
    old, other = in_flight.add(job(1), 0.0), in_flight.add(replace(job(2), timestamp=7), 0.0)
    new, unlike = in_flight.add(job(1), 1.0), in_flight.add(job(2), 1.0)
    assert [run.abort_reason for run in (old, new, other, unlike)] == [AbortReason.LOCK_LOST, None, None, None]
    assert [in_flight.is_superseded(run.job) for run in (old, new, other, unlike)] == [True, False, False, False]

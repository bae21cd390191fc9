"""The memory of the newest requests is bounded, and forgets the oldest first."""

from __future__ import annotations

from flowstate_daemon.sending.recent_requests import RecentRequests
from flowstate_daemon.sending.stored_request import JobRef, StoredRequest


def request(name: str, *jobs: JobRef, number: int = 1) -> StoredRequest:
    return StoredRequest(name, "/emails", b"body", "key", jobs, None, 5, (number,) * len(jobs))


def test_latest_request_of_a_job_is_found() -> None:
    """A later request replaces the earlier one; another job with the same id is not known."""
    recent = RecentRequests()
    recent.add(request("a", ("1", 5), ("2", 5)), b"x")
    recent.add(request("b", ("1", 5), number=2), b"y")
    assert [recent.find(("1", 5)), recent.find(("2", 5)), recent.find(("1", 6))] == [("b", 2), ("a", 1), None]


def test_oldest_requests_are_forgotten() -> None:
    """By the number of emails, and by the length of bodies without a response; the newest always stays."""
    recent = RecentRequests(max_mails=3, max_body_bytes=10)
    for number in range(5):
        recent.add(request(str(number), (str(number), 5)), b"x")
    assert [recent.get(str(number)) is not None for number in range(5)] == [False, False, True, True, True]
    assert [recent.find((str(number), 5)) for number in range(3)] == [None, None, ("2", 1)]
    recent.add(request("long", ("9", 5)), b"x" * 100)
    assert recent.get("4") is None
    assert recent.find(("9", 5)) == ("long", 1)
    recent.settle("long", b"[]")
    recent.add(request("next", ("10", 5)), b"x" * 10)
    assert recent.find(("9", 5)) == ("long", 1), "a request with a response needs no bytes"


def test_saving_again_counts_once() -> None:
    """A reply was lost, and the same request saved again."""
    recent = RecentRequests(max_mails=2, max_body_bytes=10)
    for _ in range(5):
        recent.add(request("a", ("1", 5), ("2", 5)), b"x" * 10)
    assert recent.find(("2", 5)) == ("a", 1)


def test_forgotten_jobs_are_free() -> None:
    """Only with the given request, and only the given jobs."""
    recent = RecentRequests()
    recent.add(request("a", ("1", 5), ("2", 5)), b"x")
    recent.add(request("b", ("2", 5), number=2), b"x")
    recent.forget("a", {"1", "2"})
    recent.forget("c", {"1", "2"})
    assert [recent.find(("1", 5)), recent.find(("2", 5))] == [None, ("b", 2)]
    assert [recent.get("a"), recent.get("b") is not None] == [None, True]

"""The order in which emails are sent."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.message import Email
from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.sending.batch import Batch, OutgoingMail
from flowstate_daemon.sending.send_queue import SendQueue


class PendingResult:
    """A result without an event loop."""

    def __init__(self) -> None:
        self.is_done = False

    def done(self) -> bool:
        return self.is_done


def mail(number: int, priority: int = 5, *, small: bool = True) -> OutgoingMail:
    job = Job(str(number), "welcome", b"{}", DEFAULTS, number, 0, priority, b"[]")
    body = "small" if small else "large"
    mail = Email("welcome", "a@b.dev", f"p{number}@mail.dev", "s", body, body)
    return OutgoingMail(job, priority, priority == 1, lambda: mail, result=PendingResult())  # type: ignore[arg-type]


def small(one: OutgoingMail) -> bool:
    return one.email.html == "small"


def numbers(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [int(one.job.id) for one in batch.mails]


def queue_of(*mails: OutgoingMail) -> SendQueue:
    queue = SendQueue()
    for one in mails:
        queue.push(one)
    return queue


def take(
    queue: SendQueue, most: int = 100, *, urgent_only: bool = False, fits: Callable[[OutgoingMail], bool] = small
) -> list[int]:
    return numbers(queue.pop(fits, max_mails=most, urgent_only=urgent_only))


@given(st.lists(st.sampled_from([1, 1, 5, 10]), max_size=60), st.integers(1, 20))
def test_queue_orders_by_code_then_priority_then_arrival(priorities: list[int], most: int) -> None:
    """Whatever arrives, requests take it in one order and lose nothing."""
    queue = queue_of(*(mail(number, priority) for number, priority in enumerate(priorities)))
    taken: list[int] = []
    while not queue.empty:
        batch = take(queue, most)
        assert len(batch) <= most
        taken += batch
    assert taken == sorted(range(len(priorities)), key=lambda number: (priorities[number], number))


def test_requeued_mail_keeps_its_position() -> None:
    """An email that the provider did not process is not overtaken by later ones of its priority."""
    first, second = mail(1), mail(2)
    queue = queue_of(first, second)
    assert take(queue, 1) == [1]
    queue.push(mail(3))
    queue.push(first)
    assert take(queue) == [1, 2, 3]


def test_large_mail_is_sent_alone_in_its_turn() -> None:
    """An email that does not fit into a batch is sent by itself and delays no other."""
    queue = queue_of(mail(1), mail(2, small=False), mail(3), mail(4, 1, small=False))
    assert [take(queue), take(queue), take(queue)] == [[4], [1, 3], [2]]


def test_urgent_only_request_takes_no_bulk() -> None:
    """A request for codes only contains no bulk emails."""
    queue = queue_of(mail(1), mail(2, 1), mail(3, 1))
    assert queue.has_urgent
    assert take(queue, urgent_only=True) == [2, 3]
    assert not queue.has_urgent


def test_batch_stays_together_at_the_position_of_its_most_urgent_mail() -> None:
    """A stored request contains no other email."""
    queue = queue_of(mail(1), mail(2))
    batch = Batch([mail(3, 10), mail(4, 1)])
    queue.push_batch(batch)
    assert queue.has_urgent
    assert [take(queue), take(queue)] == [[3, 4], [1, 2]]


def test_done_mails_are_skipped() -> None:
    """Emails that nothing waits for are not taken, neither alone nor in batches."""
    mails = [mail(number) for number in range(4)]
    batch = Batch([mail(9)])
    queue = queue_of(*mails)
    queue.push_batch(batch)
    for one in (mails[0], mails[2], batch.mails[0]):
        one.result.is_done = True  # type: ignore[attr-defined]
    assert take(queue) == [1, 3]
    assert queue.empty
    assert queue.pop(small, max_mails=1, urgent_only=False) is None

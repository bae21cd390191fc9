"""The order in which mails leave."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.message import Email
from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.sending.batch import Batch, OutgoingMail
from flowstate_daemon.sending.send_queue import SendQueue


class Waiting:
    """A fate without a loop."""

    def __init__(self) -> None:
        self.over = False

    def done(self) -> bool:
        return self.over


def mail(number: int, priority: int = 5, *, small: bool = True) -> OutgoingMail:
    job = Job(str(number), "welcome", b"{}", DEFAULTS, number, 0, priority, b"[]")
    body = "small" if small else "giant"
    mail = Email("welcome", "a@b.dev", f"p{number}@mail.dev", "s", body, body)
    return OutgoingMail(job, priority, priority == 1, lambda: mail, result=Waiting())  # type: ignore[arg-type]


def small(one: OutgoingMail) -> bool:
    return one.email.html == "small"


def numbers(load: Batch | None) -> list[int]:
    assert load is not None
    return [int(one.job.id) for one in load.mails]


def line_of(*mails: OutgoingMail) -> SendQueue:
    line = SendQueue()
    for one in mails:
        line.push(one)
    return line


def take(
    line: SendQueue, most: int = 100, *, urgent_only: bool = False, fits: Callable[[OutgoingMail], bool] = small
) -> list[int]:
    return numbers(line.pop(fits, max_mails=most, urgent_only=urgent_only))


@given(st.lists(st.sampled_from([1, 1, 5, 10]), max_size=60), st.integers(1, 20))
def test_codes_first_then_priority_then_arrival(priorities: list[int], most: int) -> None:
    """Whatever has come, requests take it in one order and lose nothing."""
    line = line_of(*(mail(number, priority) for number, priority in enumerate(priorities)))
    left: list[int] = []
    while not line.empty:
        load = take(line, most)
        assert len(load) <= most
        left += load
    assert left == sorted(range(len(priorities)), key=lambda number: (priorities[number], number))


def test_who_comes_back_takes_the_old_place() -> None:
    """A mail that the provider has not processed is not overtaken by later ones of its priority."""
    first, second = mail(1), mail(2)
    line = line_of(first, second)
    assert take(line, 1) == [1]
    line.push(mail(3))
    line.push(first)
    assert take(line) == [1, 2, 3]


def test_giants_go_alone_and_hold_nobody_up() -> None:
    """What does not fit into a batch leaves in its turn, by itself."""
    line = line_of(mail(1), mail(2, small=False), mail(3), mail(4, 1, small=False))
    assert [take(line), take(line), take(line)] == [[4], [1, 3], [2]]


def test_codes_alone_where_bulk_must_wait() -> None:
    """A request for codes only takes no bulk along."""
    line = line_of(mail(1), mail(2, 1), mail(3, 1))
    assert line.has_urgent
    assert take(line, urgent_only=True) == [2, 3]
    assert not line.has_urgent


def test_loads_stay_together() -> None:
    """A sealed request leaves in the place of its most urgent mail, with nobody else in it."""
    line = line_of(mail(1), mail(2))
    load = Batch([mail(3, 10), mail(4, 1)])
    line.push_batch(load)
    assert line.has_urgent
    assert [take(line), take(line)] == [[3, 4], [1, 2]]


def test_the_gone_are_passed_over() -> None:
    """Nobody waits for them any more: neither alone nor in loads are they taken."""
    mails = [mail(number) for number in range(4)]
    load = Batch([mail(9)])
    line = line_of(*mails)
    line.push_batch(load)
    for one in (mails[0], mails[2], load.mails[0]):
        one.result.over = True  # type: ignore[attr-defined]
    assert take(line) == [1, 3]
    assert line.empty
    assert line.pop(small, max_mails=1, urgent_only=False) is None

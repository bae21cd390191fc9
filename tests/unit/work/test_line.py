"""The order in which mails leave."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.message import Email
from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.work.line import Line
from flowstate_daemon.work.parcel import Load, Parcel


class Waiting:
    """A fate without a loop."""

    def __init__(self) -> None:
        self.over = False

    def done(self) -> bool:
        return self.over


def parcel(number: int, priority: int = 5, *, small: bool = True) -> Parcel:
    job = Job(str(number), "welcome", b"{}", DEFAULTS, number, 0, priority, b"[]")
    body = "small" if small else "giant"
    mail = Email("welcome", "a@b.dev", f"p{number}@mail.dev", "s", body, body)
    return Parcel(job, priority, priority == 1, lambda: mail, fate=Waiting())  # type: ignore[arg-type]


def small(one: Parcel) -> bool:
    return one.mail.html == "small"


def numbers(load: Load | None) -> list[int]:
    assert load is not None
    return [int(one.job.id) for one in load.parcels]


def line_of(*parcels: Parcel) -> Line:
    line = Line()
    for one in parcels:
        line.push(one)
    return line


def take(
    line: Line, most: int = 100, *, urgent_only: bool = False, fits: Callable[[Parcel], bool] = small
) -> list[int]:
    return numbers(line.take(fits, most=most, urgent_only=urgent_only))


@given(st.lists(st.sampled_from([1, 1, 5, 10]), max_size=60), st.integers(1, 20))
def test_codes_first_then_priority_then_arrival(priorities: list[int], most: int) -> None:
    """Whatever has come, requests take it in one order and lose nothing."""
    line = line_of(*(parcel(number, priority) for number, priority in enumerate(priorities)))
    left: list[int] = []
    while not line.empty:
        load = take(line, most)
        assert len(load) <= most
        left += load
    assert left == sorted(range(len(priorities)), key=lambda number: (priorities[number], number))


def test_who_comes_back_takes_the_old_place() -> None:
    """A mail that the provider has not processed is not overtaken by later ones of its priority."""
    first, second = parcel(1), parcel(2)
    line = line_of(first, second)
    assert take(line, 1) == [1]
    line.push(parcel(3))
    line.push(first)
    assert take(line) == [1, 2, 3]


def test_giants_go_alone_and_hold_nobody_up() -> None:
    """What does not fit into a batch leaves in its turn, by itself."""
    line = line_of(parcel(1), parcel(2, small=False), parcel(3), parcel(4, 1, small=False))
    assert [take(line), take(line), take(line)] == [[4], [1, 3], [2]]


def test_codes_alone_where_bulk_must_wait() -> None:
    """A request for codes only takes no bulk along."""
    line = line_of(parcel(1), parcel(2, 1), parcel(3, 1))
    assert line.urgent
    assert take(line, urgent_only=True) == [2, 3]
    assert not line.urgent


def test_loads_stay_together() -> None:
    """A sealed request leaves in the place of its most urgent mail, with nobody else in it."""
    line = line_of(parcel(1), parcel(2))
    load = Load([parcel(3, 10), parcel(4, 1)])
    line.push_load(load)
    assert line.urgent
    assert [take(line), take(line)] == [[3, 4], [1, 2]]


def test_the_gone_are_passed_over() -> None:
    """Nobody waits for them any more: neither alone nor in loads are they taken."""
    parcels = [parcel(number) for number in range(4)]
    load = Load([parcel(9)])
    line = line_of(*parcels)
    line.push_load(load)
    for one in (parcels[0], parcels[2], load.parcels[0]):
        one.fate.over = True  # type: ignore[attr-defined]
    assert take(line) == [1, 3]
    assert line.empty
    assert line.take(small, most=1, urgent_only=False) is None

"""Which mail of a request was accepted, whatever shape the answer has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.delivery.gateway import Rejected
from flowstate_daemon.delivery.responses import is_acceptance, parse_results
from flowstate_daemon.mail.message import Accepted


def rows(*ids: str) -> list[dict[str, str]]:
    return [{"id": one} for one in ids]


@pytest.mark.parametrize(
    ("content", "count", "text"),
    [
        ({"id": "a"}, 1, ["a"]),
        ({"data": rows("a", "b")}, 2, ["a", "b"]),
        ({"data": rows("a", "b"), "errors": []}, 2, ["a", "b"]),
        ({"data": rows("a", "b"), "errors": None}, 2, ["a", "b"]),
        ({"data": rows("a", "c"), "errors": [{"index": 1, "message": "bad"}]}, 3, ["a", "!bad", "c"]),
        (
            {"data": rows("c"), "errors": [{"index": 1, "message": "y"}, {"index": 0, "message": "x"}]},
            3,
            ["!x", "!y", "c"],
        ),
        ({"data": [], "errors": [{"index": 0}]}, 1, ["!"]),
        ({"data": [{"id": "a"}, None], "errors": [{"index": 1, "message": "bad"}]}, 2, ["a", "!bad"]),
        ({"data": [{"id": "a"}, {"id": None}], "errors": [{"index": 1, "message": 7}]}, 2, ["a", "!"]),
        ({"id": "a"}, 2, None),
        ({"id": ""}, 1, None),
        ({"data": rows("a")}, 2, None),
        ({"data": rows("a", "b", "c")}, 2, None),
        ({"data": [{"id": "a"}, {}]}, 2, None),
        ({"data": rows("a"), "errors": [{"index": 2, "message": "one too far"}]}, 2, None),
        ({"data": rows("a"), "errors": [{"index": -1, "message": "bad"}]}, 2, None),
        ({"data": rows("a"), "errors": [{"index": "1", "message": "bad"}]}, 2, None),
        ({"data": rows("a"), "errors": [{"index": 0}, {"index": 0}]}, 2, None),
        ({"data": rows("a"), "errors": "bad"}, 2, None),
        ([], 1, None),
        (None, 1, None),
    ],
)
def test_each_mail_has_its_own_result(content: object, count: int, text: list[str] | None) -> None:
    """Ids and refusals find their mails by place; an answer that fits in no way decides nothing."""
    results = parse_results(content, count, "resend")
    if text is None:
        assert results is None
        return
    assert results == tuple(Rejected(word[1:]) if word[:1] == "!" else Accepted(word, "resend") for word in text)


@given(st.lists(st.booleans(), min_size=1, max_size=100))
def test_every_pattern_of_refusals_is_matched(good: list[bool]) -> None:
    """Whichever mails of a batch are refused, each of the others gets its own id."""
    content = {
        "data": rows(*[f"id{place}" for place, fine in enumerate(good) if fine]),
        "errors": [{"index": place, "message": f"m{place}"} for place, fine in enumerate(good) if not fine],
    }
    assert is_acceptance(content)
    results = parse_results(content, len(good), "resend")
    assert results == tuple(
        Accepted(f"id{place}", "resend") if fine else Rejected(f"m{place}") for place, fine in enumerate(good)
    )

"""Keys and kept answers of requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.delivery.gateway import Rejected, Result
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.sending.batch import decode_results, encode_results, idempotency_key

MEMBERS = st.lists(st.tuples(st.text(max_size=20), st.integers(0, 2**53)), min_size=1, max_size=5)
RESULT: st.SearchStrategy[Result] = st.builds(Accepted, st.text(), st.text()) | st.builds(Rejected, st.text())


@given(MEMBERS, st.binary(max_size=50), MEMBERS, st.binary(max_size=50))
def test_a_key_is_for_one_request(
    members: list[tuple[str, int]], body: bytes, others: list[tuple[str, int]], other_body: bytes
) -> None:
    """The same mails of the same jobs have the same key; any other mail or job makes another one, fit for a header."""
    key = idempotency_key("/emails", body, members)
    assert key.isascii()
    assert key.isprintable()
    assert len(key) <= 256
    same = (members, body) == (others, other_body)
    assert (key == idempotency_key("/emails", other_body, others)) is same
    assert key != idempotency_key("/emails/batch", body, members)


@given(st.lists(RESULT, max_size=20))
def test_answers_are_kept_whole(results: list[Result]) -> None:
    """What was written with the envelope is read back as it was."""
    assert decode_results(encode_results(results)) == tuple(results)

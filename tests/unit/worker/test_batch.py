"""Idempotency keys and stored results of requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.delivery.gateway import Rejected, Result
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.sending.batch import decode_results, encode_results, idempotency_key

MEMBERS = st.lists(st.tuples(st.text(max_size=20), st.integers(0, 2**53)), min_size=1, max_size=5)
RESULT: st.SearchStrategy[Result] = st.builds(Accepted, st.text(), st.text()) | st.builds(Rejected, st.text())


@given(MEMBERS, st.binary(max_size=50), MEMBERS, st.binary(max_size=50))
def test_idempotency_key_differs_when_any_part_differs(
    members: list[tuple[str, int]], body: bytes, others: list[tuple[str, int]], other_body: bytes
) -> None:
    """The same emails of the same jobs have the same key; any other email or job gets another, valid in a header."""
    key = idempotency_key("/emails", body, members)
    assert key.isascii()
    assert key.isprintable()
    assert len(key) <= 256
    same = (members, body) == (others, other_body)
    assert (key == idempotency_key("/emails", other_body, others)) is same
    assert key != idempotency_key("/emails/batch", body, members)


@given(st.lists(RESULT, max_size=20))
def test_results_survive_encoding(results: list[Result]) -> None:
    """Decoding the stored results of a request returns them unchanged."""
    assert decode_results(encode_results(results)) == tuple(results)

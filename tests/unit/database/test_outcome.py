"""Journal entries: everything parseable is kept in storable form, the rest raises InvalidDataError only."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.database.ledger import LATEST_MS, MAX_KEY_LENGTH, Decision, Outcome, parse_outcome
from tests.support.ledger_entries import START_MS, journal_entry, outcome

ENTRY: dict[str, Any] = {
    "key": f"bull:email:7:{START_MS}:2",
    "at": START_MS,
    "job_id": "7",
    "kind": "welcome",
    "to": "Ada@Example.org",
    "attempt": 2,
    "outcome": "failed",
    "provider_id": None,
    "reason": "refused",
    "decisions": [{"check": "eligible", "result": "send", "reason": None}],
}


def entry(**changes: Any) -> bytes:
    return json.dumps({**ENTRY, **changes}).encode()


def test_entry_is_parsed() -> None:
    """All fields are parsed, with the address normalised and the key without the attempt."""
    found = parse_outcome(entry())
    assert found == Outcome(
        ENTRY["key"], START_MS, "7", "welcome", "ada@example.org", 2, "failed", None, "refused",
        (Decision("eligible", "send"),),
    )  # fmt: skip
    assert found.mail_key == f"bull:email:7:{START_MS}"


def test_empty_values_of_lua_are_parsed() -> None:
    """An empty list is {}, nil fields are absent, and unknown newer fields are ignored."""
    sparse = {name: value for name, value in ENTRY.items() if name not in {"provider_id", "reason", "to"}}
    found = parse_outcome(json.dumps({**sparse, "decisions": {}, "new_field": 1}).encode())
    assert (found.decisions, found.reason, found.to) == ((), None, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"key": ""},
        {"key": 7},
        {"at": "now"},
        {"at": -1},
        {"at": LATEST_MS + 1},
        {"attempt": 2**31},
        {"attempt": None},
        {"outcome": ""},
        {"decisions": "none"},
        {"decisions": [{"check": "x"}]},
        {"job_id": None},
    ],
)
def test_invalid_field_raises_without_its_value(changes: dict[str, Any]) -> None:
    """The reason names the field and never a value."""
    with pytest.raises(InvalidDataError, match="Expected a journal entry") as caught:
        parse_outcome(entry(**changes, reason="geheim"))
    assert "geheim" not in caught.value.reason


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b"\xff", b"NaN", b"[" * 100_000, b"{}" * 3, b"\0"])
def test_garbage_raises_invalid_data(raw: bytes) -> None:
    """Any bytes raise InvalidDataError only."""
    with pytest.raises(InvalidDataError):
        parse_outcome(raw)


def test_broken_text_does_not_lose_the_outcome() -> None:
    """NUL, a lone surrogate and invalid UTF-8 in a reason are replaced."""
    assert parse_outcome(entry(reason="a\0b")).reason == "a\N{REPLACEMENT CHARACTER}b"
    assert parse_outcome(entry(reason="a\ud83d")).reason == "a?"
    assert parse_outcome(entry(reason="@@").replace(b"@@", b"a\xff")).reason == "a\N{REPLACEMENT CHARACTER}"


def test_secrets_and_addresses_are_redacted() -> None:
    """Reasons and decisions are redacted, whoever wrote them."""
    words = "key re_abcdef123456 token=geheim for eve@example.org"
    found = parse_outcome(entry(reason=words, decisions=[{"check": "s", "result": "v", "reason": words}]))
    for text in (found.reason, found.decisions[0].reason):
        assert text is not None
        assert not any(secret in text for secret in ("abcdef", "geheim", "eve@"))


def test_long_texts_are_truncated_and_long_keys_stay_unique() -> None:
    """Nothing is longer than its limit; two long keys that differ at the end stay different."""
    keys = [f"bull:email:{'x' * 5_000}{number}:{START_MS}:{attempt}" for number in (1, 2) for attempt in (1, 2)]
    found = [parse_outcome(entry(key=key, reason="r" * 9_000, kind="k" * 9_000)) for key in keys]
    assert len({one.key for one in found}) == 4
    assert len({one.mail_key for one in found}) == 2
    assert all(
        len(one.key) <= MAX_KEY_LENGTH and len(one.reason or "") <= 1_000 and len(one.kind) <= 100 for one in found
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_invalid(raw: bytes) -> None:
    """No input raises another error."""
    with contextlib.suppress(InvalidDataError):
        parse_outcome(raw)


@given(st.text(), st.text(min_size=1), st.text())
def test_any_text_becomes_storable(reason: str, kind: str, to: str) -> None:
    """Any text has no NUL, is valid UTF-8, and cleaning it again changes nothing."""
    found = parse_outcome(entry(reason=reason, kind=kind, to=to))
    for text in (found.reason, found.kind, found.to):
        assert text is not None
        assert "\0" not in text
        text.encode()
    assert parse_outcome(journal_entry(found)) == found


@given(st.text())
def test_normalising_an_address_is_idempotent(text: str) -> None:
    """A stored address is found again."""
    assert normalise_address(normalise_address(text)) == normalise_address(text)


def test_journal_entry_of_the_tests_is_valid() -> None:
    """The entries that other tests use parse to themselves."""
    assert parse_outcome(journal_entry(outcome(3))) == outcome(3)

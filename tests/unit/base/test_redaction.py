"""What is hidden, what stays readable, and that hiding is quick on hostile text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.redaction import (
    MAX_TEXT_LENGTH,
    REDACTED,
    escape_control_chars,
    is_secret_name,
    mask_address,
    redact_text,
    redact_value,
)

CODES = st.from_regex(r"[qxz]{4}[0-9]{6,12}", fullmatch=True)
NAMED_SECRETS = (
    *("otpCode", "otp_code", "OTPCODE", "api_key", "apiKey", "RESEND_API_KEY", "x-api-key", "password"),
    *("redis_password", "token", "lockToken", "authorization", "Proxy-Authorization", "Cookie"),
    "webhook_secret",
)
SECRET_KEYS = st.sampled_from(["code", *NAMED_SECRETS])
HARMLESS_KEYS = st.text(alphabet="abnm", min_size=1, max_size=6)
KEYS = SECRET_KEYS | HARMLESS_KEYS


def nested(code: str) -> st.SearchStrategy[Any]:
    """Values of any shape in which the code stands under a secret key only."""
    leaf = st.integers() | st.booleans() | st.none() | st.text(alphabet="klm \n\x1b", max_size=20)
    hiding = st.dictionaries(SECRET_KEYS, st.just(code), max_size=2)
    return st.recursive(
        leaf | hiding,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HARMLESS_KEYS, inner, max_size=3),
        max_leaves=8,
    )


@given(st.data(), CODES)
def test_a_code_under_a_secret_key_never_shows(data: st.DataObject, code: str) -> None:
    """However deep and in whatever shape it is nested, a secret's value is not in what may be shown."""
    value = data.draw(nested(code))
    shown = msgspec.json.encode(redact_value("context", value)).decode()
    assert code not in shown
    assert code not in str(redact_value("reason", repr(value)))
    assert code not in str(redact_value("reason", msgspec.json.encode(value)))


@given(st.sampled_from(NAMED_SECRETS), CODES, st.sampled_from([":", "=", " = ", ": "]))
def test_a_code_in_a_sentence_is_hidden_when_it_is_named(key: str, code: str, sign: str) -> None:
    """`otpCode: 123456` in free text loses the number, also inside a string inside a string."""
    assert code not in redact_text(f"could not read {key}{sign}{code}, sorry")
    assert code not in redact_text(f'{{\\"{key}\\"{sign}\\"{code}\\"}}')


@given(st.text(min_size=1, max_size=20, alphabet=st.characters(categories=["L", "N"])))
def test_no_full_address_survives(local: str) -> None:
    """Every local part is reduced to its first letter, and once is enough."""
    shown = redact_text(f"to {local}@example.org <{local}@example.org>, '{local}@example.org'")
    assert shown == redact_text(shown)
    assert shown.count("***@example.org") == 3
    assert len(local) == 1 or f"{local}@" not in shown


@dataclass(frozen=True)
class Request:
    """Stands for any object of the house that somebody logs whole."""

    to: str
    otpCode: str  # noqa: N815 - the producers' spelling


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key re_AbCd1234_secretsecret refused", f"key re_{REDACTED} refused"),
        ("redis://:hunter2@cache.example.org:6379/0", f"redis://{REDACTED}@cache.example.org:6379/0"),
        ("Authorization: Bearer abc.def-ghi", f"Authorization: {REDACTED}"),
        ("sent Bearer abc.def-ghi twice", f"sent Bearer {REDACTED} twice"),
        ("a***@example.org", "a***@example.org"),
        ("the status code: 404", "the status code: 404"),
        ("pre_enqueued by otp: 3", "pre_enqueued by otp: 3"),
        ("\ud800\x9b\u2028", "\\ud800\\x9b\\u2028"),
    ],
)
def test_what_free_text_becomes(text: str, shown: str) -> None:
    """Keys, logins and bearers go; what an operator needs stays."""
    assert redact_text(text) == shown


def test_objects_are_told_without_their_secrets() -> None:
    """A dataclass logged whole shows neither its code nor its address."""
    shown = redact_value("request", Request("ada@example.org", "123456"))
    assert "123456" not in shown
    assert "ada@" not in shown


def test_an_object_that_cannot_describe_itself_does_no_harm() -> None:
    """A `repr` that raises costs nothing but the value."""

    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert redact_value("who", Shy()) == "<Shy>"


def test_long_and_deep_values_are_cut() -> None:
    """A hostile job name fills neither the disk nor the stack."""
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    assert redact_value("x", deep) == [[[["…"]]]]
    assert len(redact_text("a" * 1_000_000)) == MAX_TEXT_LENGTH + 1
    assert len(redact_value("x", list(range(10_000)))) == 50


def test_secret_names_are_known_however_they_are_spelt() -> None:
    """Only the ending counts, and `status_code` is no secret."""
    assert all(is_secret_name(name) for name in ("otpCode", "OTP_CODE", "x-api-key", "refreshToken", "code"))
    assert not any(is_secret_name(name) for name in ("status_code", "kind", "token_count", "otp", "to"))


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    """Nothing a terminal would obey is left."""
    assert escape_control_chars(text).isprintable()


def test_a_mask_shows_the_first_letter_and_the_domain() -> None:
    """Enough to recognise a person, too little to write to them."""
    assert mask_address("ada@example.org") == "a***@example.org"
    assert mask_address("nobody") == "***"
    assert mask_address("a\nb@example.org") == "a***@example.org"
    assert mask_address("x@exa\nmple.org") == "x***@exa?mple.org"

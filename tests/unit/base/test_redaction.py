"""Redaction: what is hidden, what stays readable, and that hostile text is handled fast."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base import redaction
from flowstate_daemon.base.redaction import (
    CODE_NAMES,
    MAX_TEXT_LENGTH,
    REDACTED,
    SECRET_NAMES,
    WHOLE_SECRET_NAMES,
    escape_control_chars,
    is_secret_name,
    mask_address,
    redact_text,
    redact_value,
)

SECRET = "q7Wk39"
Engine = Callable[[Any, str], Any]
ENGINES: dict[str, Engine] = {
    "field of a log event": lambda module, name: module.redact_value(name, SECRET),
    "nested in a log event": lambda module, name: module.redact_value("context", [{name: {"a": SECRET}}]),
    "free text": lambda module, name: module.redact_text(f'got {{"{name}": "{SECRET}"}}, {name}={SECRET}'),
    "message of the provider": lambda module, name: module.redact_provider_text(f'got {{"{name}": "{SECRET}"}}'),
    "job data for display": lambda module, name: module.redact_json({"context": [{name: SECRET}]}),
    "parameter of a link": lambda module, name: module.redact_json({"url": f"https://x.y/?{name}={SECRET}"}),
}
CODE_ENGINES: dict[str, Engine] = {
    "job data that is kept": lambda module, name: module.redact_code_fields({"context": [{name: SECRET}]}),
    "rules for Lua": lambda module, name: REDACTED if in_lua_rules(module.CODE_RULES_JSON, name) else SECRET,
}


def in_lua_rules(rules_json: str, name: str) -> bool:
    """Whether the scripts get this name. That they obey is tested with a real Redis."""
    rules = json.loads(rules_json)
    return name.replace("-", "") in rules["endings"]


def with_one_more_name(name: str) -> Any:
    """The module as it would be with one more entry in its list of names."""
    source = Path(redaction.__file__).read_text(encoding="utf-8")
    module = ModuleType("redaction_with_one_more_name")
    exec(source.replace('"otp-code"', f'"{name}", "otp-code"', 1), module.__dict__)
    return module


@pytest.mark.parametrize("name", [*SECRET_NAMES, *WHOLE_SECRET_NAMES])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_secret_name_is_hidden_by_each_engine(engine: str, name: str) -> None:
    """Every entry of the list counts wherever something is redacted, and the placeholder is the same."""
    shown = str(ENGINES[engine](redaction, name))
    assert SECRET not in shown
    assert REDACTED in shown


@pytest.mark.parametrize("engine", [*ENGINES, *CODE_ENGINES])
def test_a_name_is_hidden_by_each_engine_when_added_to_the_list(engine: str) -> None:
    """There is one list: a new name of a code needs no second change."""
    run = (ENGINES | CODE_ENGINES)[engine]
    assert SECRET in str(run(redaction, "wombat"))
    assert SECRET not in str(run(with_one_more_name("wombat"), "wombat"))


@pytest.mark.parametrize("engine", CODE_ENGINES)
def test_only_codes_are_removed_from_data_that_is_kept(engine: str) -> None:
    """A failed job can be retried after an upgrade, so its data keeps everything but the code."""
    for name in (*SECRET_NAMES, *WHOLE_SECRET_NAMES):
        assert (SECRET not in str(CODE_ENGINES[engine](redaction, name))) == (name in CODE_NAMES), name


@pytest.mark.parametrize("spelling", ["otp-code", "OTP_CODE", "otpCode", "x-otp-code_", "otp code"])
def test_may_contain_code_when_data_has_the_name_of_a_code(spelling: str) -> None:
    """The quick check before the redaction of a settled job's data misses no spelling."""
    assert redaction.is_code_name(spelling)
    assert redaction.may_contain_code(json.dumps({spelling: 1}).encode())
    assert not redaction.may_contain_code(b'{"context": {"name": "Ada"}}')


@pytest.mark.parametrize("text", ["token: x", "Authorization: Bearer abc", '{"otpCode": "1"}', "re_abcdef1 refused"])
def test_redact_text_changes_nothing_when_repeated(text: str) -> None:
    """A reason may be redacted when it is made, when it is stored and when it is logged."""
    assert redact_text(redact_text(text)) == redact_text(text)


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
def test_redact_value_when_nested(data: st.DataObject, code: str) -> None:
    """A value under a secret name is hidden at any depth and in any shape."""
    value = data.draw(nested(code))
    shown = msgspec.json.encode(redact_value("context", value)).decode()
    assert code not in shown
    assert code not in str(redact_value("reason", repr(value)))
    assert code not in str(redact_value("reason", msgspec.json.encode(value)))


@given(st.sampled_from(NAMED_SECRETS), CODES, st.sampled_from([":", "=", " = ", ": "]))
def test_redact_text_when_secret_is_named(key: str, code: str, sign: str) -> None:
    """`otpCode: 123456` in free text is hidden, also in JSON within a string."""
    assert code not in redact_text(f"could not read {key}{sign}{code}, sorry")
    assert code not in redact_text(f'{{\\"{key}\\"{sign}\\"{code}\\"}}')


@given(st.text(min_size=1, max_size=20, alphabet=st.characters(categories=["L", "N"])))
def test_redact_text_when_address(local: str) -> None:
    """Every local part is reduced to its first letter, and repeating changes nothing."""
    shown = redact_text(f"to {local}@example.org <{local}@example.org>, '{local}@example.org'")
    assert shown == redact_text(shown)
    assert shown.count("***@example.org") == 3
    assert len(local) == 1 or f"{local}@" not in shown


@dataclass(frozen=True)
class Request:
    """An object of ours that is logged as a whole."""

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
def test_redact_text(text: str, shown: str) -> None:
    """Keys, logins and bearer tokens are hidden; what an operator needs stays."""
    assert redact_text(text) == shown


def test_redact_value_when_object() -> None:
    """The repr of a logged dataclass shows neither its code nor its address."""
    shown = redact_value("request", Request("ada@example.org", "123456"))
    assert "123456" not in shown
    assert "ada@" not in shown


def test_redact_value_when_repr_fails() -> None:
    """Only the value is lost."""

    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert redact_value("who", Shy()) == "<Shy>"


def test_redact_value_when_long_or_deep() -> None:
    """A hostile value fills neither the disk nor the stack."""
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    assert redact_value("x", deep) == [[[["…"]]]]
    assert len(redact_text("a" * 1_000_000)) == MAX_TEXT_LENGTH + 1
    assert len(redact_value("x", list(range(10_000)))) == 50


def test_is_secret_name_in_any_spelling() -> None:
    """Only the end of a name counts, and `status_code` is not secret."""
    assert all(is_secret_name(name) for name in ("otpCode", "OTP_CODE", "x-api-key", "refreshToken", "code"))
    assert not any(is_secret_name(name) for name in ("status_code", "kind", "token_count", "otp", "to"))


@given(st.text())
def test_escape_control_chars_gives_one_printable_line(text: str) -> None:
    """Terminals find no control sequence in it."""
    assert escape_control_chars(text).isprintable()


def test_mask_address() -> None:
    """The mask shows the first letter and the domain."""
    assert mask_address("ada@example.org") == "a***@example.org"
    assert mask_address("nobody") == "***"
    assert mask_address("a\nb@example.org") == "a***@example.org"
    assert mask_address("x@exa\nmple.org") == "x***@exa?mple.org"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the code 482913 was refused", "the code [redacted] was refused"),
        ("48 29 13", "[redacted]"),
        ("482-913", "[redacted]"),
        ("attempt 4 of 4: 500", "attempt 4 of 4: 500"),
    ],
)
def test_groups_of_digits_may_be_codes(text: str, shown: str) -> None:
    assert redaction.redact_codes(text) == shown


def test_addresses_in_html_are_masked_and_style_sheets_are_not() -> None:
    html = "<style>a{}@media (x){}</style><a href='mailto:ada.l+x@mail.example.org'>ada.l+x@mail.example.org</a> @you"
    masked = "<style>a{}@media (x){}</style><a href='mailto:a***@mail.example.org'>a***@mail.example.org</a> @you"
    assert redaction.mask_addresses_in_html(html) == masked


def test_marks_that_turn_text_are_escaped_and_lines_stay() -> None:
    assert redaction.escape_marks("a\u202egpj\nb\u200f") == "a\\u202egpj\nb\\u200f"

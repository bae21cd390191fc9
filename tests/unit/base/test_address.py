"""Email addresses: validation, the one form in which they are looked up, and senders."""

from __future__ import annotations

import pytest
from email_validator import validate_email
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.address import (
    PLAIN,
    RESERVED,
    Mailbox,
    ascii_domain,
    normalise_address,
    parse_address,
    parse_mailbox,
    unicode_domain,
)
from flowstate_daemon.base.errors import InvalidDataError

PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # two parts of a word, with a zero-width non-joiner


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ada@example.org", "ada@example.org"),
        ("Ada.Lovelace+x@Example.COM", "Ada.Lovelace+x@example.com"),
        ("ada@bücher.de", "ada@xn--bcher-kva.de"),
        ("ada@xn--bcher-kva.de", "ada@xn--bcher-kva.de"),
        ("ada@flowstate.test", "ada@flowstate.test"),
        ("ada@flowstate.example", "ada@flowstate.example"),
        ("delivered+label@resend.dev", "delivered+label@resend.dev"),
        ("o'hara@example.org", "o'hara@example.org"),
    ],
)
def test_parse_address_when_valid(written: str, read: str) -> None:
    """Ordinary, international and example addresses are accepted, in ASCII."""
    assert parse_address(written) == read


@pytest.mark.parametrize(
    "written",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "ada@localhost",
        "ada@printer.local",
        "ada@flowstate.invalid",
        "Ada <ada@example.org>",
        "<ada@example.org>",
        '"ada l"@example.org',
        "ada@[127.0.0.1]",
        "ada@1.2.3.4",
        "adä@example.org",
        " ada@example.org",
        "ada@example.org\n",
        "ada@example.org\r\nBcc: eve@example.org",
        "ada@example.org,eve@example.org",
        "ada@example.org eve@example.org",
        "ada\0@example.org",
        "ada\u202e@example.org",
        "ada@exa\u200bmple..org",
        "ada@xn--zzzzzz.de",
        "a" * 1_000_000 + "@example.org",
        "=?utf-8?q?Bcc?=@example.org",
        "ada.=?utf-8?q?x?=@example.org",
    ],
)
def test_parse_address_when_invalid(written: str) -> None:
    """Anything but a bare address is rejected with the broken rule and without the address."""
    with pytest.raises(InvalidDataError) as caught:
        parse_address(written)
    reason = caught.value.reason
    assert reason.startswith("Expected an email address")
    assert "`$.to`" in reason
    assert len(reason) < 250
    for part in ("ada@", "adä", "example", "zzzz", "127", "eve@"):
        assert part not in reason


@given(st.from_regex(PLAIN, fullmatch=True).filter(lambda text: text.rpartition(".")[2] not in RESERVED))
def test_parse_address_when_plain(text: str) -> None:
    """The fast path accepts only what the validator returns unchanged."""
    assert parse_address(text) == text
    assert validate_email(text, check_deliverability=False, test_environment=True).ascii_email == text


def test_parse_address_when_very_long() -> None:
    """A hostile megabyte causes no backtracking."""
    with pytest.raises(InvalidDataError):
        parse_address("a." * 500_000 + "@" + "a-" * 500_000)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("DORA@EXAMPLE.NET", "dora@example.net"),
        (" Dora@Example.net\n", "dora@example.net"),
        ("eva@münchen.example", "eva@xn--mnchen-3ya.example"),
        ("EVA@MÜNCHEN.EXAMPLE", "eva@xn--mnchen-3ya.example"),
        ("eva@mu\u0308nchen.example", "eva@xn--mnchen-3ya.example"),
        ("Eva@XN--MNCHEN-3YA.example", "eva@xn--mnchen-3ya.example"),
        ("eva@münchen。example", "eva@xn--mnchen-3ya.example"),
        ("info@straße.example", "info@xn--strae-oqa.example"),
        ("почта@пример.рф", "почта@xn--e1afmkfd.xn--p1ai"),
        ("a_b@under_score.example", "a_b@under_score.example"),
        ("x@☃.example", "x@☃.example"),
        ("Nobody", "nobody"),
        ("", ""),
        ("a\0b@x.example", "a\ufffdb@x.example"),
        ("\ud800@x.example", "\ufffd@x.example"),
    ],
)
def test_normalise_address(written: str, normal: str) -> None:
    """Capitals, accents written in two ways, and both forms of a domain are the same address."""
    assert normalise_address(written) == normal
    assert normalise_address(normal) == normal


@given(st.text(max_size=400) | st.emails())
def test_normalise_address_when_any_text(text: str) -> None:
    """Any text has a normal form of limited length that can be stored, and that form is its own."""
    normal = normalise_address(text)
    assert normalise_address(normal) == normal
    assert len(normal) <= 320
    assert "\0" not in normal
    normal.encode()


@given(st.emails())
def test_normalise_address_when_parsed(text: str) -> None:
    """The address that is sent to has the normal form of the address as written."""
    try:
        parsed = parse_address(text)
    except InvalidDataError:
        return
    assert normalise_address(parsed) == normalise_address(text)


@pytest.mark.parametrize("domain", ["münchen.example", "пример.рф", "例え.jp", "example.org", "under_score.example"])
def test_both_forms_of_a_domain(domain: str) -> None:
    """The form that people type and the one of DNS are converted to each other."""
    assert unicode_domain(ascii_domain(domain)) == domain
    assert ascii_domain(domain).isascii()
    assert unicode_domain("xn--zzzzzzzzz.example") == "xn--zzzzzzzzz.example"


@pytest.mark.parametrize(
    ("written", "read", "shown"),
    [
        ("hello@example.com", Mailbox("", "hello@example.com"), "hello@example.com"),
        ("<hello@example.com>", Mailbox("", "hello@example.com"), "hello@example.com"),
        ("FlowState <hello@Example.com>", Mailbox("FlowState", "hello@example.com"), "FlowState <hello@example.com>"),
        (
            "Équipe FlowState <bonjour@exemple.fr>",
            Mailbox("Équipe FlowState", "bonjour@exemple.fr"),
            "Équipe FlowState <bonjour@exemple.fr>",
        ),
        ("🚀 Flow <a@example.com>", Mailbox("🚀 Flow", "a@example.com"), "🚀 Flow <a@example.com>"),
        ("\U0001fae9 <a@example.com>", Mailbox("\U0001fae9", "a@example.com"), "\U0001fae9 <a@example.com>"),
        (f"{PERSIAN} <a@example.com>", Mailbox(PERSIAN, "a@example.com"), f"{PERSIAN} <a@example.com>"),
        ("チーム <a@例え.jp>", Mailbox("チーム", "a@xn--r8jz45g.jp"), "チーム <a@xn--r8jz45g.jp>"),
        ("Flow, Inc. <a@example.com>", Mailbox("Flow, Inc.", "a@example.com"), '"Flow, Inc." <a@example.com>'),
        ('"Été, Inc." <a@example.com>', Mailbox("Été, Inc.", "a@example.com"), '"Été, Inc." <a@example.com>'),
        ('"a \\" b" <a@example.com>', Mailbox('a " b', "a@example.com"), '"a \\" b" <a@example.com>'),
        ('"a <b>" <a@example.com>', Mailbox("a <b>", "a@example.com"), '"a <b>" <a@example.com>'),
    ],
)
def test_parse_mailbox_when_valid(written: str, read: Mailbox, shown: str) -> None:
    """A sender has a name in any language; its address is ASCII, and the name is quoted only if it must be."""
    assert parse_mailbox(written) == read
    assert str(read) == shown
    assert parse_mailbox(shown) == read


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("élan@exemple.fr", "before the @"),
        ("Élan <élan@exemple.fr>", "before the @"),
        ("почта@пример.рф", "before the @"),
        ("Name", "not an email address"),
        ("", "not an email address"),
        ("Name <a@example.com", "Name <hello@example.com>"),
        ("Name <a@example.com> x", "Name <hello@example.com>"),
        ("Name <>", "not an email address"),
        ("a@example.com, b@example.com", "not an email address"),
        ("A <a@example.com>, B <b@example.com>", "one sender"),
        ("a <b> <a@example.com>", "one sender"),
        ("a@example.com\r\nBcc: b@example.com", "one line"),
        ("A\u202eB <a@example.com>", "control characters"),
        ("A\0 <a@example.com>", "control characters"),
        ("A\x85 <a@example.com>", "control characters"),
        ("A\ud83d <a@example.com>", "control characters"),
        ("=?utf-8?q?x?=@example.com", "ASCII"),
    ],
)
def test_parse_mailbox_when_invalid(written: str, reason: str) -> None:
    """The error says what is wrong with the sender."""
    with pytest.raises(ValueError, match=reason):
        parse_mailbox(written)

"""Unsubscribe links cannot be forged, read or changed."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.unsubscribe_links import (
    MAX_TOKEN_LENGTH,
    ExpiredLinkError,
    ForgedLinkError,
    InvalidLinkError,
    LinkTokenCodec,
    UnsubscribeLinks,
    UnsubscribeToken,
    link_issue_time,
    list_unsubscribe_headers,
)
from tests.unit.mail.rendered_mails import BRAND, TO, sample

MADE = 1_772_438_400_000
DAY_MS = 86_400_000
SECRET = "a secret of more than thirty-two characters"
OTHER = "another secret of more than 32 characters"
TICKET = UnsubscribeToken(TO, "task-reminder", MADE, "fr")
STORE = LinkTokenCodec([SECRET])
LINKS = UnsubscribeLinks("https://mail.flowstate.example/", STORE)
LEAVABLE = {name for name, kind in KINDS.items() if kind.unsubscribable}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TICKETS = st.builds(
    UnsubscribeToken,
    address=st.emails(),
    kind=st.sampled_from(sorted(LEAVABLE)),
    issued_ms=st.integers(0, 2**41).map(lambda second: second // 1000 * 1000),
    locale=st.sampled_from(LOCALES),
)


@given(TICKETS)
def test_decode_returns_what_was_encoded(ticket: UnsubscribeToken) -> None:
    """A token contains address, kind, time and language; it is short and URL-safe."""
    token = STORE.encode(ticket)
    assert STORE.decode(token, ticket.issued_ms) == ticket
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert len(token) < 80 + 1.4 * len(ticket.address)
    assert token == LinkTokenCodec([SECRET]).encode(ticket)


@given(TICKETS, st.data())
def test_decode_when_a_character_changed(ticket: UnsubscribeToken, data: st.DataObject) -> None:
    """A token with a changed, missing or added character is rejected."""
    token = STORE.encode(ticket)
    place = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.sampled_from(ALPHABET) | st.characters())
    changed = token[:place] + char + token[place + 1 :]
    for broken in (changed, token[:place] + token[place + 1 :], token[:place] + char + token[place:]):
        if broken != token:
            with pytest.raises(ForgedLinkError):
                STORE.decode(broken, ticket.issued_ms)


def test_decode_when_a_bit_changed() -> None:
    """Flipping any bit of a token's bytes, the version included, makes it invalid."""
    token = STORE.encode(TICKET)
    content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ForgedLinkError):
            STORE.decode(base64.urlsafe_b64encode(flipped).decode().rstrip("="), MADE)


def test_decode_when_unused_bits_changed() -> None:
    """Also the last character matters, whose spare bits base64 does not use."""
    for address in ("a@example.org", "ab@example.org", "abc@example.org"):
        token = STORE.encode(replace(TICKET, address=address))
        for place in range(len(token)):
            for char in ALPHABET + "=\n \0é+/":
                if char != token[place]:
                    with pytest.raises(ForgedLinkError):
                        STORE.decode(token[:place] + char + token[place + 1 :], MADE)


@given(st.text() | st.text(alphabet=ALPHABET, min_size=20))
def test_decode_when_any_text(text: str) -> None:
    """Any text is rejected with the same error."""
    with pytest.raises(InvalidLinkError):
        STORE.decode(text, MADE)


def test_decode_when_very_long() -> None:
    """A megabyte is rejected by its length; the longest address fits."""
    with pytest.raises(ForgedLinkError):
        STORE.decode("A" * 1_000_000, MADE)
    longest = replace(TICKET, address="a" * 308 + "@example.org")
    assert len(STORE.encode(longest)) < MAX_TOKEN_LENGTH
    assert STORE.decode(STORE.encode(longest), MADE) == longest


def test_token_hides_address_and_kind() -> None:
    """Neither the token nor its bytes nor the repr contain the address or the kind."""
    token = STORE.encode(TICKET)
    content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for part in (b"ada", b"example", b"reminder"):
        assert part not in content
        assert part.decode() not in token
    assert TO not in repr(TICKET)
    assert SECRET not in repr(LINKS)


def test_tokens_of_one_recipient_look_unrelated() -> None:
    """A reader of logs cannot see that two links belong to one recipient."""
    one, two = STORE.encode(TICKET), STORE.encode(replace(TICKET, kind="focus-report"))
    assert sum(a == b for a, b in zip(one[2:], two[2:], strict=False)) < len(one) // 4


def test_decode_when_expired() -> None:
    """Expired differs from forged; without a lifetime, links never expire."""
    token = STORE.encode(TICKET)
    assert STORE.decode(token, MADE + 400 * DAY_MS) == TICKET
    with pytest.raises(ExpiredLinkError):
        STORE.decode(token, MADE + 400 * DAY_MS + 1)
    assert LinkTokenCodec([SECRET], lifetime_days=None).decode(token, MADE + 10_000 * DAY_MS) == TICKET
    with pytest.raises(ExpiredLinkError):
        LinkTokenCodec([SECRET], lifetime_days=1).decode(token, MADE + 2 * DAY_MS)


def test_decode_when_secret_rotated() -> None:
    """The first secret encrypts, all decrypt; links of a removed secret are invalid."""
    old = STORE.encode(TICKET)
    both = LinkTokenCodec([OTHER, SECRET])
    assert both.decode(old, MADE) == TICKET
    new = both.encode(TICKET)
    assert new == LinkTokenCodec([OTHER]).encode(TICKET) != old
    assert both.decode(new, MADE) == TICKET
    for store, token in ((LinkTokenCodec([OTHER]), old), (STORE, new)):
        with pytest.raises(ForgedLinkError):
            store.decode(token, MADE)


@pytest.mark.parametrize("secrets", [[], [""], ["short"], [SECRET, "short"]])
def test_codec_when_secret_is_weak(secrets: list[str]) -> None:
    """Links require a strong secret."""
    with pytest.raises(ValueError):
        LinkTokenCodec(secrets)


def posted(kind: str, locale: str = "en", renderer: Renderer | None = None) -> Email:
    return (renderer or Renderer(BRAND, LINKS)).render(replace(sample(kind), locale=locale), issued_ms=MADE)


@pytest.mark.parametrize("locale", LOCALES)
def test_unsubscribable_emails_contain_the_link(locale: str) -> None:
    """In the one-click header and in both parts; the link decodes to the email's recipient and kind."""
    renderer = Renderer(BRAND, LINKS)
    for kind in LEAVABLE:
        mail = posted(kind, locale, renderer)
        (link,) = re.findall(
            r"^<(https://mail\.flowstate\.example/unsubscribe/([\w-]+))>$", mail.headers["List-Unsubscribe"]
        )
        assert mail.headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert STORE.decode(link[1], MADE) == UnsubscribeToken(TO, kind, MADE, locale)
        assert f'<a href="{link[0]}"' in mail.html
        assert link[0] in mail.text
        assert mail == posted(kind, locale)


def test_other_emails_contain_no_link() -> None:
    """Codes, resets, invitations and welcomes have neither header nor link."""
    renderer = Renderer(BRAND, LINKS)
    for kind in KINDS.keys() - LEAVABLE:
        mail = posted(kind, renderer=renderer)
        assert "List-Unsubscribe" not in mail.headers
        assert "/unsubscribe/" not in mail.html + mail.text


def test_render_when_no_link_is_possible() -> None:
    """Previews, and daemons without a public URL, render emails without a link."""
    plain = Renderer(BRAND).render(sample("focus-report"), issued_ms=MADE)
    assert plain == Renderer(BRAND, LINKS).render(sample("focus-report"))
    assert list_unsubscribe_headers(None) == {}
    assert "List-Unsubscribe" not in plain.headers
    assert "unsubscribe" not in plain.html.lower()


@pytest.mark.parametrize(
    ("created_ms", "issued_ms"),
    [
        (MADE - 5_000, MADE - 5_000),
        (MADE - 29 * DAY_MS, MADE - 29 * DAY_MS),
        (MADE + 60_000, MADE + 60_000),
        (0, MADE - MADE % DAY_MS),
        (-1, MADE - MADE % DAY_MS),
        (MADE // 1000, MADE - MADE % DAY_MS),
        (MADE - 399 * DAY_MS, MADE - MADE % DAY_MS),
        (MADE - 4_000 * DAY_MS, MADE - MADE % DAY_MS),
        (MADE + 2 * DAY_MS, MADE - MADE % DAY_MS),
        (2**70, MADE - MADE % DAY_MS),
    ],
)
def test_link_is_alive_on_arrival(created_ms: int, issued_ms: int) -> None:
    """A job that is old, from the future or without a time has a link of today, the same for each attempt."""
    assert link_issue_time(created_ms, MADE) == issued_ms
    token = STORE.encode(replace(TICKET, issued_ms=link_issue_time(created_ms, MADE)))
    STORE.decode(token, MADE + 369 * DAY_MS)
    with pytest.raises(ExpiredLinkError):
        STORE.decode(token, MADE + 402 * DAY_MS)

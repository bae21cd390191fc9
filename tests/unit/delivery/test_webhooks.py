"""Reports from the provider: only signed and fresh ones are read, and then whatever they hold."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, InvalidDataError
from flowstate_daemon.delivery.webhooks import InvalidSignatureError, StaleTimestampError, WebhookVerifier
from flowstate_daemon.mail.message import ProviderEvent
from tests.support.svix import SECRET, report, signed

OTHER = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
CLOCK = Clock()  # the SDK asks the machine for the time, and so must whoever signs
EVENTS = WebhookVerifier([SECRET], CLOCK)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def read(body: bytes, *, events: WebhookVerifier = EVENTS, **changes: Any) -> ProviderEvent | None:
    return events.verify(signed(body, **changes), body)


def test_a_delivery() -> None:
    """An ordinary report becomes an event; the time is the event's own."""
    body = report("email.delivered", created_at="2026-03-02T08:00:00.123Z")
    assert read(body, svix_id="msg_1") == ProviderEvent(
        "msg_1", "re-1", "delivered", 1_772_438_400_123, "ada@example.org"
    )


@pytest.mark.parametrize(
    ("word", "bounce", "suppress"),
    [
        ("Permanent", "permanent", "bounced"),
        ("permanent", "permanent", "bounced"),
        ("Transient", "transient", None),
        ("Temporary", "transient", None),
        ("Undetermined", "undetermined", None),
        ("", "undetermined", None),
        (None, "undetermined", None),
    ],
)
def test_bounces(word: str | None, bounce: str, suppress: str | None) -> None:
    """Only a bounce that is known to be hard suppresses; the provider's words are kept."""
    details = {"type": word, "subType": "General", "message": "550 no such user"}
    event = read(report("email.bounced", bounce=details))
    assert event is not None
    assert (event.bounce, event.suppress) == (bounce, suppress)
    assert event.reason is not None
    assert event.reason.endswith("General: 550 no such user")


def test_a_complaint_suppresses() -> None:
    """The provider's report of spam is enough."""
    event = read(report("email.complained"))
    assert event is not None
    assert (event.type, event.suppress, event.bounce) == ("complained", "complained", None)


def test_what_the_provider_adds_later_is_tolerated() -> None:
    """An unknown type about a mail is an event like others; one about something else is none."""
    event = read(report("email.levitated", levitated={"reason": "too light"}, extra=[1]))
    assert event is not None
    assert (event.type, event.reason, event.suppress) == ("levitated", "too light", None)
    assert read(report("contact.created")) is None
    assert read(report("email.delivered", email_id=None)) is None


def test_of_several_recipients_none_is_blamed() -> None:
    """Reports of other applications on the same account may have many; the event stays without an address."""
    for to, address in (
        (["a@example.org", "b@example.org"], ""),
        ([], ""),
        ("ada@example.org", "ada@example.org"),
        (["Ada <ada@example.org>"], "ada@example.org"),
        (None, ""),
        ([7], ""),
    ):
        event = read(report("email.complained", to=to))
        assert event is not None
        assert event.address == address


@pytest.mark.parametrize("created_at", [None, 7, "yesterday", "9999-99-99", ""])
def test_without_a_time_the_signature_s_counts(created_at: Any) -> None:
    """An unreadable instant is replaced by the one that was signed."""
    sent_s = CLOCK.now_ms() // 1000 - 5
    event = read(report("email.sent", created_at=created_at), sent_s=sent_s)
    assert event is not None
    assert event.at == sent_s * 1000


@pytest.mark.parametrize("drift_s", [-301, -3_600, 310, 3_600])
def test_old_and_early_reports_are_stale(drift_s: int) -> None:
    """A report that was signed more than five minutes ago or ahead is not believed, whatever its signature."""
    with pytest.raises(StaleTimestampError):
        read(report("email.sent"), sent_s=CLOCK.now_ms() // 1000 + drift_s)


def test_five_minutes_are_fine() -> None:
    """Machines' clocks differ."""
    for drift_s in (-290, 290):
        assert read(report("email.sent"), sent_s=CLOCK.now_ms() // 1000 + drift_s)


@given(st.data())
def test_no_byte_of_a_report_may_change(data: st.DataObject) -> None:
    """Body, id, time and signature hold together: another byte in any of them is a forgery."""
    body = report("email.bounced", bounce={"type": "Permanent"})
    headers = signed(body)
    part = data.draw(st.sampled_from(["body", "svix-id", "svix-signature"]))
    text = body if part == "body" else headers[part].encode()
    place = data.draw(st.integers(3 if part == "svix-signature" else 0, len(text) - 1))
    byte = data.draw(st.integers(0, 255))
    changed = text[:place] + bytes([byte]) + text[place + 1 :]
    if changed == text:
        return
    if part == "body":
        body = changed
    else:
        headers[part] = changed.decode("utf-8", "surrogateescape")
    with pytest.raises(InvalidSignatureError):
        EVENTS.verify(headers, body)


@pytest.mark.parametrize("missing", ["svix-id", "svix-timestamp", "svix-signature"])
def test_each_header_is_needed(missing: str) -> None:
    """Without any of the three nothing is believed, and an empty one is none."""
    body = report("email.sent")
    headers = signed(body)
    for value in ("", None):
        found = {name: text for name, text in headers.items() if name != missing}
        if value is not None:
            found[missing] = value
        with pytest.raises(InvalidSignatureError):
            EVENTS.verify(found, body)


@pytest.mark.parametrize("timestamp", ["soon", "1.5", "9" * 5_000, "\udcff", "١٢"])
def test_a_strange_time_is_never_a_crash(timestamp: str) -> None:
    """The time is the first thing that is read, from strangers."""
    body = report("email.sent")
    with pytest.raises((InvalidSignatureError, StaleTimestampError)):
        EVENTS.verify({**signed(body), "svix-timestamp": timestamp}, body)


def test_secrets_are_changed_without_losing_reports() -> None:
    """With two secrets both kinds of signature are good; an unknown secret is a forgery."""
    body = report("email.sent")
    both = WebhookVerifier([OTHER, SECRET], CLOCK)
    assert read(body, events=both)
    assert read(body, events=both, secret=OTHER)
    with pytest.raises(InvalidSignatureError):
        read(body, secret=OTHER)


@pytest.mark.parametrize("secrets", [[], [""], ["whsec_"], ["whsec_c2hvcnQ="], ["whsec_!!!"], [SECRET, ""], ["é"]])
def test_useless_secrets_are_refused(secrets: list[str]) -> None:
    """An empty or short key would let anybody sign."""
    with pytest.raises(ConfigError, match="webhook secret"):
        WebhookVerifier(secrets, CLOCK)


@pytest.mark.parametrize("body", [b"nonsense", b"{", b"[]", b"7", b"null", b"{}", b'{"type": 7}', b'{"type": ""}'])
def test_signed_nonsense_is_malformed(body: bytes) -> None:
    """The signature is right, so it is no forgery; it is no report either."""
    with pytest.raises(InvalidDataError):
        read(body)


def test_signed_depth_is_malformed() -> None:
    """A report nested a million times does not crash the reader."""
    with pytest.raises(InvalidDataError):
        read(b"[" * 100_000)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b'"\xed\xa0\x80"'])
def test_what_cannot_have_been_signed_is_forged(body: bytes) -> None:
    """Nothing, and bytes that are no text, are refused before anything is compared."""
    with pytest.raises(InvalidSignatureError):
        EVENTS.verify(signed(b"something"), body)


@given(JSON, JSON, JSON, st.sampled_from(["email.bounced", "email.failed", "email.complained", "email.x"]))
def test_any_shape_of_a_signed_report_is_read(data: Any, details: Any, to: Any, word: str) -> None:
    """Whatever the provider changes in its reports, reading them never crashes."""
    name = word.removeprefix("email.")
    for body in ({"type": word, "data": data}, {"type": word, "data": {"email_id": "re-1", "to": to, name: details}}):
        read(msgspec.json.encode(body))

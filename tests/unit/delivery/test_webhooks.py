"""Webhooks of the provider: only signed and fresh ones are accepted, and then with any payload."""

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
CLOCK = Clock()  # the SDK uses the system time, so the signature must too
VERIFIER = WebhookVerifier([SECRET], CLOCK)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def verify(body: bytes, *, verifier: WebhookVerifier = VERIFIER, **changes: Any) -> ProviderEvent | None:
    return verifier.verify(signed(body, **changes), body)


def test_delivered_webhook_becomes_an_event() -> None:
    """The time is that of the event."""
    body = report("email.delivered", created_at="2026-03-02T08:00:00.123Z")
    assert verify(body, svix_id="msg_1") == ProviderEvent(
        "msg_1", "re-1", "delivered", 1_772_438_400_123, "ada@example.org", sender_domain="example.org"
    )


@pytest.mark.parametrize(
    ("bounce_type", "suppress"),
    [
        ("Permanent", "bounced"),
        ("permanent", "bounced"),
        ("Transient", None),
        ("Temporary", None),
        ("Undetermined", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_hard_bounce_suppresses(bounce_type: str | None, suppress: str | None) -> None:
    """Other bounces do not; the provider's message is kept."""
    details = {"type": bounce_type, "subType": "General", "message": "550 no such user"}
    event = verify(report("email.bounced", bounce=details))
    assert event is not None
    assert event.suppress == suppress
    assert event.reason is not None
    assert event.reason.endswith("General: 550 no such user")


def test_complaint_suppresses() -> None:
    """A spam complaint is enough."""
    event = verify(report("email.complained"))
    assert event is not None
    assert (event.type, event.suppress) == ("complained", "complained")


def test_suppressed_email_suppresses() -> None:
    """The provider has not even tried: it has the address on its own list."""
    event = verify(report("email.suppressed", suppressed={"message": "listed"}))
    assert event is not None
    assert (event.suppress, event.reason) == ("suppressed", "listed")


def test_suppression_removed_is_an_event() -> None:
    """It is about an address and not about an email; without an address it is nothing."""
    event = verify(report("suppression.removed", id="s-1", email="ada@example.org"))
    assert event is not None
    assert (event.type, event.address, event.provider_id, event.suppress) == (
        "suppression.removed",
        "ada@example.org",
        "s-1",
        None,
    )
    for email in (None, "", 7, ["a@example.org", "b@example.org"]):
        assert verify(report("suppression.removed", email=email)) is None
    assert verify(report("suppression.added", email="ada@example.org")) is None


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("hello@flowstate.example", "flowstate.example"),
        ("Été <hello@FlowState.example>", "flowstate.example"),
        ("Flow, Inc. <a@flowstate.example>", "flowstate.example"),
        ("x@y.example <a@flowstate.example> ", "flowstate.example"),
        ("a@münchen.example", "xn--mnchen-3ya.example"),
        ("", ""),
        (None, ""),
        (["a@b.example"], ""),
    ],
)
def test_domain_of_the_sender(sender: Any, domain: str) -> None:
    """It shows which of several senders on one account an event is about."""
    event = verify(report("email.complained", **{"from": sender}))
    assert event is not None
    assert event.sender_domain == domain


def test_unknown_event_type_is_tolerated() -> None:
    """An unknown event about an email is an event; one about something else is ignored."""
    event = verify(report("email.levitated", levitated={"reason": "too light"}, extra=[1]))
    assert event is not None
    assert (event.type, event.reason, event.suppress) == ("levitated", "too light", None)
    assert verify(report("contact.created")) is None
    assert verify(report("email.delivered", email_id=None)) is None


def test_event_with_several_recipients_has_no_address() -> None:
    """Events of other applications on the same account may have several recipients."""
    for to, address in (
        (["a@example.org", "b@example.org"], ""),
        ([], ""),
        ("ada@example.org", "ada@example.org"),
        (["Ada <ada@example.org>"], "ada@example.org"),
        (None, ""),
        ([7], ""),
    ):
        event = verify(report("email.complained", to=to))
        assert event is not None
        assert event.address == address


@pytest.mark.parametrize("created_at", [None, 7, "yesterday", "9999-99-99", ""])
def test_invalid_event_time_is_replaced_by_the_signature_time(created_at: Any) -> None:
    """An unreadable time is replaced by the signed one."""
    sent_s = CLOCK.now_ms() // 1000 - 5
    event = verify(report("email.sent", created_at=created_at), sent_s=sent_s)
    assert event is not None
    assert event.at == sent_s * 1000


@pytest.mark.parametrize("drift_s", [-301, -3_600, 310, 3_600])
def test_webhook_older_than_five_minutes_is_stale(drift_s: int) -> None:
    """A webhook signed more than five minutes ago or ahead is rejected, whatever its signature."""
    with pytest.raises(StaleTimestampError):
        verify(report("email.sent"), sent_s=CLOCK.now_ms() // 1000 + drift_s)


def test_clock_difference_below_five_minutes_is_accepted() -> None:
    """The clocks of machines differ."""
    for drift_s in (-290, 290):
        assert verify(report("email.sent"), sent_s=CLOCK.now_ms() // 1000 + drift_s)


@given(st.data())
def test_any_changed_byte_invalidates_the_signature(data: st.DataObject) -> None:
    """Body, id, time and signature belong together: a change of any byte is a forgery."""
    body = report("email.bounced", bounce={"type": "Permanent"})
    headers = signed(body)
    part = data.draw(st.sampled_from(["body", "svix-id", "svix-signature"]))
    text = body if part == "body" else headers[part].encode()
    index = data.draw(st.integers(3 if part == "svix-signature" else 0, len(text) - 1))
    byte = data.draw(st.integers(0, 255))
    changed = text[:index] + bytes([byte]) + text[index + 1 :]
    if changed == text:
        return
    if part == "body":
        body = changed
    else:
        headers[part] = changed.decode("utf-8", "surrogateescape")
    with pytest.raises(InvalidSignatureError):
        VERIFIER.verify(headers, body)


@pytest.mark.parametrize("missing", ["svix-id", "svix-timestamp", "svix-signature"])
def test_missing_or_empty_header_is_rejected(missing: str) -> None:
    """Each of the three headers is required."""
    body = report("email.sent")
    headers = signed(body)
    for value in ("", None):
        found = {name: text for name, text in headers.items() if name != missing}
        if value is not None:
            found[missing] = value
        with pytest.raises(InvalidSignatureError):
            VERIFIER.verify(found, body)


@pytest.mark.parametrize("timestamp", ["soon", "1.5", "9" * 5_000, "\udcff", "١٢"])
def test_invalid_timestamp_is_rejected(timestamp: str) -> None:
    """The timestamp is the first value that is parsed, and it comes from anonymous clients."""
    body = report("email.sent")
    with pytest.raises((InvalidSignatureError, StaleTimestampError)):
        VERIFIER.verify({**signed(body), "svix-timestamp": timestamp}, body)


def test_two_secrets_are_valid_during_rotation() -> None:
    """With two secrets both signatures are valid; an unknown secret is a forgery."""
    body = report("email.sent")
    both = WebhookVerifier([OTHER, SECRET], CLOCK)
    assert verify(body, verifier=both)
    assert verify(body, verifier=both, secret=OTHER)
    with pytest.raises(InvalidSignatureError):
        verify(body, secret=OTHER)


@pytest.mark.parametrize("secrets", [[], [""], ["whsec_"], ["whsec_c2hvcnQ="], ["whsec_!!!"], [SECRET, ""], ["é"]])
def test_weak_secret_is_rejected(secrets: list[str]) -> None:
    """With an empty or short key anyone could sign."""
    with pytest.raises(ConfigError, match="webhook secret"):
        WebhookVerifier(secrets, CLOCK)


@pytest.mark.parametrize("body", [b"nonsense", b"{", b"[]", b"7", b"null", b"{}", b'{"type": 7}', b'{"type": ""}'])
def test_signed_payload_without_event_is_invalid(body: bytes) -> None:
    """The signature is valid, so it is not a forgery, but the payload is invalid."""
    with pytest.raises(InvalidDataError):
        verify(body)


def test_deeply_nested_payload_is_invalid() -> None:
    """A payload nested a million times does not crash the parser."""
    with pytest.raises(InvalidDataError):
        verify(b"[" * 100_000)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b'"\xed\xa0\x80"'])
def test_body_that_is_not_text_is_a_forgery(body: bytes) -> None:
    """An empty body and invalid UTF-8 are rejected before the signature is compared."""
    with pytest.raises(InvalidSignatureError):
        VERIFIER.verify(signed(b"something"), body)


@given(JSON, JSON, JSON, st.sampled_from(["email.bounced", "email.failed", "email.complained", "email.x"]))
def test_any_payload_shape_is_parsed(data: Any, details: Any, to: Any, event_type: str) -> None:
    """Whatever the provider changes in its payloads, parsing never crashes."""
    name = event_type.removeprefix("email.")
    for body in (
        {"type": event_type, "data": data},
        {"type": event_type, "data": {"email_id": "re-1", "to": to, name: details}},
    ):
        verify(msgspec.json.encode(body))

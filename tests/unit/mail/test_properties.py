"""Whatever a producer sends: a mail, or a refusal that gives nothing away."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.mail.kinds import KINDS, parse_request
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.samples import SAMPLES
from tests.support.html import Page
from tests.unit.mail.rendered_mails import BRAND, sample

RENDERER = Renderer(BRAND)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({name for context in SAMPLES.values() for name in context})
CONTEXTS = JSON | st.dictionaries(st.sampled_from(FIELDS), JSON)
KIND = st.sampled_from(sorted(KINDS))
CODE = "Zx81Qv"


def outcome(name: str, data: bytes) -> Email | InvalidDataError:
    """Any other exception fails the test."""
    try:
        return RENDERER.render(parse_request(name, data))
    except InvalidDataError as refusal:
        return refusal


def tags_of(mail: Email) -> set[str]:
    return {tag for tag, _ in Page(mail.html).tags}


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


TAGS = set().union(*(tags_of(RENDERER.render(sample(kind))) for kind in KINDS)) | {"strong", "span"}


@given(KIND, CONTEXTS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_context_renders_or_is_refused(name: str, context: Any, mended: bool) -> None:
    """There is no JSON context that ends in anything but a mail or Malformed, however near it is to a good one."""
    if mended and isinstance(context, dict):
        context = {**SAMPLES[name], **context}
    outcome(name, encoded({"type": name, "to": "ada@example.org", "context": context}))


@given(KIND, st.binary(max_size=200) | JSON.map(encoded))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused(name: str, data: bytes) -> None:
    """Data that is no mail at all is refused, with a printable reason of bearable length."""
    refusal = outcome(name, data)
    assert isinstance(refusal, InvalidDataError)
    assert refusal.reason.isprintable()
    assert len(refusal.reason) < 300


@given(KIND, st.data())
@settings(max_examples=100, deadline=None)
def test_any_text_in_any_field_stays_text(name: str, data: st.DataObject) -> None:
    """Texts never add a tag to the HTML nor a line to the subject; the same data gives the same mail."""
    texts = [field for field, value in SAMPLES[name].items() if isinstance(value, str) and not field.endswith("Url")]
    changed = {field: data.draw(TEXT, label=field) for field in texts if field != "otpCode"}
    job = encoded({"type": name, "to": "ada@example.org", "context": {**SAMPLES[name], **changed}})
    mail = outcome(name, job)
    assert mail == outcome(name, job) or isinstance(mail, InvalidDataError)
    if isinstance(mail, Email):
        assert mail.subject.splitlines() == [mail.subject]
        assert len(mail.subject) <= 200
        assert tags_of(mail) <= TAGS


@given(st.text(max_size=40) | st.emails(), st.data())
@settings(max_examples=100, deadline=None)
def test_reasons_give_nothing_away(address: str, data: st.DataObject) -> None:
    """No reason repeats the code, nor the address, whatever else is wrong with the job."""
    address = address.encode("utf-8", "replace").decode()
    context = {"otpCode": data.draw(st.sampled_from([CODE, [CODE], {CODE: CODE}, f"{CODE}-{CODE}"]))}
    refusal = outcome("otp", encoded({"type": "otp", "to": address, "context": context}))
    if isinstance(refusal, InvalidDataError):
        assert CODE not in refusal.reason
        assert len(address) < 4 or address not in refusal.reason


@pytest.mark.parametrize("kind", ["otp", "password-reset"])
def test_a_wrong_code_is_not_repeated(kind: str) -> None:
    """Reasons are stored with failed jobs and shown in tools: a code must not be there."""
    for code in (493027, "493027 ", ["493027"], "4-9-3-0-2-7"):
        refusal = outcome(kind, encoded({"type": kind, "to": "ada@example.org", "context": {"otpCode": code}}))
        assert isinstance(refusal, InvalidDataError)
        assert "493027" not in refusal.reason
        assert "4-9" not in refusal.reason

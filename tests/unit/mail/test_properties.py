"""Any input gives an email or an error without secrets."""

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
from tests.support.html import Page
from tests.support.mail_samples import SAMPLES
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
def test_parse_and_render_when_any_context(name: str, context: Any, with_required_fields: bool) -> None:
    """Any JSON context gives an email or InvalidDataError, however close it is to a valid one."""
    if with_required_fields and isinstance(context, dict):
        context = {**SAMPLES[name], **context}
    outcome(name, encoded({"type": name, "to": "ada@example.org", "context": context}))


@given(KIND, st.binary(max_size=200) | JSON.map(encoded))
@settings(max_examples=100, deadline=None)
def test_parse_request_when_any_bytes(name: str, data: bytes) -> None:
    """Invalid data is rejected with a printable reason of limited length."""
    refusal = outcome(name, data)
    assert isinstance(refusal, InvalidDataError)
    assert refusal.reason.isprintable()
    assert len(refusal.reason) < 300


@given(KIND, st.data())
@settings(max_examples=100, deadline=None)
def test_render_when_any_text(name: str, data: st.DataObject) -> None:
    """Text never adds a tag to the HTML or a line to the subject; rendering is deterministic."""
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
def test_reasons_contain_no_secret(address: str, data: st.DataObject) -> None:
    """No reason contains the code or the address, whatever else is wrong with the job."""
    address = address.encode("utf-8", "replace").decode()
    context = {"otpCode": data.draw(st.sampled_from([CODE, [CODE], {CODE: CODE}, f"{CODE}-{CODE}"]))}
    refusal = outcome("otp", encoded({"type": "otp", "to": address, "context": context}))
    if isinstance(refusal, InvalidDataError):
        assert CODE not in refusal.reason
        assert len(address) < 4 or address not in refusal.reason


@pytest.mark.parametrize("kind", ["otp", "password-reset"])
def test_reason_when_code_invalid(kind: str) -> None:
    """Reasons are stored with failed jobs and shown in tools, so they must not contain a code."""
    for code in (493027, "493027 ", ["493027"], "4-9-3-0-2-7"):
        refusal = outcome(kind, encoded({"type": kind, "to": "ada@example.org", "context": {"otpCode": code}}))
        assert isinstance(refusal, InvalidDataError)
        assert "493027" not in refusal.reason
        assert "4-9" not in refusal.reason

"""Parsing of posted forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.web.bodies import read_form

FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("content_type", "body", "fields"),
    [
        (FORM, b"List-Unsubscribe=One-Click", {"List-Unsubscribe": "One-Click"}),
        (FORM, b"a=1&b=&a=2", {"a": "2", "b": ""}),
        ("", b"a=%C3%A9+x", {"a": "é x"}),
        (PARTS, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\none\r\n--x--\r\n', {"a": "one"}),
        (PARTS.replace("x", '"x"'), b"--x\nContent-Disposition: form-data; name=a\n\none\n--x--", {"a": "one"}),
        ("Multipart/Form-Data", b"--x", {}),
    ],
)
def test_forms_of_both_types_are_parsed(content_type: str, body: bytes, fields: dict[str, str]) -> None:
    """Mail clients may use either type (RFC 8058)."""
    assert read_form(content_type, body) == fields


@given(
    st.sampled_from([FORM, PARTS, "multipart/form-data; boundary=", 'multipart/form-data; boundary="x'])
    | st.text().map(lambda text: f"multipart/form-data; {text}"),
    st.binary()
    | st.lists(
        st.sampled_from(
            [
                b"--x",
                b"--x--",
                b"\r\n",
                b"Content-Disposition: form-data; name=a",
                b"Content-Type: multipart/mixed; boundary=y",
                b"Content-Transfer-Encoding: base64",
                b"z",
                b"\xff",
            ]
        )
    ).map(b"\r\n".join),
)
def test_any_body_is_parsed_without_error(content_type: str, body: bytes) -> None:
    """Any bytes with any content type give text fields, possibly none."""
    fields = read_form(content_type, body)
    assert all(isinstance(text, str) for pair in fields.items() for text in pair)

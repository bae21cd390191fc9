"""JSON that only dirt keeps from being parsed is repaired; what is not JSON stays refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.lenient_json import repair_json


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":"x\\ud83d"}', {"a": "x\ufffd"}),
        (b'{"a":"\\ude42\\ud83d"}', {"a": "\ufffd\ufffd"}),
        (b'{"a":"\\ud83d\\ude42"}', {"a": "\U0001f642"}),
        (b'{"a\\udfff":1}', {"a\ufffd": 1}),
        (b'{"a":"x\x0b\x00y"}', {"a": "x\x0b\0y"}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b'{"a":"\xed\xa0\xbd"}', {"a": "\ufffd\ufffd\ufffd"}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":NaN,"b":-Infinity,"c":[Infinity]}', {"a": None, "b": None, "c": [None]}),
    ],
)
def test_dirt_is_repaired(data: bytes, value: Any) -> None:
    """The result is strict JSON with the same meaning."""
    assert msgspec.json.decode(repair_json(data)) == value


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":1,}', b"{'a':1}", b'{"a":"\\x0b"}', b"undefined", b"[" * 100_000])
def test_other_faults_are_not_repaired(data: bytes) -> None:
    """A text that is cut or is no JSON has no meaning that could be kept."""
    with pytest.raises((ValueError, RecursionError)):
        repair_json(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_any_json_is_repaired(value: Any) -> None:
    """Whatever Python writes as JSON, half surrogate pairs included, is strict JSON afterwards."""
    written = json.dumps(value)
    repaired = repair_json(written.encode())
    msgspec.json.decode(repaired, type=msgspec.Raw)
    assert "\\ud" in written or json.loads(repaired) == value

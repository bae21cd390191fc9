"""Which supported language a language tag names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.locales import LOCALES, match_locale


@pytest.mark.parametrize("tag", ["fr", "FR", " fr ", "fr-CA", "fr_FR", "fr-Latn-CH", "fr_FR.UTF-8", "fr@euro"])
def test_match_locale_when_the_tag_has_a_region(tag: str) -> None:
    """Regions, scripts and encodings are ignored, in all spellings of browsers and operating systems."""
    assert match_locale(tag) == "fr"


@pytest.mark.parametrize("tag", [None, "", "-", "de", "french", "frfr", "f" * 1000, 7, True, ["fr"], {"fr": 1}, b"fr"])
def test_match_locale_when_unsupported(tag: object) -> None:
    """An unsupported language and any other value give None: preferences may contain anything."""
    assert match_locale(tag) is None


@given(st.text())
def test_match_locale_when_any_text(tag: str) -> None:
    """No tag raises an error."""
    assert match_locale(tag) in {None, *LOCALES}

"""Which of our languages a wish names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.locales import LOCALES, match_locale


@pytest.mark.parametrize("wish", ["fr", "FR", " fr ", "fr-CA", "fr_FR", "fr-Latn-CH", "fr_FR.UTF-8", "fr@euro"])
def test_every_french_is_french(request: str) -> None:
    """Browsers, operating systems and people spell regions in many ways."""
    assert match_locale(request) == "fr"


@pytest.mark.parametrize("wish", [None, "", "-", "de", "french", "frfr", "f" * 1000, 7, True, ["fr"], {"fr": 1}, b"fr"])
def test_what_we_do_not_speak_is_nothing(request: object) -> None:
    """Preferences may hold anything."""
    assert match_locale(request) is None


@given(st.text())
def test_any_text_is_a_language_of_ours_or_none(request: str) -> None:
    """No wish makes a mail fail."""
    assert match_locale(request) in {None, *LOCALES}

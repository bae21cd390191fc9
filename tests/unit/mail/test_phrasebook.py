"""Words and templates: complete in every language, and harmless."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from flowstate_daemon.mail.catalogue import KINDS
from flowstate_daemon.mail.phrasebook import FORBIDDEN, MARK, read_phrasebook
from flowstate_daemon.mail.render import LOCALES

MAIL = files("flowstate_daemon.mail")


def test_every_file_of_words_is_a_language_we_speak() -> None:
    """No file of words lies unused, and each says its own name."""
    assert sorted(file.name for file in (MAIL / "words").iterdir()) == sorted(f"{name}.toml" for name in LOCALES)
    assert [read_phrasebook(name).locale for name in LOCALES] == list(LOCALES)


def test_languages_have_the_same_words() -> None:
    """Each language has each word of English and no other, with the same fields in it."""
    english = read_phrasebook("en")
    for other in map(read_phrasebook, LOCALES):
        assert other.kinds.keys() == english.kinds.keys() == KINDS.keys()
        assert other.common.keys() == english.common.keys()
        assert other.plurals.keys() == english.plurals.keys()
        for kind, words in english.kinds.items():
            assert other.kinds[kind].keys() == words.keys()
            for name, word in words.items():
                fields = [
                    set(re.findall(r"\w+_\w+|progress|priority|name", text)) for text in (word, other.kinds[kind][name])
                ]
                assert fields[0] == fields[1], f"{kind}.{name}"


def test_no_word_is_unused() -> None:
    """Each word stands in a template of its kind, or is its subject."""
    for kind, words in read_phrasebook("en").kinds.items():
        sources = "".join((MAIL / "templates" / f"{kind}.{ending}").read_text() for ending in ("html", "txt"))
        assert words.keys() - {"subject"} == set(MARK.findall(sources))


def test_words_in_html_attributes_are_harmless() -> None:
    """Words are put into templates as they are, so markup characters and quotation marks are refused."""
    for hostile in ("<b>", "a & b", 'say "x"', "two\nlines"):
        assert FORBIDDEN.search(hostile)


def test_a_missing_word_is_found_at_start() -> None:
    """A template that asks for a word which does not exist cannot be loaded."""
    words = read_phrasebook("en")
    assert words.fill("<p>[[motto]]</p>", "otp") == f"<p>{words.common['motto']}</p>"
    with pytest.raises(LookupError, match="nonsense"):
        words.fill("[[nonsense]]", "otp")

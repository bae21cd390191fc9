"""Words and templates: complete in every language, and harmless."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from flowstate_daemon.mail.i18n import FORBIDDEN_CHARS, PLURAL_SUFFIX, load_translations
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES

MAIL = files("flowstate_daemon.mail")


def test_every_file_of_words_is_a_language_we_speak() -> None:
    """No file of words lies unused, and each says its own name."""
    assert sorted(file.name for file in (MAIL / "words").iterdir()) == sorted(f"{name}.toml" for name in LOCALES)
    assert [load_translations(name).locale for name in LOCALES] == list(LOCALES)


def test_languages_have_the_same_words() -> None:
    """Each language has each word of English and no other, with the same fields in it."""
    english = load_translations("en")
    for other in map(load_translations, LOCALES):
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
    """Each word stands in a template of its kind or in a part of all, or is a subject; the same for counted things."""
    templates = {file.name: file.read_text() for file in (MAIL / "templates").iterdir()}
    english = load_translations("en")
    said = "".join([*templates.values(), *english.common.values()])
    for kind, words in english.kinds.items():
        shared = "".join(text for name, text in templates.items() if name.partition(".")[0] not in KINDS)
        done_at_start = " ".join(re.findall(r"\[[\[%].*?[\]%]\]", templates[f"{kind}.mjml"] + shared, re.DOTALL))
        for name in {word.removesuffix(PLURAL_SUFFIX) for word in words} - {"subject"}:
            assert re.search(rf"\b{name}\b", done_at_start), f"{kind}.{name}"
        said += "".join(words.values())
    assert {thing for thing in english.plurals if f"count('{thing}'" not in said} == set()


def test_no_word_is_called_like_a_value() -> None:
    """Jinja reads `none` as nothing, and would write that instead of the word."""
    english = load_translations("en")
    names = {*english.common, *(name for text in english.kinds.values() for name in text)}
    assert names & {"none", "None", "true", "True", "false", "False"} == set()


def test_a_word_and_its_twin_are_chosen_between() -> None:
    """By how many things the mail is about; the twin itself is no word any more."""
    text = load_translations("en").messages("task-reminder")
    assert text["button"] == "{% if total > 1 %}See the tasks{% else %}Open the task{% endif %}"
    assert not [name for name in text if name.endswith(PLURAL_SUFFIX)]
    assert text["motto"] == load_translations("en").common["motto"]


def test_words_in_html_attributes_are_harmless() -> None:
    """Words are put into templates as they are, so markup characters and quotation marks are refused."""
    for hostile in ("<b>", "a & b", 'say "x"', "two\nlines"):
        assert FORBIDDEN_CHARS.search(hostile)


@pytest.mark.parametrize(
    ("locale", "number", "words"),
    [("en", 0, "0 days"), ("en", 1, "1 day"), ("en", 1234, "1,234 days"), ("fr", 0, "0 jour"), ("fr", 1, "1 jour"),
     ("fr", 2, "2 jours"), ("fr", 1234, "1\u202f234 jours"), ("fr", 10**6, "1\u202f000\u202f000 jours")],
)  # fmt: skip
def test_things_are_counted(locale: str, number: int, text: str) -> None:
    """Each language has its own singular and its own way to group digits."""
    assert load_translations(locale).plural("day", number) == text


def test_weekdays_that_producers_write_in_english_are_translated() -> None:
    """Without a word for each in the files; anything else stays as it is."""
    text = load_translations("fr")
    assert [text.translate(day) for day in ("Monday", "Sunday", "Personal", "Someday")] == [
        "lundi", "dimanche", "Personnel", "Someday",
    ]  # fmt: skip

"""Translations and templates: complete in every language, and safe to insert."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from flowstate_daemon.mail.i18n import FORBIDDEN_CHARS, PLURAL_SUFFIX, load_translations
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES

MAIL = files("flowstate_daemon.mail")


def test_translation_files_match_the_locales() -> None:
    """Every file is a supported language, and names that language itself."""
    assert sorted(file.name for file in (MAIL / "translations").iterdir()) == sorted(f"{name}.toml" for name in LOCALES)
    assert [load_translations(name).locale for name in LOCALES] == list(LOCALES)


def test_languages_have_the_same_texts() -> None:
    """Each language has exactly the texts of English, with the same fields in them."""
    english = load_translations("en")
    for other in map(load_translations, LOCALES):
        assert other.kinds.keys() == english.kinds.keys() == KINDS.keys()
        assert other.common.keys() == english.common.keys()
        assert other.plurals.keys() == english.plurals.keys()
        for kind, texts in english.kinds.items():
            assert other.kinds[kind].keys() == texts.keys()
            for name, text in texts.items():
                fields = [
                    set(re.findall(r"\w+_\w+|progress|priority|name", each)) for each in (text, other.kinds[kind][name])
                ]
                assert fields[0] == fields[1], f"{kind}.{name}"


def test_every_text_is_used() -> None:
    """Each text is used by a template of its kind or by a shared one, or is a subject; each plural is used too."""
    templates = {file.name: file.read_text() for file in (MAIL / "templates").iterdir()}
    english = load_translations("en")
    all_text = "".join([*templates.values(), *english.common.values()])
    for kind, texts in english.kinds.items():
        shared = "".join(text for name, text in templates.items() if name.partition(".")[0] not in KINDS)
        done_at_start = " ".join(re.findall(r"\[[\[%].*?[\]%]\]", templates[f"{kind}.mjml"] + shared, re.DOTALL))
        for name in {name.removesuffix(PLURAL_SUFFIX) for name in texts} - {"subject"}:
            assert re.search(rf"\b{name}\b", done_at_start), f"{kind}.{name}"
        all_text += "".join(texts.values())
    assert {noun for noun in english.plurals if f"plural('{noun}'" not in all_text} == set()


def test_no_text_is_named_like_a_jinja_constant() -> None:
    """Jinja evaluates `none` as a constant and would print that instead of the text."""
    english = load_translations("en")
    names = {*english.common, *(name for texts in english.kinds.values() for name in texts)}
    assert names & {"none", "None", "true", "True", "false", "False"} == set()


def test_messages_when_a_text_has_a_plural_form() -> None:
    """The two forms become one text that chooses by `total`; the form ending in `_many` is gone."""
    messages = load_translations("en").messages("task-reminder")
    assert messages["button"] == "{% if total > 1 %}See the tasks{% else %}Open the task{% endif %}"
    assert not [name for name in messages if name.endswith(PLURAL_SUFFIX)]
    assert messages["motto"] == load_translations("en").common["motto"]


def test_markup_in_texts_is_rejected() -> None:
    """Texts are inserted unescaped, so markup characters, quotation marks and line breaks are refused."""
    for hostile in ("<b>", "a & b", 'say "x"', "two\nlines"):
        assert FORBIDDEN_CHARS.search(hostile)


@pytest.mark.parametrize(
    ("locale", "number", "text"),
    [("en", 0, "0 days"), ("en", 1, "1 day"), ("en", 1234, "1,234 days"), ("fr", 0, "0 jour"), ("fr", 1, "1 jour"),
     ("fr", 2, "2 jours"), ("fr", 1234, "1\u202f234 jours"), ("fr", 10**6, "1\u202f000\u202f000 jours")],
)  # fmt: skip
def test_plural(locale: str, number: int, text: str) -> None:
    """Each language has its own plural rule and its own digit grouping."""
    assert load_translations(locale).plural("day", number) == text


def test_translate_when_weekday() -> None:
    """English weekdays are translated without an entry in the files; unknown text stays unchanged."""
    french = load_translations("fr")
    assert [french.translate(day) for day in ("Monday", "Sunday", "Personal", "Someday")] == [
        "lundi", "dimanche", "Personnel", "Someday",
    ]  # fmt: skip

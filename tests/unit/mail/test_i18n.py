"""Translations and templates: complete in every language, and safe to insert."""

from __future__ import annotations

import re
from datetime import date, time
from pathlib import Path

import pytest

from flowstate_daemon.mail.catalog import built_in_catalog
from flowstate_daemon.mail.i18n import Formats, Texts, needed_forms, parse_text_file
from flowstate_daemon.mail.kind_files import COMMON, SourceFile, read_built_in_files
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES

FILES = read_built_in_files()
TEXTS = built_in_catalog().texts


def texts(locale: str, kind: str = "task-reminder") -> Texts:
    return TEXTS[kind, locale]


def parsed(content: str, locale: str = "en") -> tuple[Texts, list[str]]:
    """The texts of a file, and its problems."""
    problems: list[str] = []
    own = parse_text_file(SourceFile(Path(f"{locale}.toml"), content), locale, problems)
    return Texts(locale, parse_text_file(SourceFile(Path("x"), ""), locale, []), own, Formats(locale)), problems


def test_every_kind_has_texts_in_every_language() -> None:
    """Every file is a language, and every kind has all of them."""
    assert TEXTS.keys() == {(kind, locale) for kind in KINDS for locale in LOCALES}
    assert built_in_catalog().locales == LOCALES


def test_languages_have_the_same_texts() -> None:
    """Each language has exactly the texts of English."""
    for kind in KINDS:
        english = texts("en", kind)
        for locale in LOCALES:
            other = texts(locale, kind)
            assert other.messages.keys() == english.messages.keys()
            assert other.plurals.keys() >= english.plurals.keys()


def test_every_text_is_used() -> None:
    """Each text is used by a template of its kind or by a shared one, or is a subject; each plural is used too."""
    templates = {name: file.text for name, file in FILES.items() if "/body." in name or name.startswith(f"{COMMON}/")}
    shared = "".join(text for name, text in templates.items() if name.startswith(f"{COMMON}/") and ".toml" not in name)
    all_text = "".join(templates.values())
    for kind in KINDS:
        english = texts("en", kind)
        done_at_start = " ".join(re.findall(r"\[[\[%].*?[\]%]\]", templates[f"{kind}/body.mjml"] + shared, re.DOTALL))
        names = english.resolve(KINDS[kind].variants).keys() & english.own_names
        for name in names - {"subject"}:
            assert re.search(rf"\b{name}\b", done_at_start), f"{kind}.{name}"
        all_text += "".join([*english.messages.values(), *texts("fr", kind).messages.values()])
    nouns = {noun for kind in KINDS for noun in texts("en", kind).plurals}
    assert {noun for noun in nouns if f"plural('{noun}'" not in all_text} == set()


def test_messages_when_a_text_has_variants() -> None:
    """A text and its variants become one text that chooses by their conditions."""
    messages = texts("en").resolve(KINDS["task-reminder"].variants)
    assert messages["button"] == "{% if total > 1 %}See the tasks{% else %}Open the task{% endif +%}"
    assert not [name for name in messages if name.endswith("_many")]
    assert messages["motto"] == texts("en").messages["motto"]


@pytest.mark.parametrize("hostile", ["<b>", "a & b", 'say \\"x\\"', "two\\nlines"])
def test_markup_in_texts_is_rejected(hostile: str) -> None:
    """Texts are inserted unescaped, so markup characters, quotation marks and line breaks are refused."""
    _, problems = parsed(f'fine = "yes"\nbad = "{hostile}"')
    assert problems == ['en.toml:2: bad: contains markup, a quotation mark or a line break, one of < > & "']


def test_every_mistake_of_a_text_file_is_reported() -> None:
    """Each with its line: no text, a Jinja constant as a name, forms that are missing or no forms at all."""
    _, problems = parsed(
        'none = "x"\ncount = 5\n\n[plural]\nday = { one = "{n} dzień", other = "{n} dnia" }\n'
        'task = "zadanie"\nweek = { one = "a", few = "b", many = "c", two = "d" }\n[duration]\nyears = "{y}"\n',
        "pl",
    )
    assert problems == [
        "pl.toml:1: none: expected a name of lower-case letters, digits and _",
        "pl.toml:2: count: expected text",
        "pl.toml:5: plural.day: the plural form few and many is missing",
        'pl.toml:6: plural.task: expected the forms of the language, such as { one = "…", other = "…" }',
        "pl.toml:7: plural.week.two: two is no plural form of this language: few, many, one, other",
        "pl.toml:9: duration.years: expected one of hours, hours_minutes, minutes",
    ]
    assert parsed("x = \n")[1] == ["en.toml:1: Invalid value"]


@pytest.mark.parametrize(
    ("locale", "forms"),
    [("en", {"one", "other"}), ("fr", {"one", "other"}), ("pl", {"one", "few", "many"}), ("ja", {"other"}),
     ("ar", {"one", "two", "few", "many", "other"})],
)  # fmt: skip
def test_needed_plural_forms(locale: str, forms: set[str]) -> None:
    """Those of whole numbers: `other` of Polish is for fractions, `many` of French for millions."""
    assert set(needed_forms(locale)) == forms


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1 dzień"), (2, "2 dni"), (5, "5 dni!"), (22, "22 dni"), (25, "25 dni!")]
)
def test_plural_when_three_forms(number: int, text: str) -> None:
    """The CLDR rules of the language choose."""
    polish, problems = parsed('[plural]\nday = { one = "{n} dzień", few = "{n} dni", many = "{n} dni!" }', "pl")
    assert problems == []
    assert polish.plural("day", number) == text


def test_plural_when_exact_number() -> None:
    """A form for one exact number wins over its category."""
    english, _ = parsed('[plural]\nday = { "=0" = "no day", one = "{n} day", other = "{n} days" }')
    assert [english.plural("day", number) for number in (0, 1, 2)] == ["no day", "1 day", "2 days"]


@pytest.mark.parametrize(
    ("locale", "number", "text"),
    [("en", 0, "0 days"), ("en", 1, "1 day"), ("en", 1234, "1,234 days"), ("fr", 0, "0 jour"), ("fr", 1, "1 jour"),
     ("fr", 2, "2 jours"), ("fr", 1234, "1\u202f234 jours"), ("fr", 10**6, "1\u202f000\u202f000 jours")],
)  # fmt: skip
def test_plural(locale: str, number: int, text: str) -> None:
    """Each language has its own plural rule and its own digit grouping."""
    assert texts(locale).plural("day", number) == text


def test_phrase_when_weekday() -> None:
    """English weekdays are translated without an entry in the files; unknown text stays unchanged."""
    french = texts("fr", "focus-report")
    assert [french.phrase(day) for day in ("Monday", "Sunday", "Without a task", "Someday")] == [
        "lundi", "dimanche", "Sans tâche", "Someday",
    ]  # fmt: skip


def test_phrase_when_it_contains_a_number() -> None:
    """A phrase may contain a number, by which the plural form is chosen."""
    french, _ = parsed('[phrases]\n"{n} days/week" = { one = "{n} jour", other = "{n} jours" }', "fr")
    assert [french.phrase(f"{n} days/week") for n in (1, 3, "x")] == ["1 jour", "3 jours", "x days/week"]


def test_first_of_the_month_is_an_ordinal_in_french() -> None:
    """« le un mars » is wrong; the other days are cardinal numbers."""
    french, english = Formats("fr"), Formats("en")
    assert french.long_date(date(2026, 3, 1)) == "1er mars 2026"
    assert french.day(date(2026, 3, 1)) == "Dimanche 1er mars 2026"
    assert french.long_date(date(2026, 3, 21)) == "21 mars 2026"
    assert french.date_range(date(2026, 3, 1), date(2026, 3, 7)).replace("\u202f", "") == "1er\u20137 mars 2026"
    assert "1er mars" in french.date_range(date(2026, 2, 23), date(2026, 3, 1))
    assert "1er févr" not in french.date_range(date(2026, 2, 21), date(2026, 3, 1))
    assert english.long_date(date(2026, 3, 1)) == "March 1, 2026"


@pytest.mark.parametrize(
    ("locale", "last", "shown"),
    [
        ("en", date(2026, 1, 11), "January 5 - 11, 2026"),
        ("en", date(2026, 2, 1), "January 5 - February 1, 2026"),
        ("en", date(2027, 1, 3), "January 5, 2026 - January 3, 2027"),
        ("fr", date(2026, 1, 11), "5-11 janvier 2026"),
        ("fr", date(2026, 2, 1), "5 janvier - 1er février 2026"),
        ("fr", date(2027, 1, 3), "5 janvier 2026 - 3 janvier 2027"),
        ("pl", date(2026, 2, 1), "5 stycznia - 1 lutego 2026"),
        ("de", date(2026, 1, 11), "5.-11. Januar 2026"),
        ("ja", date(2026, 1, 11), "2026年1月5日~11日"),
    ],
)
def test_range_of_dates_has_whole_names_of_months(locale: str, last: date, shown: str) -> None:
    """As a date alone has them."""
    found = Formats(locale).date_range(date(2026, 1, 5), last)
    assert re.sub(r"[\u2009\u202f\u00a0]", " ", found).replace("\u2013", "-").replace("\uff5e", "~") == shown


@pytest.mark.parametrize(
    ("text", "english", "french"),
    [("10 minutes", "10 minutes", "10 minutes"), ("1 hour", "1 hour", "1 heure"), (None, "10 minutes", "10 minutes"),
     ("90 min", "1 hour, 30 minutes", "1 heure et 30 minutes"), ("soon", "10 minutes", "10 minutes")],
)  # fmt: skip
def test_lifetime_in_words(text: str | None, english: str, french: str) -> None:
    """What the producer wrote in English, and what the daemon makes of it, in the reader's language."""
    assert [" ".join(Formats(locale).lifetime(text).split()) for locale in LOCALES] == [english, french]


def test_time_of_day() -> None:
    """In the form of the language."""
    assert [Formats(locale).time_of_day(time(18, 30)).replace("\u202f", " ") for locale in LOCALES] == [
        "6:30 PM",
        "18:30",
    ]

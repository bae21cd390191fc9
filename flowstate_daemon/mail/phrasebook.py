"""The words of one language, read from `words/<locale>.toml`.

`press` puts them into templates at start: a template says `[[ intro ]]`, and what stands there afterwards is part of
the template, so that words may speak of fields, and a missing word is found at start instead of in somebody's mail.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from flowstate_daemon.mail.formats import Formats

FORBIDDEN = re.compile(r'[<>&"\r\n]')  # words stand in HTML, in its attributes and in text parts, as they are
MANY = "_many"
SECTIONS = ("common", "plural", "stock")


@dataclass(frozen=True, slots=True)
class Phrasebook:
    """One language. `kinds` are its words by kind of mail; `plurals` hold the forms for one and for many."""

    locale: str
    common: Mapping[str, str]
    kinds: Mapping[str, Mapping[str, str]]
    plurals: Mapping[str, tuple[str, str]]
    stock: Mapping[str, str]
    formats: Formats

    def words(self, kind: str) -> Mapping[str, str]:
        """All words for one kind of mail by name, its own before those of all kinds.

        A word and its twin ending in `_many` become one, between which a mail's `total` chooses.
        """
        words = {**self.common, **self.kinds[kind]}
        for name in [name for name in words if f"{name}{MANY}" in words]:
            words[name] = f"{{% if total > 1 %}}{words.pop(name + MANY)}{{% else %}}{words[name]}{{% endif %}}"
        return words

    def count(self, thing: str, number: int) -> str:
        """A number of things: `1 day`, `2 days`; each language has its own idea of what is one."""
        one, many = self.plurals[thing]
        return (one if self.formats.is_one(number) else many).format(n=self.formats.number(number))

    def translated(self, text: str) -> str:
        """A producer's stock phrase in this language; any other text as it is."""
        return self.stock.get(text, text)


def read_phrasebook(locale: str) -> Phrasebook:
    """Read the words of one language. Raises ValueError for words that could break a mail."""
    text = (files(__package__) / "words" / f"{locale}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    kinds = {name: words for name, words in content.items() if isinstance(words, dict) and name not in SECTIONS}
    for words in (content["common"], content["stock"], *kinds.values()):
        for name, word in words.items():
            if FORBIDDEN.search(word):
                raise ValueError(f"words/{locale}.toml: {name!r} holds markup, a quotation mark or a line break")
    english, formats = Formats("en"), Formats(content["language"])
    return Phrasebook(
        locale=content["language"],
        common=content["common"],
        kinds=kinds,
        plurals={thing: (one, many) for thing, (one, many) in content["plural"].items()},
        stock={**{english.weekday(day): formats.weekday(day) for day in range(1, 8)}, **content["stock"]},
        formats=formats,
    )

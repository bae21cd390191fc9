"""The words of one language, read from `words/<locale>.toml` and put into templates when these are loaded.

`render` calls it once at start. A template says `[[intro]]`; what stands there afterwards is part of the template,
so that words may speak of fields, and a missing word is found at start instead of in somebody's mail.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

MARK = re.compile(r"\[\[(\w+)\]\]")
FORBIDDEN = re.compile(r'[<>&"\r\n]')  # words stand in HTML, in its attributes and in text parts, as they are
SECTIONS = ("common", "plural", "stock")


@dataclass(frozen=True, slots=True)
class Phrasebook:
    """One language. `kinds` are its words by kind of mail; `plurals` hold the forms for one and for many."""

    locale: str
    common: Mapping[str, str]
    kinds: Mapping[str, Mapping[str, str]]
    plurals: Mapping[str, tuple[str, str]]
    singular: frozenset[int]
    stock: Mapping[str, str]

    def word(self, kind: str, name: str) -> str:
        """The word `name` of one kind, or else of all kinds. Raises LookupError."""
        found = self.kinds.get(kind, {}).get(name) or self.common.get(name)
        if found is None:
            raise LookupError(f"words/{self.locale}.toml has no word {name!r} for {kind!r}")
        return found

    def fill(self, source: str, kind: str) -> str:
        """A template's source with this language's words in the places kept for them."""
        return MARK.sub(lambda mark: self.word(kind, mark[1]), source)

    def count(self, thing: str, number: int) -> str:
        """A number of things: `1 day`, `2 days`; each language has its own idea of what is one."""
        one, many = self.plurals[thing]
        return (one if number in self.singular else many).format(n=number)

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
    return Phrasebook(
        locale=content["language"],
        common=content["common"],
        kinds=kinds,
        plurals={thing: (one, many) for thing, (one, many) in content["plural"].items()},
        singular=frozenset(content["singular"]),
        stock=content["stock"],
    )

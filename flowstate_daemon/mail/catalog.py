"""All kinds in all languages, loaded and checked as a whole: the built-in ones, and those of `mail.kinds_dir`.

A kind whose texts exist in some languages only is sent in the default language to readers of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from babel import Locale, UnknownLocaleError

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.mail.i18n import Formats, TextFile, Texts, parse_text_file
from flowstate_daemon.mail.kind_files import COMMON, KindFiles, SourceFile, read_kind_files
from flowstate_daemon.mail.kinds import KINDS, Kind, load_kinds
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.samples import Sample, load_samples
from flowstate_daemon.mail.templates import CompiledTemplates, TemplateCompiler
from flowstate_daemon.mail.trial import try_samples

T = TypeVar("T")

REQUIRED_FILES = ("body.mjml", "body.txt", "samples.toml")
REQUIRED_TEXTS = ("subject", "title", "preheader")


@dataclass(frozen=True, slots=True)
class Catalog:
    """The kinds, their templates by kind and language, and their samples. `locales` begins with English."""

    kinds: Mapping[str, Kind]
    locales: tuple[str, ...]
    templates: Mapping[tuple[str, str], CompiledTemplates]
    texts: Mapping[tuple[str, str], Texts]
    samples: tuple[Sample, ...]

    @property
    def unsubscribable(self) -> list[str]:
        """The kinds that people can choose not to get."""
        return [name for name, kind in self.kinds.items() if kind.unsubscribable]

    @property
    def urgent(self) -> frozenset[str]:
        """The kinds that are sent before all others."""
        return frozenset(name for name, kind in self.kinds.items() if kind.urgent)

    def page_texts(self, locale: str) -> dict[str, tuple[str, str]]:
        """What the pages for recipients say about kinds: their name, and when they come; either may be empty.

        They are the texts `kind_name` and `why`, unless a text has fields, which only an email has.
        """
        found = {}
        for kind in self.unsubscribable:
            if (texts := self.texts.get((kind, locale))) is not None:
                name, why = (texts.messages.get(text, "") for text in ("kind_name", "why"))
                found[kind] = name * ("{" not in name), why * ("{" not in why)
        return found

    def languages(self, kind: str) -> tuple[str, ...]:
        """The languages in which a kind has texts."""
        return tuple(locale for locale in self.locales if (kind, locale) in self.templates)

    def samples_for(self, kind: str, locale: str) -> list[Sample]:
        """The samples of a kind for readers of a language: each in that language where it exists in it."""
        own = {sample.name: sample for sample in self.samples if sample.kind == kind and sample.locale == locale}
        shared = [sample for sample in self.samples if sample.kind == kind and sample.locale is None]
        found = {sample.name: own.get(sample.name, sample) for sample in shared}
        return [*{**found, **own}.values()]


class CompiledOnDemand(Mapping[tuple[str, str], CompiledTemplates]):
    """The templates of the built-in kinds, each compiled at its first use.

    The tests of this project compile all of them, so that a start need not: it would take 0.4 s of CPU time.
    """

    def __init__(
        self, keys: Iterable[tuple[str, str]], compile_one: Callable[[str, str], CompiledTemplates | None]
    ) -> None:
        self._compiled: dict[tuple[str, str], CompiledTemplates | None] = dict.fromkeys(keys)
        self._compile = compile_one

    def __getitem__(self, key: tuple[str, str]) -> CompiledTemplates:
        compiled = self._compiled[key]
        if compiled is None:
            self._compiled[key] = compiled = self._compile(*key)
        if compiled is None:
            raise ValueError(f"the built-in templates of {key} have problems")
        return compiled

    def __contains__(self, key: object) -> bool:
        return key in self._compiled

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._compiled)

    def __len__(self) -> int:
        return len(self._compiled)


@cache
def built_in_catalog() -> Catalog:
    return load_catalog(None)


def _reusable(files: KindFiles) -> Catalog | None:
    """The built-in catalog, whose kinds need not be compiled again, unless the shared files differ."""
    return None if not files.changed or COMMON in files.changed else built_in_catalog()


def load_catalog(folder: Path | None, default_locale: str = LOCALES[0]) -> Catalog:
    """All kinds; those of `folder`, if there is one, replace or complete the built-in ones.

    Raises ConfigError with every problem, each with its file and line.
    """
    problems: list[str] = []
    files = read_kind_files(folder, problems)
    kinds = load_kinds(files, problems) if files.changed else KINDS
    catalog = _Loader(files, problems).load(kinds)
    if default_locale not in catalog.locales:
        problems.append(f"mail.default_locale: there are no texts in the language {default_locale!r}")
    elif not problems:
        problems += [
            f"{kind}: there are no texts in {default_locale}, the default language (mail.default_locale)"
            for kind in kinds
            if (kind, default_locale) not in catalog.templates
        ]
    if not problems:
        problems += try_samples(catalog.kinds, catalog.templates, catalog.samples, only=_changed(files))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return catalog


def _changed(files: KindFiles) -> frozenset[str]:
    """The kinds that differ from the built-in ones, which the tests of this project check."""
    return frozenset(files.kinds) if COMMON in files.changed else files.changed


def _others(found: Mapping[tuple[str, str], T], changed: AbstractSet[str]) -> dict[tuple[str, str], T]:
    return {key: value for key, value in found.items() if key[0] not in changed}


class _Loader:
    """Loads texts, templates and samples, and collects all problems."""

    def __init__(self, files: KindFiles, problems: list[str]) -> None:
        self._files = files
        self._problems = problems
        self._changed = _changed(files)

    def load(self, kinds: Mapping[str, Kind]) -> Catalog:
        common = dict(self._common_texts())
        reused = _reusable(self._files)
        if reused is None:
            return self._load(kinds, common)
        loaded = self._load({name: kind for name, kind in kinds.items() if name in self._changed}, common)
        return replace(
            loaded,
            kinds=kinds,
            templates={**_others(reused.templates, self._changed), **loaded.templates},
            texts={**_others(reused.texts, self._changed), **loaded.texts},
            samples=(*[one for one in reused.samples if one.kind not in self._changed], *loaded.samples),
        )

    def _load(self, kinds: Mapping[str, Kind], common: Mapping[str, tuple[TextFile, Formats]]) -> Catalog:
        texts = {(kind, locale): text for kind in kinds for locale, text in self._kind_texts(kind, common)}
        complete = [name for name in kinds if self._has_all_files(name)]
        compiler = TemplateCompiler(self._files, self._problems)
        samples = tuple(sample for kind in complete for sample in load_samples(kind, self._files, self._problems))
        if not self._files.changed:
            keys = [key for key in texts if key[0] in complete]
            lazy = CompiledOnDemand(
                keys, lambda kind, locale: compiler.compile(kinds[kind], texts[kind, locale], check=False)
            )
            return Catalog(kinds, tuple(common), lazy, texts, samples)
        templates = {
            (kind, locale): compiled
            for (kind, locale), text in texts.items()
            if kind in complete
            and (compiled := compiler.compile(kinds[kind], text, check=kind in self._changed)) is not None
        }
        return Catalog(kinds, tuple(common), templates, texts, samples)

    def _has_all_files(self, kind: str) -> bool:
        missing = [name for name in REQUIRED_FILES if self._files.get(kind, name) is None]
        folder = self._required(kind, "kind.toml").path.parent
        self._problems += [f"{folder}/{name}: is missing" for name in missing]
        if not self._files.languages(kind):
            self._problems.append(f"{folder}/texts/{LOCALES[0]}.toml: is missing")
        return not missing

    def _required(self, folder: str, name: str) -> SourceFile:
        file = self._files.get(folder, name)
        if file is None:
            raise KeyError(f"{folder}/{name}")
        return file

    def _common_texts(self) -> Iterator[tuple[str, tuple[TextFile, Formats]]]:
        """The texts of all emails and the formats, for each language."""
        english: TextFile | None = None
        for locale in self._files.languages(COMMON):
            file = self._required(COMMON, f"texts/{locale}.toml")
            try:
                Locale.parse(locale)
            except (UnknownLocaleError, ValueError):
                self._problems.append(file.problem(f"{locale} is no language that Babel knows"))
                continue
            texts = parse_text_file(file, locale, self._problems)
            english = english or texts
            self._compare(file, texts, english)
            yield locale, (texts, Formats(locale, texts.durations))

    def _kind_texts(self, kind: str, common: Mapping[str, tuple[TextFile, Formats]]) -> Iterator[tuple[str, Texts]]:
        first: TextFile | None = None
        for locale in self._files.languages(kind):
            file = self._required(kind, f"texts/{locale}.toml")
            if locale not in common:
                path = file.path.parents[2] / COMMON / "texts" / file.path.name
                self._problems.append(file.problem(f"the texts of all emails in this language are missing: {path}"))
                continue
            known = len(self._problems)
            own = parse_text_file(file, locale, self._problems)
            first = first or own
            self._compare(file, own, first)
            shared, formats = common[locale]
            missing = [name for name in REQUIRED_TEXTS if name not in own.names]
            self._problems += [file.problem(f"the text {name} is missing") for name in missing]
            # Templates without some of their texts would only cause further problems.
            if len(self._problems) == known:
                yield locale, Texts(locale, shared, own, formats)

    def _compare(self, file: SourceFile, texts: TextFile, first: TextFile) -> None:
        """Every language needs the texts of the first one, which is English where there is English."""
        if texts is first:
            return
        for missing in first.names - texts.names:
            self._problems.append(file.problem(f"the text {missing} is missing"))
        for strange in texts.names - first.names:
            self._problems.append(file.problem_at([strange], "no other language has a text of this name"))
        for noun in first.plurals.keys() - texts.nouns:
            self._problems.append(file.problem(f"the plural {noun} is missing"))

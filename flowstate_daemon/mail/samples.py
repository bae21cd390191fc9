"""Realistic contexts for every kind of email, for previews, the development environment and tests.

They are in `samples.toml` of each kind; a file `samples.<language>.toml` replaces it in previews of that language.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from flowstate_daemon.mail.kind_files import KindFiles, read_kind_files

FRONTEND_URL = "https://flowstate.example"
FRONTEND_PLACEHOLDER = "{frontend_url}"
PLAIN = "plain"  # the sample as the backend writes it, which has the name of its kind


@dataclass(frozen=True, slots=True)
class Sample:
    """One context of a kind. `name` is the kind, with a suffix if the kind has several samples.

    `locale` is the only language for which it is meant; None means all that have no sample of their own.
    """

    name: str
    kind: str
    context: Mapping[str, Any]
    locale: str | None = None

    def with_frontend(self, url: str) -> Sample:
        """The sample with links into the application at `url`."""
        return Sample(self.name, self.kind, _replace_frontend(self.context, url.rstrip("/")), self.locale)


def _replace_frontend(value: Any, url: str) -> Any:
    if isinstance(value, str):
        return value.replace(FRONTEND_PLACEHOLDER, url)
    if isinstance(value, list):
        return [_replace_frontend(inner, url) for inner in value]
    return {name: _replace_frontend(inner, url) for name, inner in value.items()} if isinstance(value, dict) else value


def load_samples(kind: str, files: KindFiles, problems: list[str]) -> Iterator[Sample]:
    """The samples of one kind, first those for all languages."""
    for locale in (None, *files.languages(kind)):
        file = files.get(kind, f"samples.{locale}.toml" if locale else "samples.toml")
        content = file.parse_toml(problems) if file is not None else None
        if file is None or content is None:
            continue
        if not content:
            problems.append(file.problem("expected one sample at least: a table such as [plain]"))
        for name, context in content.items():
            if isinstance(context, dict):
                yield Sample(kind if name == PLAIN else f"{kind}-{name}", kind, context, locale)
            else:
                problems.append(file.problem_at([name], "expected a table, one for each sample"))


@cache
def _built_in_samples() -> tuple[Sample, ...]:
    problems: list[str] = []
    files = read_kind_files(None, problems)
    samples = tuple(sample for kind in files.kinds for sample in load_samples(kind, files, problems))
    if problems:
        raise ValueError("; ".join(problems))
    return samples


def all_samples(frontend_url: str = FRONTEND_URL) -> tuple[Sample, ...]:
    """Each built-in kind as the backend enqueues it, followed by its other samples."""
    return tuple(sample.with_frontend(frontend_url) for sample in _built_in_samples() if sample.locale is None)


def preview_contexts(frontend_url: str = FRONTEND_URL) -> dict[str, dict[str, Any]]:
    """The `context` of one job per built-in kind, with links into the application at `frontend_url`."""
    return {sample.kind: dict(sample.context) for sample in all_samples(frontend_url) if sample.name == sample.kind}

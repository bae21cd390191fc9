"""Renders the samples of kinds once, to find at start what would otherwise break an email. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.mail.field_types import FieldRule
from flowstate_daemon.mail.kind_spec import Kind
from flowstate_daemon.mail.kinds import parse_request
from flowstate_daemon.mail.samples import FRONTEND_URL, Sample
from flowstate_daemon.mail.templates import CompiledTemplates, template_constants

RECIPIENT = "ada@example.org"


def try_samples(
    kinds: Mapping[str, Kind],
    templates: Mapping[tuple[str, str], CompiledTemplates],
    samples: tuple[Sample, ...],
    *,
    only: AbstractSet[str],
) -> list[str]:
    """The problems with the samples of some kinds: with all their fields, and with the required ones only."""
    problems = []
    for sample in samples:
        if sample.kind not in only:
            continue
        kind, whole = kinds[sample.kind], sample.with_frontend(FRONTEND_URL).context
        rules = [rule for rule in kind.rules if isinstance(rule, FieldRule)]
        needed = {rule.path.rpartition(".")[2] for rule in rules if not rule.optional}
        smallest = {name: value for name, value in whole.items() if name in needed}
        for what, context in (("sample", whole), ("sample without its optional fields", smallest)):
            where = f"{sample.kind}: the {what} {sample.name}"
            problems += [f"{where}: {reason}" for reason in _try(kind, context, templates, sample.locale)]
    return problems


def _try(
    kind: Kind,
    context: Mapping[str, Any],
    templates: Mapping[tuple[str, str], CompiledTemplates],
    only_locale: str | None,
) -> Iterator[str]:
    try:
        data = msgspec.json.encode({"to": RECIPIENT, "context": context})
        request = parse_request(kind.name, data, {kind.name: kind})
    except (InvalidDataError, TypeError) as refusal:
        yield str(refusal)
        return
    values = {**template_constants("FlowState", FRONTEND_URL), **msgspec.structs.asdict(request.context)}
    for (name, locale), compiled in templates.items():
        if name != kind.name or only_locale not in (None, locale):
            continue
        for part in ("subject", "html", "text"):
            try:
                getattr(compiled, part).render({**values, "subject": ""})
            except Exception as error:  # noqa: BLE001 - a template may raise anything
                last = traceback.extract_tb(error.__traceback__)[-1]
                yield f"cannot be rendered in {locale} ({part}, near {last.line!r}): {error}"

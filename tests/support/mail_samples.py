"""Edge cases of contexts for the tests of emails: minimal, maximal and hostile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from flowstate_daemon.mail.kinds import KINDS, parse_request
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.samples import FRONTEND_URL, Sample, all_samples, preview_contexts
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks

TO = "ada@example.org"
SAMPLES: Mapping[str, Mapping[str, Any]] = preview_contexts()
# The contexts of the kinds that the scheduler enqueues, with the fields that only the scheduler sets.
RICH = {sample.kind: dict(sample.context) for sample in all_samples() if sample.name == f"{sample.kind}-rich"}
WEB = "https://mail.flowstate.example"
RENDERER = Renderer(
    Brand("FlowState <hello@flowstate.example>", "FlowState", FRONTEND_URL),
    UnsubscribeLinks(WEB, LinkTokenCodec(["a secret of more than thirty-two characters"])),
)
HOSTILE = (
    "<script>evil()</script><b title=\"x\">& '{{ 7*7 }}' {% raw %} [[ intro ]] \u202egnp.\u202c </td></table><!-- ]]>"
)
LONG = "Compare what the three framers said about glass, depth, hooks and the van, and tell Grace & Ada “before” noon"
LINK = f"{FRONTEND_URL}/tasks/5d0c7f4c-9a4b-4c39-8a0e-6a3f6f1f2b90"
WORD = "Donaudampfschifffahrtsgesellschaftskapitänswitwenrentenauszahlungsstelle"
ALWAYS_KNOWN = {"taskCount", "dueDate", "weekStart", "weekEnd"}  # in contexts of our own
TITLES = (
    "Send the framer the final sizes", LONG, "לקנות נייר צילום 🎞️", "Water the plants", WORD * 2,
    "مراجعة نص الجدار مع آدا قبل الظهر", "👩‍👩‍👧‍👦 Call home 🏡", "Re: <b>invoice</b> & receipt", None,
    "https://flowstate.example/a/very/long/address/that/somebody/has/pasted?with=a&query=string",
    "印刷所に電話する", "Book the van",
)  # fmt: skip


def smallest() -> Iterator[Sample]:
    """Only the required fields."""
    for sample in all_samples():
        if sample.name == sample.kind:
            fields = msgspec.structs.fields(KINDS[sample.kind].context)
            needed = {field.encode_name: sample.context[field.encode_name] for field in fields if field.required}
            yield Sample(f"{sample.kind}-smallest", sample.kind, needed)


def nulled() -> Iterator[Sample]:
    """The scheduler's contexts in which every optional value is unknown."""
    for sample in all_samples():
        if sample.name != sample.kind:
            fields = msgspec.structs.fields(KINDS[sample.kind].context)
            known = {field.encode_name for field in fields if field.required} | ALWAYS_KNOWN
            context = dict.fromkeys(field.encode_name for field in fields) | {"tasks": [{"days": 1}] * 2}
            context |= {name: value for name, value in sample.context.items() if name in known}
            yield Sample(f"{sample.kind}-nulled", sample.kind, context)


def hostile() -> Iterator[Sample]:
    """Every text except links, codes and dates is hostile."""
    for sample in all_samples():
        yield Sample(f"{sample.name}-hostile", sample.kind, {**_hostile(dict(sample.context)), **_codes(sample)})


def _hostile(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _hostile(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hostile(inner, name) for inner in value]
    is_text = isinstance(value, str) and not name.lower().endswith(("url", "date", "weekstart", "weekend"))
    return HOSTILE if is_text or (name == "startDate") else value


def _codes(sample: Sample) -> Mapping[str, Any]:
    return {name: sample.context[name] for name in ("otpCode",) if name in sample.context}


def crowded(many: int = 12) -> Iterator[Sample]:
    """Lists with titles of all sorts: long, short, left-to-right and right-to-left."""
    titles = [TITLES[number % len(TITLES)] for number in range(many)]
    yield from _lists("crowded", titles)


def fullest() -> Iterator[Sample]:
    """Lists of the maximum length with texts of the maximum length."""
    yield from _lists("fullest", [f"{number} {'&<>' * 20} {LONG * 10}" for number in range(50)])
    yield from _lists("longest-links", ["\"&'" * 50] * 50, f"{LINK}?{'&' * 1900}")
    for sample in all_samples():
        texts = {name: f"{name} {LONG} " * 100 for name, value in sample.context.items() if _is_prose(name, value)}
        yield Sample(f"{sample.name}-long", sample.kind, {**sample.context, **texts})


def _is_prose(name: str, value: Any) -> bool:
    return isinstance(value, str) and name not in {"otpCode", "dueDate", "weekStart", "weekEnd"} and "Url" not in name


def _lists(name: str, titles: Sequence[str | None], link: str = LINK) -> Iterator[Sample]:
    rich = {sample.kind: dict(sample.context) for sample in all_samples() if sample.name != sample.kind}
    rows = list(enumerate(titles))
    projects = (None, "Darkroom", "כרך שני")
    due = [
        {"title": title, "project": projects[n % 3], "priority": n % 6, "minutes": n * 25 % 200, "url": link}
        for n, title in rows
    ]
    late = [{"title": title, "days": 400 // (n + 1), "url": link} for n, title in rows]
    top = [{"title": title, "minutes": 1000 - 19 * n} for n, title in rows]
    joined = "\n".join(title or "" for title in titles)
    yield Sample(f"task-reminder-{name}", "task-reminder", rich["task-reminder"] | {"tasks": due, "taskCount": 1234})
    yield Sample(
        f"overdue-summary-{name}", "overdue-summary", rich["overdue-summary"] | {"tasks": late, "overdueCount": 99}
    )
    yield Sample(f"focus-report-{name}", "focus-report", rich["focus-report"] | {"top": top})
    for sample in all_samples():
        field = {"goal-milestone": "recentTasks", "overdue-summary": "overdueTasks", "focus-report": "topTasks"}.get(
            sample.name
        )
        if field:
            yield Sample(f"{sample.name}-{name}-lines", sample.kind, {**sample.context, field: joined})


def rendered(sample: Sample, locale: str) -> Email:
    """The email as the daemon renders it, with its unsubscribe link."""
    request = parse_request(sample.kind, msgspec.json.encode({"to": TO, "context": sample.context}))
    return RENDERER.render(replace(request, locale=locale), issued_ms=1_772_000_000_000)


def every_sample() -> Iterator[Sample]:
    """All samples."""
    yield from (*all_samples(), *smallest(), *nulled(), *hostile(), *crowded(), *fullest())

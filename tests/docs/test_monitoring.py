"""The monitoring page agrees with the code: every metric, every event with its fields, every alert."""

from __future__ import annotations

import re
from collections import defaultdict

import yaml

from tests.docs.events import Event, events
from tests.docs.pages import PAGES, ROOT, Block, Page
from tests.docs.sandbox import DocsSandbox

NAME = "docs/monitoring.md"
RUNBOOKS = "{{ $externalLabels.docs }}docs/"
METRIC = re.compile(r"\bflowstate_(?!daemon\b|default\b)[a-z_]+\b")
SUFFIX = re.compile(r"_(total|bucket|sum|count|info)$")
SHADOW = "export REDIS_URL=redis://127.0.0.1:6379 RESEND_FROM_EMAIL=a@example.com FLOWSTATE_MODE=shadow\n"
START = {"send": "", "shadow": f"{SHADOW}flowstate-daemon run\n"}  # in send mode the sandbox starts the daemon
COMMON_FIELDS = {"remedy"}  # explained once, below the table


def cells(first: str) -> dict[str, tuple[str, ...]]:
    """The rows of the page's tables whose first cell is matching code, by that code."""
    found = {}
    for row in PAGES[NAME].rows:
        match = re.fullmatch(f"`({first})`", row[0])
        if match:
            found[match[1]] = row[1:]
    return found


async def test_metrics_are_those_that_a_daemon_exports(sandbox: DocsSandbox) -> None:
    """No metric is missing or invented, types and labels are right, and no page names another metric."""
    scrape = "curl -s http://127.0.0.1:8080/metrics"
    text = ""
    for mode in ("send", "shadow"):
        output = await sandbox.run_page(Page(mode, ROOT, "", [Block("sh", f"{START[mode]}{scrape}", 1)]))
        text += output.outputs[0]
    types = dict(re.findall(r"^# TYPE (flowstate_\S+) (\w+)$", text, re.MULTILINE))
    labels = defaultdict(set)
    for name, inside in re.findall(r"^(flowstate_\w+)\{([^}]*)\}", text, re.MULTILINE):
        labels[SUFFIX.sub("", name)] |= set(re.findall(r'(\w+)="', inside)) - {"le"}
    exported = {SUFFIX.sub("", name): ("info" if name.endswith("_info") else kind) for name, kind in types.items()}
    shown = cells("flowstate_[a-z_]+")
    assert {name: row[0] for name, row in shown.items()} == exported
    assert {name: set(re.findall(r"\w+", row[1])) for name, row in shown.items()} == {n: labels[n] for n in exported}
    named = {name for page in PAGES.values() for code in page.code for name in METRIC.findall(code)}
    assert {name for name in named if SUFFIX.sub("", name) not in exported} == set()


def test_every_event_is_listed_with_its_level_and_fields() -> None:
    """An operator finds every log line in the tables."""
    known: dict[str, list[Event]] = defaultdict(list)
    for event in events():
        known[event.name].append(event)
    shown = cells("[a-z]+(?:_[a-z]+)*")
    wrong = {}
    for name, found in known.items():
        level, fields = {event.level for event in found}, set().union(*(event.fields for event in found))
        row = shown.get(name, ("", "", ""))
        documented = set(re.findall(r"\w+", row[1]))
        if row[0] not in level or not fields - COMMON_FIELDS <= documented:
            wrong[name] = (level, fields - documented)
        if not any(event.open for event in found) and documented - fields:
            wrong[name] = (level, documented - fields)
    assert wrong == {}


def test_every_listed_event_exists() -> None:
    """Each name in the tables is a string in the code."""
    text = "".join(file.read_text() for file in (ROOT / "flowstate_daemon").rglob("*.py"))
    shown = [name for name, row in cells("[a-z]+(?:_[a-z]+)*").items() if row[0] in {"info", "warning", "error"}]
    assert [name for name in shown if f'"{name}"' not in text] == []


def test_runbooks_are_sections_of_the_pages() -> None:
    """After the address that an installation sets, each is a page in docs/, and a heading on it."""
    rules = yaml.safe_load((ROOT / "config" / "prometheus" / "alerts.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert rule["annotations"]["runbook_url"].startswith(RUNBOOKS), rule["alert"]
        page, _, anchor = rule["annotations"]["runbook_url"].removeprefix(RUNBOOKS).partition("#")
        assert f"docs/{page}" in PAGES, rule["alert"]
        assert not anchor or anchor in PAGES[f"docs/{page}"].anchors, rule["alert"]


def test_every_alert_is_listed_with_its_severity() -> None:
    """The page and the rules contain the same alerts, with the same severity."""
    rules = yaml.safe_load((ROOT / "config" / "prometheus" / "alerts.yml").read_text())
    severities = {rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}
    assert {name: row[0] for name, row in cells("Flowstate[A-Za-z]+").items()} == severities

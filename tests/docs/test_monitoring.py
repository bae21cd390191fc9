"""The page about monitoring tells the truth: every number, every event with its fields, every alert."""

from __future__ import annotations

import re
from collections import defaultdict

import yaml

from tests.docs.events import Event, events
from tests.docs.pages import PAGES, ROOT, Block, Page
from tests.docs.sandbox import DocsSandbox

NAME = "docs/monitoring.md"
METRIC = re.compile(r"\bflowstate_(?!daemon\b|default\b)[a-z_]+\b")
SUFFIX = re.compile(r"_(total|bucket|sum|count|info)$")
SHADOW = "export REDIS_URL=redis://127.0.0.1:6379 RESEND_FROM_EMAIL=a@example.com FLOWSTATE_MODE=shadow\n"
AS = {"send": "", "shadow": f"{SHADOW}flowstate-daemon run\n"}  # the stage starts what a page does not start itself
SELDOM_OUTPUT = {"remedy"}  # which is a field of many, and explained once


def cells(first: str) -> dict[str, tuple[str, ...]]:
    """The rows of the page's tables whose first cell is code that matches, by that code."""
    found = {}
    for row in PAGES[NAME].rows:
        match = re.fullmatch(f"`({first})`", row[0])
        if match:
            found[match[1]] = row[1:]
    return found


async def test_the_numbers_are_those_that_a_daemon_shows(stage: DocsSandbox) -> None:
    """No metric is missing, none is made up, types and labels are right, and no page speaks of another."""
    scrape = "curl -s http://127.0.0.1:8080/metrics"
    text = ""
    for mode in ("send", "shadow"):
        output = await stage.play(Page(mode, ROOT, "", [Block("sh", f"{AS[mode]}{scrape}", 1)]))
        text += output.outputs[0]
    types = dict(re.findall(r"^# TYPE (flowstate_\S+) (\w+)$", text, re.MULTILINE))
    labels = defaultdict(set)
    for name, inside in re.findall(r"^(flowstate_\w+)\{([^}]*)\}", text, re.MULTILINE):
        labels[SUFFIX.sub("", name)] |= set(re.findall(r'(\w+)="', inside)) - {"le"}
    real = {SUFFIX.sub("", name): ("info" if name.endswith("_info") else kind) for name, kind in types.items()}
    shown = cells("flowstate_[a-z_]+")
    assert {name: row[0] for name, row in shown.items()} == real
    assert {name: set(re.findall(r"\w+", row[1])) for name, row in shown.items()} == {n: labels[n] for n in real}
    spoken = {name for page in PAGES.values() for code in page.code for name in METRIC.findall(code)}
    assert {name for name in spoken if SUFFIX.sub("", name) not in real} == set()


def test_every_event_is_told_with_its_level_and_fields() -> None:
    """An operator who sees a line finds it here."""
    known: dict[str, list[Event]] = defaultdict(list)
    for event in events():
        known[event.name].append(event)
    shown = cells("[a-z]+(?:_[a-z]+)*")
    wrong = {}
    for name, found in known.items():
        level, fields = {event.level for event in found}, set().union(*(event.fields for event in found))
        row = shown.get(name, ("", "", ""))
        output = set(re.findall(r"\w+", row[1]))
        if row[0] not in level or not fields - SELDOM_OUTPUT <= output:
            wrong[name] = (level, fields - output)
        if not any(event.open for event in found) and output - fields:
            wrong[name] = (level, output - fields)
    assert wrong == {}


def test_no_event_is_made_up() -> None:
    """Each name in the tables is a word that the code writes."""
    text = "".join(file.read_text() for file in (ROOT / "flowstate_daemon").rglob("*.py"))
    shown = [name for name, row in cells("[a-z]+(?:_[a-z]+)*").items() if row[0] in {"info", "warning", "error"}]
    assert [name for name in shown if f'"{name}"' not in text] == []


def test_every_alert_has_its_answer() -> None:
    """The page and the rules name the same alerts, with the same urgency."""
    rules = yaml.safe_load((ROOT / "config" / "prometheus" / "alerts.yml").read_text())
    severities = {rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}
    assert {name: row[0] for name, row in cells("Flowstate[A-Za-z]+").items()} == severities

"""Alert rules and dashboard use only metrics, labels and values that a running daemon exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.promql import Selector, grouped_by, selectors

CONFIG = Path(__file__).parents[2] / "config"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((CONFIG / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((CONFIG / "grafana" / "dashboard.json").read_text())
# Metrics and labels that Prometheus itself adds.
PROMETHEUS_METRICS = {"up"}
TARGET = {"job", "instance"}
LABEL_VALUES = re.compile(r"label_values\((.*), (\w+)\)")


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression with the name of its alert, panel or variable."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for note in DASHBOARD["annotations"]["list"]:
        yield note["name"], note["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        asked = LABEL_VALUES.fullmatch(variable["query"]["query"]) if variable["type"] == "query" else None
        if asked is not None:
            assert asked[2] in TARGET
            yield variable["name"], asked[1]


def exported_series(page: str) -> dict[str, list[dict[str, str]]]:
    """Every sample name of the page, with the labels of each of its series."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def faults(where: str, named: Selector, page: dict[str, list[dict[str, str]]]) -> Iterator[str]:
    """Metrics and label values of a selector that the page does not have."""
    if named.metric in PROMETHEUS_METRICS:
        return
    series = page.get(named.metric, [])
    if not series:
        yield f"{where}: there is no {named.metric}"
    for label, values in named.labels:
        for value in values if label not in TARGET else ():
            if not any(labels.get(label) == value for labels in series):
                yield f"{where}: no {named.metric} has {label}={value}"


async def test_metrics_and_labels_of_alerts_and_dashboard_exist(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, database_url: str
) -> None:
    """Every metric, label and value in an expression is exported; an alert on a missing one would never fire."""
    async with make_daemon(DATABASE_URL=database_url) as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)
        status, text = await daemon.look("/metrics")
    assert status == 200
    page = exported_series(text)
    wrong: list[str] = []
    for where, expression in expressions():
        found = selectors(expression)
        assert found, f"{where}: names no metric"
        wrong += [fault for named in found for fault in faults(where, named, page)]
        known = TARGET | {label for named in found for labels in page.get(named.metric, []) for label in labels}
        wrong += [f"{where}: nothing has the label {label}" for label in grouped_by(expression) - known]
    assert wrong == []


def test_every_alert_has_a_remedy() -> None:
    """Each alert has a severity, a summary, a description, a remedy and a unique name."""
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description", "remedy", "runbook_url"}, rule["alert"]


def test_dashboard_panels_do_not_overlap() -> None:
    """The panels fill a grid 24 columns wide without overlapping, and their ids are unique."""
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


TOPICS = (
    *("scheduled_mails_total", "schedule_delay_seconds", "schedule_blocked", "provider_rate_limit_per_second"),
    *("provider_batch_size", "provider_events_total", "unsubscribes_total", "operator_actions_total"),
)


def test_dashboard_covers_every_topic() -> None:
    """Schedules, rate limit, batches, bounces and complaints, people and operators."""
    shown = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", []))
    assert [topic for topic in TOPICS if f"flowstate_{topic}" not in shown] == []


def test_quantiles_have_a_threshold() -> None:
    """A panel of p99 says which value is too high, and p50 is beside it where it is about emails or the provider."""
    for panel in DASHBOARD["panels"]:
        shown = [target["expr"] for target in panel.get("targets", [])]
        if not any("histogram_quantile(0.99" in expr for expr in shown) or panel["title"] == "Emails per request":
            continue
        assert len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1, panel["title"]
        if any("latency" in expr or "provider" in expr for expr in shown):
            assert any("histogram_quantile(0.5," in expr for expr in shown), panel["title"]


def test_provisioned_data_source_is_that_of_the_dashboard() -> None:
    """The provisioned data source has the uid and the type that the dashboard refers to."""
    file = CONFIG / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    (chosen,) = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "datasource"]
    assert chosen["current"]["value"] == source["uid"]
    assert chosen["query"] == source["type"]

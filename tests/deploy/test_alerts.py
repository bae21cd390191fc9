"""The alert rules evaluated by Prometheus' promtool: each fires in its own case, and none for a healthy daemon.

promtool is in Debian's package `prometheus`; without it these tests are skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowstate_daemon.base.metrics import OUTCOMES, PROVIDER_EVENTS, PROVIDER_RESULTS

FOLDER = Path(__file__).parents[2] / "config" / "prometheus"
ALERTS = [
    rule["alert"] for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
WHO = 'job="flowstate-daemon", instance="mail-1"'
HOURS = 8
# By series: the first value, and what is added each minute. Other series are not exported.
HEALTHY = {
    f"up{{{WHO}}}": (1, 0),
    f"process_start_time_seconds{{{WHO}}}": (1_700_000_000, 0),
    f"flowstate_live{{{WHO}}}": (1, 0),
    f"flowstate_ready{{{WHO}}}": (1, 0),
    f"flowstate_redis_up{{{WHO}}}": (1, 0),
    f"flowstate_provider_account_ok{{{WHO}}}": (1, 0),
    f"flowstate_queue_paused{{{WHO}}}": (0, 0),
    f"flowstate_queue_latency_seconds{{{WHO}}}": (3, 0),
    f"flowstate_queue_last_added_timestamp_seconds{{{WHO}}}": (-60_000, 60),  # promtool begins at 0: 16 h 40 min ago
    f'flowstate_queue_jobs{{{WHO}, state="failed"}}': (40, 0),
    f"flowstate_ledger_backlog_entries{{{WHO}}}": (10, 0),
    f'flowstate_service_heartbeat_age_seconds{{{WHO}, service="ledger_writer"}}': (1, 0),
    f"flowstate_log_lines_dropped_total{{{WHO}}}": (2, 0),
    f"flowstate_locks_lost_total{{{WHO}}}": (2, 0),
    f"flowstate_jobs_stalled_total{{{WHO}}}": (2, 0),
    f'flowstate_mails_total{{{WHO}, kind="otp", outcome="sent"}}': (0, 60),
    f'flowstate_mails_total{{{WHO}, kind="otp", outcome="expired"}}': (1, 0),
    f'flowstate_mails_total{{{WHO}, kind="welcome", outcome="failed"}}': (1, 0),
    f'flowstate_mail_latency_seconds_bucket{{{WHO}, kind="otp", le="0.1"}}': (0, 60),
    f'flowstate_mail_latency_seconds_bucket{{{WHO}, kind="otp", le="5.0"}}': (0, 60),
    f'flowstate_mail_latency_seconds_bucket{{{WHO}, kind="otp", le="15"}}': (0, 60),
    f'flowstate_mail_latency_seconds_bucket{{{WHO}, kind="otp", le="+Inf"}}': (0, 60),
    f'flowstate_mail_latency_seconds_count{{{WHO}, kind="otp"}}': (0, 60),
    f'flowstate_provider_events_total{{{WHO}, event="delivered"}}': (0, 30),
    f'flowstate_provider_events_total{{{WHO}, event="bounced"}}': (4, 0),
    f'flowstate_provider_events_total{{{WHO}, event="complained"}}': (1, 0),
    f'flowstate_provider_request_duration_seconds_count{{{WHO}, result="accepted"}}': (0, 60),
    f'flowstate_provider_request_duration_seconds_count{{{WHO}, result="network_error"}}': (0, 1),
    f'flowstate_provider_request_duration_seconds_count{{{WHO}, result="quota_exceeded"}}': (1, 0),
    f'flowstate_event_loop_lag_seconds_bucket{{{WHO}, le="0.01"}}': (0, 600),
    f'flowstate_event_loop_lag_seconds_bucket{{{WHO}, le="1"}}': (0, 600),
    f'flowstate_event_loop_lag_seconds_bucket{{{WHO}, le="+Inf"}}': (0, 600),
    f'flowstate_redis_command_duration_seconds_bucket{{{WHO}, le="0.01"}}': (0, 60),
    f'flowstate_redis_command_duration_seconds_bucket{{{WHO}, le="1"}}': (0, 60),
    f'flowstate_redis_command_duration_seconds_bucket{{{WHO}, le="+Inf"}}': (0, 60),
}
# What differs when an alert must fire, by the beginning of the series; None: the series is not exported.
CASES: Mapping[str, Mapping[str, tuple[float, float] | None]] = {
    "FlowstateDown": {"up{": (0, 0)},
    "FlowstateAbsent": {"up{": None},
    "FlowstateRestarting": {"process_start_time_seconds": (1_700_000_000, 60)},
    "FlowstateStuck": {"flowstate_live": (0, 0)},
    "FlowstateNotReady": {"flowstate_ready": (0, 0)},
    "FlowstateRedisDown": {"flowstate_redis_up": (0, 0)},
    "FlowstateProviderAccountRefused": {"flowstate_provider_account_ok": (0, 0)},
    "FlowstateProviderQuotaExceeded": {
        f'flowstate_provider_request_duration_seconds_count{{{WHO}, result="quota_exceeded': (0, 1)
    },
    "FlowstateProviderErrorRateHigh": {
        f'flowstate_provider_request_duration_seconds_count{{{WHO}, result="network_error': (0, 60)
    },
    "FlowstateCodeLatencyHigh": {
        f'flowstate_mail_latency_seconds_bucket{{{WHO}, kind="otp", le="0.1': (0, 30),
        f'flowstate_mail_latency_seconds_bucket{{{WHO}, kind="otp", le="5.0': (0, 30),
    },
    "FlowstateCodeLatencyBudgetBurning": {  # 2.5 % are late
        f'flowstate_mail_latency_seconds_bucket{{{WHO}, kind="otp", le="5.0': (0, 58.5),
    },
    "FlowstateCodesExpired": {f'flowstate_mails_total{{{WHO}, kind="otp", outcome="expired': (0, 1)},
    "FlowstateQueueLatencyHigh": {"flowstate_queue_latency_seconds": (1000, 60)},
    "FlowstateQueuePaused": {
        "flowstate_queue_paused": (1, 0),
        "flowstate_queue_latency_seconds": (1000, 60),  # expected while the queue is paused
    },
    "FlowstateQueueSilent": {"flowstate_queue_last_added_timestamp_seconds": (-60_000, 0)},
    "FlowstateMailsFailing": {f'flowstate_mails_total{{{WHO}, kind="welcome", outcome="failed': (0, 1)},
    "FlowstateFailedJobsGrowing": {"flowstate_queue_jobs": (40, 1)},
    "FlowstateBounceRateHigh": {f'flowstate_provider_events_total{{{WHO}, event="bounced': (4, 2)},
    "FlowstateComplaintRateHigh": {f'flowstate_provider_events_total{{{WHO}, event="complained': (1, 1)},
    "FlowstateLocksLost": {"flowstate_locks_lost_total": (0, 1)},
    "FlowstateJobsStalled": {"flowstate_jobs_stalled_total": (0, 1)},
    "FlowstateEventLoopLagHigh": {f'flowstate_event_loop_lag_seconds_bucket{{{WHO}, le="0.01': (0, 500)},
    "FlowstateLogLinesDropped": {"flowstate_log_lines_dropped_total": (0, 1)},
    "FlowstateRedisLatencyHigh": {f'flowstate_redis_command_duration_seconds_bucket{{{WHO}, le="0.01': (0, 50)},
    "FlowstateLedgerBacklogHigh": {"flowstate_ledger_backlog_entries": (2000, 0)},
    "nothing": {},
    "nothing when it is unknown when a job was added": {"flowstate_queue_last_added_timestamp_seconds": None},
    "nothing without a ledger": {
        "flowstate_ledger_backlog_entries": (9999, 0),
        "flowstate_service_heartbeat_age_seconds": None,
    },
}
# What else fires in a case: codes that are late or expire also use up the budget of the month.
ALSO = {
    "FlowstateCodeLatencyHigh": ["FlowstateCodeLatencyBudgetBurning"],
    "FlowstateCodesExpired": ["FlowstateCodeLatencyBudgetBurning"],
}


def series(case: str) -> list[dict[str, str]]:
    """The input of promtool: eight hours with one sample per minute."""
    seen = dict[str, tuple[float, float] | None](HEALTHY)
    for beginning, values in CASES[case].items():
        found = [name for name in HEALTHY if name.startswith(beginning)]
        assert found, f"{case}: no series begins with {beginning}"
        seen.update(dict.fromkeys(found, values))
    shown = {name: values for name, values in seen.items() if values is not None}
    return [{"series": name, "values": f"{a}+{b}x{HOURS * 60}"} for name, (a, b) in shown.items()]


def promtool_errors(case: str, folder: Path) -> str:
    """The output of promtool; empty when exactly the alerts of this case fire."""
    firing = sorted([case, *ALSO.get(case, [])]) if case in ALERTS else []
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
    expectation = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{HOURS}h",
        "exp_samples": expected,
    }
    test = {"interval": "1m", "input_series": series(case), "promql_expr_test": [expectation]}
    document: dict[str, Any] = {
        "rule_files": [str(FOLDER / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [test],
    }
    file = folder / "case.yml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    done = subprocess.run(["promtool", "test", "rules", file], check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    """Every rule is tested to fire."""
    assert set(ALERTS) <= set(CASES)
    assert {case for case in CASES if not case.startswith("nothing")} <= set(ALERTS)


def test_labels_are_those_of_the_daemon() -> None:
    """Rules and cases use label values that the daemon exports; this also holds where promtool is missing."""
    values = {"outcome": OUTCOMES, "result": PROVIDER_RESULTS, "event": PROVIDER_EVENTS}
    text = "\n".join([(FOLDER / "alerts.yml").read_text(), *HEALTHY])
    found = re.findall(r'[{,]\s*(\w+)=~?"([^"]*)"', text)
    assert {name for name, _ in found} <= {"job", "instance", "service", "state", "kind", "le", *values}
    used = {(name, value) for name, text in found if name in values for value in text.split("|")}
    assert used
    assert used <= {(name, value) for name in values for value in values[name]}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")
@pytest.mark.parametrize("case", CASES)
def test_exactly_the_expected_alert_fires(case: str, tmp_path: Path) -> None:
    """After eight hours of samples the alert of the case fires, and no other."""
    assert promtool_errors(case, tmp_path) == ""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")
def test_prometheus_accepts_the_sample_configuration() -> None:
    """`promtool check config` accepts the configuration and its rules."""
    subprocess.run(["promtool", "check", "config", FOLDER / "prometheus.yml"], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")
@pytest.mark.parametrize("address", ["", "https://wiki.example.org/mailer/"])
def test_runbook_is_a_path_with_the_address_of_the_installation(address: str, tmp_path: Path) -> None:
    """The external label `docs` is put in front of it; without the label it is a path in the repository."""
    (rule,) = (
        rule
        for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
        if rule["alert"] == "FlowstateDown"
    )
    annotations = {name: text.replace("{{ $labels.instance }}", "mail-1") for name, text in rule["annotations"].items()}
    annotations["runbook_url"] = f"{address}docs/troubleshooting.md"
    expected = {
        "exp_labels": {"severity": "page", "job": "flowstate-daemon", "instance": "mail-1"},
        "exp_annotations": annotations,
    }
    test = {
        "interval": "1m",
        "external_labels": {"docs": address} if address else {},
        "input_series": [{"series": f"up{{{WHO}}}", "values": "0x10"}],
        "alert_rule_test": [{"eval_time": "5m", "alertname": "FlowstateDown", "exp_alerts": [expected]}],
    }
    file = tmp_path / "case.yml"
    document = {"rule_files": [str(FOLDER / "alerts.yml")], "evaluation_interval": "1m", "tests": [test]}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    done = subprocess.run(["promtool", "test", "rules", file], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

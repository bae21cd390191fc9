"""The benchmark's plans and its table of peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import peers as table
from tests.bench.environments import CONSTRAINTS
from tests.bench.figures import SECTIONS
from tests.bench.peers import BY_NAME, PEERS, US, select
from tests.bench.plan import build_plan
from tests.bench.python_peers import ADAPTERS
from tests.bench.results import Results, current_commit
from tests.bench.runner import open_results
from tests.bench.where_the_time_goes import STEPS as PROFILES

PLANS = ("full", "quick", "smoke")


def test_every_python_peer_is_pinned_and_has_an_adapter() -> None:
    """The table, the constraints and the adapters name the same peers."""
    python = {peer.name for peer in PEERS if peer.kind == "python"}
    pinned = {line.partition("==")[0] for line in CONSTRAINTS.read_text().splitlines() if "==" in line}
    assert set(ADAPTERS) == python
    assert python <= pinned


def test_every_node_peer_is_in_the_package_file() -> None:
    """npm installs the node peers in exact versions."""
    text = (Path(table.__file__).parent / "package.json").read_text()
    assert all(f'"{peer.name}": "' in text for peer in PEERS if peer.kind == "node")
    assert "^" not in text


def test_select_keeps_the_daemon_and_the_order() -> None:
    """The daemon always takes part, and no names mean all peers."""
    assert [peer.name for peer in select(["saq", "bull"])] == [US, "bull", "saq"]
    assert select([]) == list(PEERS)


def test_select_rejects_unknown_names() -> None:
    """A name that is not in the table is an error that lists the names."""
    with pytest.raises(ValueError, match="no such peer: sidekiq; there are flowstate-daemon"):
        select(["sidekiq"])


@pytest.mark.parametrize("name", PLANS)
def test_steps_have_a_section_in_the_report(name: str) -> None:
    """Nothing is measured that the report does not show."""
    starts = (*(section.step for section in SECTIONS), *PROFILES)
    assert all(step.name.startswith(starts) for step in build_plan(name).steps)


@pytest.mark.parametrize("name", PLANS)
def test_rounds_interleave_the_peers(name: str) -> None:
    """Within a step and a round each peer runs once, and every second round in the reverse order."""
    plan = build_plan(name)
    drains = [(number, peer.name) for number, step, peer in plan.runs(PEERS) if step.name == "drain"]
    names = [peer.name for peer in PEERS]
    assert drains[: len(names)] == [(1, each) for each in names]
    assert len(drains) == plan.rounds * len(names)
    if plan.rounds > 1:
        assert drains[len(names) : 2 * len(names)] == [(2, each) for each in reversed(names)]


def test_peers_that_cannot_batch_are_not_measured_in_batches() -> None:
    """A peer without concurrency for a batch takes part in no batch measurement."""
    batched = {peer.name for _, step, peer in build_plan("full").runs(PEERS) if step.name == "mails-batch"}
    assert "rq" not in batched
    assert {US, "arq", "celery"} <= batched


def test_slow_measurements_of_peers_run_once() -> None:
    """What may take minutes for a peer is measured once for peers, and in every round for the daemon."""
    plan = build_plan("full")
    rounds = [(number, peer.name) for number, step, peer in plan.runs(PEERS) if step.name == "recovery"]
    assert [number for number, name in rounds if name == US] == [1, 2, 3]
    assert [number for number, name in rounds if name == "celery"] == [1]


def test_options_of_ours_override() -> None:
    """Under a rate limit the daemon gets more emails than a peer, for as many seconds."""
    step = next(step for step in build_plan("full").steps if step.name == "mails-limited")
    ours, theirs = (step.options_for(BY_NAME[name])["jobs"] for name in (US, "arq"))
    assert ours > 10 * theirs


@pytest.mark.parametrize(
    ("plan", "commit", "complete", "continues"),
    [
        ("full", "same", False, True),
        ("quick", "same", False, False),
        ("full", "other", False, False),
        ("full", "same", True, False),
    ],
)
def test_only_an_unfinished_run_of_the_same_code_continues(
    tmp_path: Path, plan: str, commit: str, *, complete: bool, continues: bool
) -> None:
    """Results of other code or of a finished run are not mixed with new ones."""
    path = tmp_path / "results.json"
    earlier = Results(plan, current_commit() if commit == "same" else commit, loads=[7.0], complete=complete)
    earlier.write(path)
    opened = open_results(path, build_plan("full"), fresh=False)
    assert (opened.loads == [7.0]) is continues
    assert open_results(path, build_plan("full"), fresh=True).loads == []

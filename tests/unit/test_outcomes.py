"""What follows from the outcomes of a host's requests."""

from __future__ import annotations

import re

import pytest

from kis_gateway_deploy.host import switch
from kis_gateway_deploy.outcomes import Gate, Switches, follows

OLD, NEW = "a33c7e12e6d4", "5393e3d2b05a"


@pytest.mark.parametrize(
    ("outcome", "runs"),
    [
        *dict.fromkeys(["switched", "already", "reverted"], NEW).items(),
        *dict.fromkeys(["restarted", "started", "restored", "left", "refused"], OLD).items(),
        *dict.fromkeys(
            ["removed", "restored-adopted", "stopped", "down", "failed", "lost", "a new word"]
        ).items(),
    ],
)
def test_which_release_runs_after_a_request(outcome: str, runs: str | None) -> None:
    switches = Switches(OLD)
    switches.note(NEW, outcome)
    assert (switches.before, switches.runs, switches.outcome) == (OLD, runs, outcome)


@pytest.mark.parametrize("outcome", ["restored", "started", "left"])
def test_a_crash_loop_that_was_stopped_and_restored_runs_again(outcome: str) -> None:
    switches = Switches(OLD)
    switches.note(None, "stopped")
    assert switches.runs is None
    switches.note(NEW, outcome)
    assert switches.runs == OLD


def test_what_a_failed_gate_has_heard_is_kept_by_the_revert() -> None:
    switches = Switches(OLD)
    switches.note(NEW, "restored", Gate(None, "GET /health: HTTP 500", "KeyError"))
    switches.note(OLD, "reverted", Gate(3.0))
    assert switches.gate == Gate(3.0, "GET /health: HTTP 500", "KeyError")


def test_every_outcome_of_a_switch_is_known() -> None:
    rows = re.findall(r"^\| (`.*`) \|", switch.__doc__ or "", re.MULTILINE)
    named = re.findall("`([a-z-]+)`", " ".join(rows))
    assert len(named) > 10
    assert [each for each in named if follows(each) is follows("a new word")] == ["failed"]

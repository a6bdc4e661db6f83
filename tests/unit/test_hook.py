"""What `rollout_after` gets, and that its command cannot harm the run that it ends."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.hook import WHY_LIMIT, End, document, tell
from kis_gateway_deploy.issuance import Issuances
from kis_gateway_deploy.plans import Plan, Step
from kis_gateway_deploy.rollout import Rollout
from kis_gateway_deploy.runs import ends
from tests.unit.builders import FRESH, release
from tests.unit.test_session import put, session

OLD, NEW = "a33c7e12e6d4", "5393e3d2b05a"
GOOD = End("web-1", "changes", OLD, NEW, "switched", 1, "")
BAD = End("web-2", "failed", OLD, OLD, "restored", 0, "not healthy within 120 s")


def test_the_document() -> None:
    assert json.loads(document("up", "kim@desk", 12.345, [GOOD, BAD])) == {
        "version": 1,
        "verb": "up",
        "by": "kim@desk",
        "outcome": "failed",
        "status": 1,
        "seconds": 12.3,
        "hosts": [
            {
                "host": "web-1",
                "word": "changes",
                "before": OLD,
                "after": NEW,
                "outcome": "switched",
                "issuances": 1,
                "why": "",
            },
            {
                "host": "web-2",
                "word": "failed",
                "before": OLD,
                "after": OLD,
                "outcome": "restored",
                "issuances": 0,
                "why": "not healthy within 120 s",
            },
        ],
        "issuances": 1,
    }


@pytest.mark.parametrize(
    ("words", "signal", "expected"),
    [
        (["up to date", "changes"], 0, ("changes", 0)),
        (["up to date"], 0, ("up to date", 0)),
        (["blocked", "changes"], 0, ("blocked", 1)),
        (["failed", "blocked"], 0, ("failed", 1)),
        (["failed"], 130, ("failed", 130)),
        (["up to date"], 143, ("up to date", 143)),
    ],
)
def test_outcome_and_status(words: list[Any], signal: int, expected: tuple[str, int]) -> None:
    ends = [replace(GOOD, word=word) for word in words]
    found = json.loads(document("down", "kim@desk", 1, ends, signal))
    assert (found["outcome"], found["status"]) == expected


def test_what_a_host_says_is_bounded_and_escaped() -> None:
    end = replace(BAD, why="first\n\x1b[31mred\u202e" + "x" * 5000)
    why = json.loads(document("up", "kim@desk", 1, [end]))["hosts"][0]["why"]
    assert why.startswith("first\n\\x1b[31mred\\u202exxx")
    assert len(why) == WHY_LIMIT


SWITCH = Plan((Step("switch", "a change"),))


def test_a_host_that_was_switched_and_reverted() -> None:
    run = session(a={})
    put(run, "a", SWITCH)
    run.note_switch("a", NEW, "switched")
    run.note_switch("a", OLD, "refused")  # the revert: what runs is not as this run left it
    [end] = ends(run)
    assert (end.before, end.after, end.outcome) == (release().id, NEW, "refused")
    run.note_switch("a", release().id, "reverted")
    [end] = ends(run)
    assert (end.before, end.after, end.outcome) == (release().id, release().id, "reverted")


def test_a_host_without_a_container_runs_no_release() -> None:
    run = session(a={})
    put(run, "a", SWITCH, **FRESH)
    run.note_switch("a", NEW, "removed")
    run.failed["a"], run.why["a"] = "was not switched", "not healthy"
    run._rollout = Rollout([["a"]], {}, Issuances(), counted={"a": 2})
    assert ends(run) == [End("a", "failed", None, None, "removed", 2, "not healthy")]


def test_why_a_host_has_failed_or_was_blocked() -> None:
    run = session(a={}, b={}, c={}, d={})
    for name, plan in (("a", Plan(refusals=["the disk is full"])), ("b", SWITCH), ("c", SWITCH)):
        put(run, name, plan)
    run.state.failed_hosts.add(run.inventory.get_host("d"))
    run.untouched |= {"b"}
    run.failed["c"] = "was not switched"
    assert [(end.host, end.word, end.why) for end in ends(run)] == [
        ("a", "blocked", "the disk is full"),
        ("b", "blocked", "not touched, because of a, c, d (see there)"),
        ("c", "failed", "was not switched"),
        ("d", "failed", "unreachable"),
    ]


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_the_command_gets_the_document(tmp_path: Path) -> None:
    text = document("up", "kim@desk", 1, [GOOD])
    assert tell(shell(f"cat > {tmp_path}/got"), text) == ""
    assert (tmp_path / "got").read_text() == text


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["true"], ""),
        (shell("echo chatter; echo more >&2"), ""),
        (shell("echo first; echo '\033[1m second' >&2; exit 3"),
         "`sh` failed (exit status 3): first / \\x1b[1m second"),
        (shell("kill -9 $$"), "`sh` failed (signal 9)"),
        (["/nowhere/tell", "s3cret"], "`tell` cannot be started: No such file or directory"),
        (["/etc"], "`etc` cannot be started: Permission denied"),
    ],
)  # fmt: skip
def test_why_the_command_failed(command: list[str], why: str) -> None:
    assert tell(command, "x" * 300_000) == why


@pytest.mark.parametrize(
    "script", ["sleep 60", "exec >&- 2>&-; sleep 60", "yes", "sleep 60 & wait"]
)
def test_a_command_that_does_not_end_is_killed(script: str) -> None:
    began = time.monotonic()
    why = tell(shell(script), "{}", seconds=0.5)
    assert why.startswith("`sh` did not end within 0.5 s")
    assert len(why) < 500
    assert time.monotonic() - began < 5


def test_what_the_command_leaves_in_the_background_is_not_waited_for() -> None:
    began = time.monotonic()
    assert tell(shell("sleep 20 & exit 0"), "{}") == ""
    assert time.monotonic() - began < 5

"""The last lines of a run that may change hosts."""

from __future__ import annotations

from typing import Any

import pytest

from kis_gateway_deploy.display import Word
from kis_gateway_deploy.ending import Ended, ended, failure, summary, what_runs
from kis_gateway_deploy.hook import End
from kis_gateway_deploy.outcomes import NO_GATE, Gate
from tests.unit import builders
from tests.unit.builders import container, reading

OLD, NEW = "a1b2c3d4e5f6", "c3d4e5f6a1b2"
WHY = "not healthy within 15 s: GET http://127.0.0.1:8080/health: HTTP 500"


def end(name: str = "trade-1", word: Word = "changes", **changes: Any) -> End:
    values: dict[str, Any] = {"before": OLD, "after": NEW, "outcome": "switched", "issuances": 0}
    return End(name, word, **{**values, "why": "", **changes})


def host(name: str = "trade-1", word: Word = "changes", **changes: Any) -> Ended:
    """One that was switched, by default."""
    of_end = {each: changes.pop(each) for each in End.__annotations__ if each in changes}
    its = end(name, word, **of_end)
    values: dict[str, Any] = {
        "tag": "1.4",
        "outcome": its.outcome or "",
        "serves": True,
        "token": "23 h",
        "gate": Gate(11.2),
        "has_switch": True,
    }
    return Ended(its, **values | changes)


UP_TO_DATE: dict[str, Any] = {"before": OLD, "after": OLD, "outcome": None, "has_switch": False}
RESTORED: dict[str, Any] = {"after": OLD, "outcome": "restored", "why": WHY}
WAITING: dict[str, Any] = {"before": OLD, "after": OLD, "outcome": None}


def test_a_deploy_ends_with_a_line_for_each_host() -> None:
    hosts = [host(), host("trade-2", "up to date", **UP_TO_DATE)]
    assert summary("up", hosts, 13.4, "make rollback") == [
        "trade-1  1.4 (a1b2 → c3d4)  switched    gate 11.2 s  issued 0  token valid 23 h",
        "trade-2  1.4 (a1b2)         up to date                         token valid 23 h",
        "Deployed 1 host in 13 s. To go back: make rollback",
    ]


def test_nothing_is_said_of_a_token_that_is_in_no_file() -> None:
    of_memory = ended(end(), "kis:1.4", None, reading(), NO_GATE, False, True, is_counted=False)
    [line, _] = summary("up", [of_memory], 2, "make rollback")
    assert line.endswith("issuances are not counted")


@pytest.mark.parametrize(
    ("verb", "changes", "sentence"),
    [
        ("up", {"before": None}, "Deployed 1 host in 2 s."),
        ("up", {"before": NEW}, "Deployed 1 host in 2 s."),
        ("rollback", {}, "Rolled back 1 host in 2 s."),
        ("restart", {"before": NEW, "outcome": "restarted"}, "Restarted 1 host in 2 s."),
        ("renew", {"before": NEW, "outcome": "renewed"}, "Renewed the token of 1 host in 2 s."),
    ],
)
def test_the_sentence_offers_a_rollback_only_if_there_is_one(
    verb: str, changes: dict[str, Any], sentence: str
) -> None:
    assert summary(verb, [host(**changes)], 2, "make rollback")[-1] == sentence


def test_nothing_is_summarised_if_nothing_was_switched() -> None:
    assert summary("up", [host(word="up to date", **UP_TO_DATE)], 2, "make rollback") == []
    assert summary("up", [host(word="blocked", **WAITING)], 2, "make rollback") == []


def test_a_failed_deploy_has_no_sentence() -> None:
    hosts = [
        host("trade-1", after=OLD, outcome="reverted"),
        host("trade-2", "failed", **RESTORED),
        host("trade-3", **WAITING),
    ]
    assert summary("up", hosts, 13, "make rollback") == [
        "trade-1  1.4 (a1b2)  reverted        issued 0  token valid 23 h",
        "trade-2  1.4 (a1b2)  restored        issued 0  token valid 23 h",
        "trade-3  1.4 (a1b2)  not switched    issued 0  token valid 23 h",
    ]


def test_a_failure_names_host_cause_what_runs_and_what_to_type() -> None:
    gate = Gate(None, "GET http://127.0.0.1:8080/health: HTTP 500", "KeyError: 'kis'")
    hosts = [host(f"trade-{n}", after=OLD, outcome="reverted") for n in (1, 2, 3)]
    hosts.append(host("trade-4", "failed", **RESTORED, gate=gate))
    assert failure(hosts, "make deploy", "make status") == [
        f"trade-4 failed (restored): {WHY}",
        "  first error in its log: KeyError: 'kis'",
        "Release 1.4 (a1b2) serves on all 4 hosts.",
        "Next: correct the cause, then make deploy",
    ]


def test_the_last_probe_is_added_if_the_cause_does_not_name_it() -> None:
    gate = Gate(None, "GET http://127.0.0.1:8080/health: no answer", "")
    failed = host("trade-4", "failed", **RESTORED | {"why": "exited with status 3"}, gate=gate)
    assert failure([failed], "make deploy", "make status")[:2] == [
        "trade-4 failed (restored): exited with status 3",
        "  last probe: GET http://127.0.0.1:8080/health: no answer",
    ]


def test_an_interrupted_deploy_is_repeated() -> None:
    hosts = [host("trade-1", "failed", why="interrupted (SIGINT)")]
    assert failure(hosts, "make deploy", "make status")[-1] == "Next: make deploy"
    assert len(summary("up", hosts, 13, "make rollback")) == 1


def test_a_long_cause_is_bounded() -> None:
    why = "\n".join(["first", *["x"] * 90, "y" * 999])
    many = [host(f"t{n}", "failed", **RESTORED | {"why": why}) for n in range(9)]
    lines = failure(many, "make deploy", "make status")
    assert len(lines) == 5 * 2 + 1 + 2
    assert max(map(len, lines)) <= 300
    assert lines[10] == "and 4 more: t5, t6, t7, t8"


def test_hosts_that_another_one_kept_untouched_are_no_cause() -> None:
    why = "not touched, because of trade-1 (see there)"
    hosts = [
        host("trade-1", "blocked", **WAITING, why="the disk is full"),
        host("trade-2", "blocked", **WAITING, why=why),
    ]
    assert failure(hosts, "make deploy", "make status") == [
        "trade-1 blocked: the disk is full",
        "Release 1.4 (a1b2) serves on all 2 hosts.",
        "Next: correct the cause, then make deploy",
    ]
    assert failure([host()], "make deploy", "make status") == []


def test_what_is_not_known_is_looked_at_first() -> None:
    lost = host(
        "trade-1", "failed", after=None, outcome="lost", why="the host is silent", serves=None
    )
    assert failure([lost], "make deploy", "make status") == [
        "trade-1 failed (lost): the host is silent",
        "It is not known what serves on trade-1.",
        "Next: make status, then correct the cause, then make deploy",
    ]


def test_what_runs_on_a_mixed_fleet() -> None:
    hosts = [
        host("a"),
        host("b", after=None, outcome="removed", serves=False),
        host("c", "failed", after=OLD, outcome=None, serves=False),
    ]
    assert what_runs(hosts) == (
        "Release 1.4 (c3d4) serves on a; no gateway runs on b; "
        "release 1.4 (a1b2) does not serve on c."
    )


BAD = {"status": 503}


@pytest.mark.parametrize(
    ("changes", "read", "looked", "serves"),
    [
        ({}, {"current": OLD}, {"current": NEW}, True),
        ({}, {"current": OLD}, {"current": NEW, "client_sees": BAD}, False),
        # Reverted after the look: it has passed the gate of the old release since.
        ({"after": OLD}, {"current": OLD}, {"current": NEW, "client_sees": BAD}, True),
        ({"outcome": "restored", "after": OLD}, {"current": OLD}, None, True),
        ({"outcome": "removed", "after": None}, builders.FRESH, None, False),
        ({"outcome": "restored-adopted", "after": None}, {"adopted_id": "c0ffee"}, None, True),
        ({"outcome": "reverted", "after": None}, builders.FRESH, None, False),
        ({"outcome": "lost", "after": None}, {}, None, None),
        ({"outcome": "refused", "after": OLD}, {}, None, None),
        ({"outcome": "started", "after": OLD}, {}, None, None),
        ({"outcome": None}, None, None, None),
        ({"outcome": None, "after": OLD}, {"current": OLD}, None, True),
        ({"outcome": None, "after": OLD}, {"current": OLD, "client_sees": BAD}, None, False),
        ({"outcome": None}, {"client_sees": None}, None, True),
        ({"outcome": None}, {"client_sees": None, "containers": ()}, None, False),
    ],
)
def test_whether_a_gateway_serves_at_the_end(
    changes: dict[str, Any],
    read: dict[str, Any] | None,
    looked: dict[str, Any] | None,
    serves: bool | None,
) -> None:
    before, after = (None if it is None else reading(**it) for it in (read, looked))
    found = ended(end(**changes), "kis:1.5", before, after, NO_GATE, False, True)
    assert found.serves is serves


def test_the_tag_is_that_of_the_release_that_runs() -> None:
    before = reading(current=OLD, containers=(container(image_name="kis:1.3"),))
    after = reading(current=NEW, containers=(container(image_name="kis:1.5"),))
    switched = ended(end(), "kis:1.5", before, after, NO_GATE, False, True)
    assert (switched.tag, switched.token) == ("1.5", "20 h")
    reverted = ended(end(after=OLD), "kis:1.5", before, after, NO_GATE, True, True)
    assert (reverted.tag, reverted.outcome) == ("1.3", "reverted")

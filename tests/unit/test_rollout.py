"""A rollout without real hosts: in order, one batch at a time, and reverted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest

from kis_gateway_deploy.issuance import Gateway, Issuances
from kis_gateway_deploy.rollout import Actions, Progress, Rollout, make_batches, roll_out

HOSTS = ["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8"]


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        (8, [1, "25%", "100%"], [1, 2, 5]),
        (4, [1, "25%", "100%"], [1, 1, 2]),
        (2, [1, "25%", "100%"], [1, 1]),
        (1, [1, "25%", "100%"], [1]),
        (0, [1, "25%", "100%"], []),
        (8, [3], [3, 3, 2]),
        (8, ["100%"], [8]),
        (8, ["1%"], [1] * 8),
        (3, ["50%"], [1, 1, 1]),
        (8, [2, 100], [2, 6]),
    ],
)
def test_batches_keep_the_inventorys_order(
    count: int, sizes: list[int | str], expected: list[int]
) -> None:
    batches = make_batches(HOSTS[:count], sizes)
    assert [len(batch) for batch in batches] == expected
    assert [name for batch in batches for name in batch] == HOSTS[:count]


def test_each_host_that_comes_first_is_a_batch_and_replaces_a_planned_one() -> None:
    assert make_batches(HOSTS[:4], [1, "100%"], first=["h3"]) == [["h3"], ["h1", "h2", "h4"]]
    assert make_batches(HOSTS[:3], ["100%"], first=["h1", "h3"]) == [["h1"], ["h3"], ["h2"]]


BATCHES = [["canary"], ["a", "b"], ["c"]]


@dataclass
class Fleet:
    """Hosts that do each action successfully, except the hosts that `bad` lists for it."""

    bad: dict[str, set[str]] = field(default_factory=dict)
    stop_after: str = ""  # an action that is done, or "start"
    done: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def act(self) -> Actions:
        return Actions(
            switch=lambda name, batch: self.do("switch", name),  # noqa: ARG005 - its interface
            revert=lambda name: self.do("revert", name),
            stop=lambda name: self.do("stop", name),
            start=lambda name: self.do("start", name),
            look=lambda name: "" if self.do("look", name) else "a client gets: HTTP 503",
            say=self.messages.append,
            stop_reason=lambda: "too late" if self.stop_after in ("start", *self.done) else "",
            side_by_side=self.side_by_side,
        )

    def do(self, what: str, name: str) -> bool:
        self.done.append(f"{what} {name}")
        return name not in self.bad.get(what, set())

    @staticmethod
    def side_by_side(names: Sequence[str], do: Callable[[str], bool]) -> list[bool]:
        return [do(name) for name in names]

    def roll(
        self, revert: Literal["fleet", "host"] = "fleet", looping: Sequence[str] = ()
    ) -> Progress:
        names = [name for batch in BATCHES for name in batch]
        gateways = {name: Gateway("0a1b2c3d4e5f", loops=name in looping) for name in names}
        rollout = Rollout(BATCHES, gateways, Issuances())
        roll_out(rollout, revert, self.act())
        return rollout.progress


def test_batches_are_switched_in_order_and_checked_again() -> None:
    fleet = Fleet()
    progress = fleet.roll()
    names = ["canary", "a", "b", "c"]
    assert fleet.done == [f"switch {name}" for name in names] + [f"look {name}" for name in names]
    assert (progress.switched, progress.failed, progress.reverted) == (names, {}, [])
    assert fleet.messages == ["batch 1 of 3: canary", "batch 2 of 3: a, b", "batch 3 of 3: c"]


def test_a_failure_stops_later_batches_and_reverts_switched_hosts() -> None:
    fleet = Fleet(bad={"switch": {"b"}})
    progress = fleet.roll()
    assert "switch c" not in fleet.done
    assert progress.failed == {"b": "was not switched"}
    assert progress.reverted == ["canary", "a"]
    assert fleet.messages[-1] == "reverting canary, a, because b failed"


def test_switched_hosts_are_kept_if_the_setting_says_so() -> None:
    fleet = Fleet(bad={"switch": {"b"}})
    progress = fleet.roll(revert="host")
    assert (progress.switched, progress.reverted) == (["canary", "a"], [])
    assert not [what for what in fleet.done if what.startswith("revert")]


def test_a_failed_canary_leaves_nothing_to_revert() -> None:
    fleet = Fleet(bad={"switch": {"canary"}})
    progress = fleet.roll()
    assert fleet.done == ["switch canary"]
    assert (progress.switched, progress.reverted) == ([], [])


@pytest.mark.parametrize("revert", ["fleet", "host"])
def test_a_host_that_goes_down_after_its_gate_is_an_error(
    revert: Literal["fleet", "host"],
) -> None:
    fleet = Fleet(bad={"look": {"a"}})
    progress = fleet.roll(revert=revert)
    assert progress.failed == {"a": "a client gets: HTTP 503"}
    assert progress.reverted == (["canary", "a", "b", "c"] if revert == "fleet" else [])


def test_a_host_that_could_not_be_looked_at_has_failed() -> None:
    """`side_by_side` answers False for an exception, and `look` has given no reason then."""
    fleet = Fleet()
    act = fleet.act()

    def side_by_side(names: Sequence[str], do: Callable[[str], bool]) -> list[bool]:
        is_look = all(f"switch {name}" in fleet.done for name in names)
        return [do(name) and not (is_look and name == "a") for name in names]

    act.side_by_side = side_by_side
    gateways = {name: Gateway("0a1b2c3d4e5f") for name in ("a", "b")}
    rollout = Rollout([["a", "b"]], gateways, Issuances())
    roll_out(rollout, "host", act)
    assert rollout.progress.failed == {"a": "could not be looked at"}


def test_a_host_that_cannot_be_reverted_is_a_separate_error() -> None:
    fleet = Fleet(bad={"switch": {"b"}, "revert": {"a"}})
    progress = fleet.roll()
    assert progress.failed == {"b": "was not switched", "a": "was not reverted"}
    assert progress.reverted == ["canary"]


@pytest.mark.parametrize(("revert", "reverted"), [("fleet", ["canary", "a", "b"]), ("host", [])])
def test_with_a_reason_to_stop_no_batch_begins_and_switched_hosts_are_reverted(
    revert: Literal["fleet", "host"], reverted: list[str]
) -> None:
    fleet = Fleet(stop_after="switch a")
    progress = fleet.roll(revert)
    assert "switch b" in fleet.done  # its batch had begun
    assert "switch c" not in fleet.done
    assert "no further batch begins: too late" in fleet.messages
    assert progress.failed == {"c": "was not switched: too late"}
    assert progress.reverted == reverted


def test_with_a_reason_to_stop_at_the_start_nothing_is_touched() -> None:
    fleet = Fleet(stop_after="start")
    progress = fleet.roll(looping=["b"])
    assert fleet.done == []
    assert progress.failed == dict.fromkeys(["canary", "a", "b", "c"], "was not switched: too late")


def test_a_reason_to_stop_after_the_last_batch_changes_nothing() -> None:
    progress = Fleet(stop_after="switch c").roll()
    assert (progress.failed, progress.switched) == ({}, ["canary", "a", "b", "c"])


def test_crash_loops_are_stopped_first_and_started_again_if_they_are_not_replaced() -> None:
    fleet = Fleet(bad={"switch": {"canary"}})
    fleet.roll(looping=["b"])
    assert fleet.done == ["stop b", "switch canary", "start b"]
    fleet = Fleet()
    fleet.roll(looping=["b"])
    assert "start b" not in fleet.done


def test_a_crash_loop_that_cannot_be_stopped_stops_the_rollout() -> None:
    fleet = Fleet(bad={"stop": {"b"}})
    progress = fleet.roll(looping=["b"])
    assert fleet.done == ["stop b"]
    assert progress.failed == {"b": "could not be stopped"}


def test_a_stopped_crash_loop_is_started_again_with_a_reason_to_stop() -> None:
    fleet = Fleet(stop_after="switch canary")
    fleet.roll(looping=["b"])
    assert "switch b" not in fleet.done
    assert "start b" in fleet.done


def test_a_stopped_crash_loop_that_cannot_be_started_again_is_an_error() -> None:
    fleet = Fleet(bad={"switch": {"canary"}, "start": {"b"}})
    progress = fleet.roll(looping=["b"])
    assert progress.failed["b"] == "is stopped and could not be started again"

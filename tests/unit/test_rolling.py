"""A rollout without hosts: in order, one batch at a time, and back again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest

from kis_gateway_deploy.rolling import Actions, Progress, roll_out

BATCHES = [["canary"], ["a", "b"], ["c"]]


@dataclass
class Fleet:
    """Hosts that do what they are told, except those that are `bad` at something."""

    bad: dict[str, set[str]] = field(default_factory=dict)
    signal_after: str = ""
    done: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def act(self) -> Actions:
        return Actions(
            switch=lambda name, _: self.do("switch", name),
            revert=lambda name: self.do("revert", name),
            stop=lambda name: self.do("stop", name),
            start=lambda name: self.do("start", name),
            look=lambda name: "" if self.do("look", name) else "a client gets: HTTP 503",
            say=self.said.append,
            interrupted=lambda: (
                "SIGTERM" if self.signal_after and self.signal_after in self.done else ""
            ),
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
        return roll_out(BATCHES, looping, revert, self.act())


def test_batches_are_switched_in_order_and_looked_at_once_more() -> None:
    fleet = Fleet()
    progress = fleet.roll()
    names = ["canary", "a", "b", "c"]
    assert fleet.done == [f"switch {name}" for name in names] + [f"look {name}" for name in names]
    assert (progress.switched, progress.failed, progress.reverted) == (names, {}, [])
    assert fleet.said == ["batch 1 of 3: canary", "batch 2 of 3: a, b", "batch 3 of 3: c"]


def test_a_failure_stops_later_batches_and_reverts_those_before() -> None:
    fleet = Fleet(bad={"switch": {"b"}})
    progress = fleet.roll()
    assert "switch c" not in fleet.done
    assert progress.failed == {"b": "was not switched"}
    assert progress.reverted == ["canary", "a"]
    assert fleet.said[-1] == "reverting canary, a, because b failed"


def test_hosts_that_were_switched_stay_if_that_is_asked_for() -> None:
    fleet = Fleet(bad={"switch": {"b"}})
    progress = fleet.roll(revert="host")
    assert (progress.switched, progress.reverted) == (["canary", "a"], [])
    assert not [what for what in fleet.done if what.startswith("revert")]


def test_the_canary_alone_has_nothing_to_revert() -> None:
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


def test_a_host_that_cannot_be_reverted_is_an_error_of_its_own() -> None:
    fleet = Fleet(bad={"switch": {"b"}, "revert": {"a"}})
    progress = fleet.roll()
    assert progress.failed == {"b": "was not switched", "a": "was not reverted"}
    assert progress.reverted == ["canary"]


def test_after_a_signal_no_batch_begins_and_those_before_are_reverted() -> None:
    fleet = Fleet(signal_after="switch a")
    progress = fleet.roll()
    assert "switch b" in fleet.done  # it was under way
    assert "switch c" not in fleet.done
    assert progress.failed == {"c": "was not switched: interrupted (SIGTERM)"}
    assert progress.reverted == ["canary", "a", "b"]


def test_a_signal_after_the_last_batch_changes_nothing() -> None:
    progress = Fleet(signal_after="switch c").roll()
    assert (progress.failed, progress.switched) == ({}, ["canary", "a", "b", "c"])


def test_crash_loops_are_stopped_first_and_started_again_if_nothing_comes_in_their_place() -> None:
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

"""What a request to a host can come to (see `host/switch.py`), and what follows from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Runs(Enum):
    """Which release runs after a request to switch."""

    REQUESTED = "the requested one"
    BEFORE = "the one that ran before"
    NONE = "none, or it is not known"


class Outcome(NamedTuple):
    """What follows from an outcome.

    `is_good`: it is as requested. `runs`: which release runs then. `serves`: whether a gateway
    serves clients, as far as the outcome tells; None if it is not known. `has_passed`: the
    requested release, or the same one with a new token, has passed its gate. `touched`: the host
    has taken up the request's generation.
    """

    is_good: bool = False
    runs: Runs = Runs.NONE
    serves: bool | None = None
    has_passed: bool = False
    touched: bool = True


LOST = "lost"
"""The outcome of a call without a usable answer."""
DIED = "died"
"""That of a switch whose processes were killed, or whose connection was cut: it can be asked once
more how it ended."""
REFUSED = "refused"

_NOT_KNOWN = Outcome()
_OUTCOMES = {
    "switched": Outcome(True, Runs.REQUESTED, serves=True, has_passed=True),
    "already": Outcome(True, Runs.REQUESTED, serves=True, has_passed=True, touched=False),
    "restarted": Outcome(True, Runs.BEFORE, serves=True, has_passed=True),
    "renewed": Outcome(True, Runs.BEFORE, serves=True, has_passed=True),
    "started": Outcome(True, Runs.BEFORE),  # the crash loop that was stopped
    "reverted": Outcome(True, Runs.REQUESTED, serves=True),
    "stopped": Outcome(True, serves=False),
    "down": Outcome(True, serves=False),
    "restored": Outcome(runs=Runs.BEFORE, serves=True),
    "restored-adopted": Outcome(serves=True),
    "removed": Outcome(serves=False),
    "left": Outcome(runs=Runs.BEFORE),
    # A host that refuses may have been changed by somebody else.
    REFUSED: Outcome(runs=Runs.BEFORE, touched=False),
    "failed": _NOT_KNOWN,
    LOST: Outcome(touched=False),
    DIED: Outcome(touched=False),
    # Of requests that switch nothing.
    **dict.fromkeys(("prepared", "fetched", "shown"), Outcome(is_good=True)),
}


def follows(outcome: str) -> Outcome:
    """What follows from an outcome; from an unknown one that nothing is known."""
    return _OUTCOMES.get(outcome, _NOT_KNOWN)


class Gate(NamedTuple):
    """What a host has said of its gate: its `seconds`; of one that failed, what it last asked and
    was answered (`heard`), and the first error in the container's log."""

    seconds: float | None = None
    heard: str = ""
    log_error: str = ""


NO_GATE = Gate()


@dataclass
class Switches:
    """What the requests to switch one host have come to in this run.

    `before`: the release that ran before the first one; `runs`: the one that runs now. Both are
    None if none runs, or it is not known.
    """

    before: str | None
    runs: str | None = None
    outcome: str | None = None
    gate: Gate = NO_GATE

    def __post_init__(self) -> None:
        self.runs = self.before

    def note(self, requested: str | None, outcome: str, gate: Gate = NO_GATE) -> None:
        """To be told of each request to switch to a release; None: to no release."""
        runs = self.runs
        if self.outcome == "stopped" and outcome != REFUSED:
            runs = self.before  # what was stopped is what a restore starts again
        then = follows(outcome).runs
        self.runs = {Runs.REQUESTED: requested, Runs.BEFORE: runs, Runs.NONE: None}[then]
        self.outcome = outcome
        # What a failed gate has heard is kept.
        known = self.gate
        self.gate = Gate(
            known.seconds if gate.seconds is None else gate.seconds,
            known.heard or gate.heard,
            known.log_error or gate.log_error,
        )

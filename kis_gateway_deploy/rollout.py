"""A rollout: which hosts are switched in which order, and the loop that does it. Touches no host.

The loop asks hosts only through the functions that it is given, so that it is tested without any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from kis_gateway_deploy.issuance import Gateway, Issuances, distribute, wait_before


def make_batches(
    hosts: Sequence[str], sizes: Sequence[int | str], first: Sequence[str] = ()
) -> list[list[str]]:
    """The hosts, in their order, as batches of these sizes; the last size is repeated.

    A size is a count or a percentage of all hosts, rounded down, but one host at least (as
    Ansible's `serial` has it): 8 hosts in `[1, "25%", "100%"]` are batches of 1, 2 and 5. The hosts
    in `first` come first, one a batch, in place of as many batches.
    """
    batches = [[name] for name in first]
    rest = [name for name in hosts if name not in first]
    while rest:
        size = sizes[min(len(batches), len(sizes) - 1)]
        if isinstance(size, str):
            size = max(1, math.floor(len(hosts) * int(size.removesuffix("%")) / 100))
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


@dataclass
class Progress:
    """How far a rollout came. `failed` says why, by host."""

    switched: list[str] = field(default_factory=list)
    reverted: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)  # hosts that may have begun their switch
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class Rollout:
    """The batches, the tokens, and what has happened so far.

    `gateways`: of all hosts that were read. `generations`: the generation of each host that was
    changed in this run: what runs there is as this run left it.
    """

    batches: list[list[str]]
    gateways: Mapping[str, Gateway]
    issuances: Issuances
    progress: Progress = field(default_factory=Progress)
    counted: dict[str, int] = field(default_factory=dict)  # issuances that were seen, by host
    generations: dict[str, str] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)  # moments by key

    @classmethod
    def plan(
        cls,
        members: Sequence[str],
        sizes: Sequence[int | str],
        gateways: Mapping[str, Gateway],
        share: bool,
        now: float,
    ) -> Rollout:
        """For `members`, the hosts to be switched; all hosts were read at `now` (seconds)."""
        issuances = distribute(members, gateways, share)
        result = cls(make_batches(members, sizes, issuances.first), gateways, issuances)
        for gateway in gateways.values():
            if gateway.asked is not None:
                result._note(gateway.key_fingerprint, now - gateway.asked)
        return result

    @property
    def members(self) -> list[str]:
        return [name for batch in self.batches for name in batch]

    @property
    def looping(self) -> list[str]:
        """The hosts whose gateway KIS refuses again and again."""
        return [name for name in self.members if self.gateways[name].loops]

    def has_asked(self, host: str, now: float) -> None:
        """To be told when a gateway of this host may just have asked KIS."""
        self._note(self.gateways[host].key_fingerprint, now)

    def has_issued(self, host: str, count: int) -> None:
        """To be told of what a switch of this host has counted."""
        self.counted[host] = self.counted.get(host, 0) + count

    def _note(self, key: str, moment: float) -> None:
        self._asked[key] = max(moment, self._asked.get(key, moment))

    def wait_for_kis(self, host: str, now: float) -> int:
        """Seconds for which KIS must be left alone with this host's key."""
        asked = self._asked.get(self.gateways[host].key_fingerprint)
        return wait_before(None if asked is None else now - asked)

    def budget(self, host: str) -> int:
        """How many issuances the host's switch may take: none if its token surely lasts."""
        gateway = self.gateways[host]
        has_one = host in self.issuances.donor_of or (gateway.has_token and not gateway.is_doubtful)
        return 0 if has_one else 1

    @property
    def count(self) -> str:
        """`issuances: 0 (budget 1)`, of the whole run."""
        budget = sum(self.budget(name) for name in self.members)
        return f"issuances: {sum(self.counted.values())} (budget {budget})"


SideBySide = Callable[[Sequence[str], Callable[[str], bool]], list[bool]]
"""Calls a function for each name at the same time; its results in the names' order."""


@dataclass
class Actions:
    """What a rollout has done on a host, each True if that succeeded.

    `switch` gets the batch's number, too, as `batch`. `look` answers what is wrong with a host
    that was switched, and `stop_reason` why no further batch may begin; empty if nothing is.
    """

    switch: Callable[..., bool]
    revert: Callable[[str], bool]
    stop: Callable[[str], bool]
    start: Callable[[str], bool]
    look: Callable[[str], str]
    say: Callable[[str], None]
    stop_reason: Callable[[], str]
    side_by_side: SideBySide


def roll_out(rollout: Rollout, revert: Literal["fleet", "host"], act: Actions) -> None:
    """Stops crash loops, switches batch by batch, looks at all of them, reverts if one failed.

    A batch begins only if every host of all earlier ones was switched, and there is no reason to
    stop. With `fleet`, hosts that were switched go back if another one fails.
    """
    progress = rollout.progress
    if why := act.stop_reason():
        _give_up(rollout, why, act)
    else:
        _each(rollout.looping, act.stop, progress, progress.stopped, "could not be stopped", act)
    for number, batch in enumerate(rollout.batches):
        if progress.failed:
            break
        if why := act.stop_reason():
            _give_up(rollout, why, act)
            break
        act.say(f"batch {number + 1} of {len(rollout.batches)}: {', '.join(batch)}")
        switch = partial(act.switch, batch=number)
        _each(batch, switch, progress, progress.switched, "was not switched", act)
    _look(progress, act)
    if progress.failed:
        who = ", ".join(progress.failed)
        if back := [name for name in progress.stopped if name not in progress.sent]:
            act.say(f"starting again what was stopped ({', '.join(back)}), because {who} failed")
            _each(back, act.start, progress, [], "is stopped and could not be started again", act)
        going_back = list(progress.switched)
        if revert == "fleet" and going_back:
            act.say(f"reverting {', '.join(going_back)}, because {who} failed")
            _each(going_back, act.revert, progress, progress.reverted, "was not reverted", act)


def _each(
    names: Sequence[str],
    do: Callable[[str], bool],
    progress: Progress,
    done: list[str],
    otherwise: str,
    act: Actions,
) -> None:
    for name, is_done in zip(names, act.side_by_side(names, do), strict=True):
        if is_done:
            done.append(name)
        else:
            progress.failed[name] = otherwise


def _give_up(rollout: Rollout, why: str, act: Actions) -> None:
    act.say(f"no further batch begins: {why}")
    for name in rollout.members:
        if name not in rollout.progress.switched:
            rollout.progress.failed[name] = f"was not switched: {why}"


def _look(progress: Progress, act: Actions) -> None:
    """One last look at every host: one may have gone down after its gate."""

    def look(name: str) -> bool:
        if why := act.look(name):
            wrong[name] = why
        return not why

    wrong: dict[str, str] = {}
    seen = zip(progress.switched, act.side_by_side(progress.switched, look), strict=True)
    unseen = [name for name, is_good in seen if not is_good and name not in wrong]
    progress.failed.update(wrong | dict.fromkeys(unseen, "could not be looked at"))

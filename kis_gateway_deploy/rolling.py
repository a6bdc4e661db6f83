"""A rollout: batch by batch, hosts of a batch side by side, and back again if one fails.

One function, run once; it asks hosts only through what it is given, so that it is tested without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

SideBySide = Callable[[Sequence[str], Callable[[str], bool]], list[bool]]
"""Calls a function for each name at the same time; its results in the names' order."""


@dataclass
class Progress:
    """How far a rollout came. `failed` says why, by host."""

    switched: list[str] = field(default_factory=list)
    reverted: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class Actions:
    """What a rollout has done on a host, each True if that succeeded.

    `look` answers what is wrong with a host that was switched; empty if nothing is.
    """

    switch: Callable[[str, int], bool]
    revert: Callable[[str], bool]
    stop: Callable[[str], bool]
    start: Callable[[str], bool]
    look: Callable[[str], str]
    say: Callable[[str], None]
    interrupted: Callable[[], str]
    side_by_side: SideBySide


def roll_out(
    batches: Sequence[Sequence[str]],
    looping: Sequence[str],
    revert: Literal["fleet", "host"],
    act: Actions,
) -> Progress:
    """Stops crash loops, switches batch by batch, looks at all of them, reverts if one failed.

    A batch begins only if every host of all earlier ones was switched, and nobody has interrupted
    the run. `looping`: hosts whose gateway KIS refuses again and again. With `fleet`, hosts that
    were switched go back when another one fails.
    """
    progress = Progress()
    _each(looping, act.stop, progress, progress.stopped, "could not be stopped", act)
    for number, batch in enumerate(batches):
        if progress.failed:
            break
        if act.interrupted():
            _give_up(batches, progress, act.interrupted())
            break
        act.say(f"batch {number + 1} of {len(batches)}: {', '.join(batch)}")
        switch = _of_batch(act.switch, number)
        _each(batch, switch, progress, progress.switched, "was not switched", act)
    _look(progress, act)
    if progress.failed:
        who = ", ".join(progress.failed)
        left = [name for name in progress.stopped if name not in progress.switched]
        if back := [name for name in left if name not in progress.failed]:
            act.say(f"starting again what was stopped ({', '.join(back)}), because {who} failed")
            act.side_by_side(back, act.start)
        going_back = list(progress.switched)
        if revert == "fleet" and going_back:
            act.say(f"reverting {', '.join(going_back)}, because {who} failed")
            _each(going_back, act.revert, progress, progress.reverted, "was not reverted", act)
    return progress


def _of_batch(switch: Callable[[str, int], bool], number: int) -> Callable[[str], bool]:
    return lambda name: switch(name, number)


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


def _give_up(batches: Sequence[Sequence[str]], progress: Progress, signal: str) -> None:
    for batch in batches:
        for name in batch:
            if name not in progress.switched:
                progress.failed[name] = f"was not switched: interrupted ({signal})"


def _look(progress: Progress, act: Actions) -> None:
    """One last look at every host: one may have gone down after its gate."""

    def look(name: str) -> bool:
        if why := act.look(name):
            wrong[name] = why
        return not why

    wrong: dict[str, str] = {}
    act.side_by_side(progress.switched, look)
    progress.failed.update(wrong)

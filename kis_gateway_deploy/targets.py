"""How the hosts of this run were found, what that takes, and how far the run has come."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from threading import Lock

from pyinfra import logger
from pyinfra.api.exceptions import ConnectError
from pyinfra.context import ctx_host, host, inventory

from kis_gateway_deploy.facts import read_host
from kis_gateway_deploy.fleet import fleet, no_digest, wanted
from kis_gateway_deploy.issuance import (
    WORTH_KEEPING,
    Gateway,
    gateway_of,
    most_divided_batches,
    mounted_token_left,
)
from kis_gateway_deploy.plans import (
    Plan,
    make_plan,
    old_directory,
    plan_without_python,
    refusals_to_run,
)
from kis_gateway_deploy.reading import Reading
from kis_gateway_deploy.registry import kept_digest
from kis_gateway_deploy.release import Release, make_release
from kis_gateway_deploy.remote import NoPythonError
from kis_gateway_deploy.rollout import Rollout, make_batches, most_batches
from kis_gateway_deploy.settings import Settings

CANNOT_READ = (
    "the host could not be read as root; its own words are above. If they are sudo's: let the "
    "SSH user use sudo without a password, or run with --use-sudo-password"
)
NO_PYTHON = "this host has no python3: deploy to it (make deploy), or install it"


@dataclass(frozen=True)
class Target:
    """One host: what is wanted of it, how it was found, and what that takes.

    `release_id` is what shall run in the end; `reading` is None where the host could not be read.
    """

    name: str
    settings: Settings
    release: Release
    release_id: str
    reading: Reading | None
    plan: Plan

    @property
    def key(self) -> str:
        """The fingerprint of the app key of what shall run."""
        found = self.reading.releases.get(self.release_id) if self.reading else ""
        return found or self.release.key


_targets: dict[str, Target] = {}


def seen(target: Target) -> str | None:
    """The generation of the host as this run knows it: what was read, or what it made of it."""
    reading = current(target).reading
    read = reading.state.generation if reading and reading.state else None
    return rollout().generations.get(target.name, read)


def survey(history: int = 0) -> Target:
    """Reads the host in context, once, and plans for the release that its settings ask for.

    `history`: how many lines of the host's history the reading holds.
    """
    settings, release = wanted(host.name)
    try:
        reading = read_host(host, history)
    except NoPythonError:
        plan = plan_without_python(settings, release)
        target = Target(host.name, settings, release, release.id, None, plan)
        return _targets.setdefault(host.name, target)
    refusals: list[str] = []
    missing = no_digest(settings)
    if reading and missing:
        kept = kept_digest(settings.image, reading.current_compose) if missing.silent else ""
        if kept:
            pinned = f"{settings.image}@{kept}"
            logger.warning(f"{host.print_prefix}{missing.why}; {pinned} runs here and is kept")
            release = make_release(settings, digest=kept)
            fleet()[host.name] = settings, release
            reading = read_host(host, history)  # of that release
        else:
            refusals = [str(missing)]
    if reading and not refusals:
        plan = make_plan(settings, release, reading)
    else:
        plan = Plan(refusals=refusals or [CANNOT_READ])
    target = Target(host.name, settings, release, release.id, reading, plan)
    return _targets.setdefault(host.name, target)


def survey_again() -> Target:
    """Reads the host in context once more, now that it has python3."""
    _targets.pop(host.name, None)
    return survey()


def current(target: Target) -> Target:
    """What is known now of the host of a target."""
    return _targets.get(target.name, target)


def survey_to_run(release_id: str | None, restart: bool = False) -> Target:
    """Reads the host in context and plans to run a release that is there already.

    `release_id`: None for the release that runs, empty for the one before it. `restart`: its
    container stays, with what it has mounted.
    """
    target = survey()
    reading = target.reading
    refusals = [] if reading else target.plan.refusals or [NO_PYTHON]
    if reading and release_id == "":
        release_id = reading.previous
        if not release_id:
            refusals = ["no release ran before this one, so there is none to go back to"]
    if reading and release_id and release_id not in reading.releases:
        there = ", ".join(reading.releases)
        refusals = [f"release {release_id} is not on this host; these are: {there}"]
    if reading and restart and (old := old_directory(target.settings, reading)):
        refusals = [f"{old}: a restart would keep that; re-create the container (make deploy)"]
    if reading:
        refusals = refusals_to_run(target.settings, reading) or refusals
    wanted_id = release_id or (reading.current if reading else None) or ""
    plan = Plan(
        refusals=refusals,
        switch=True,
        reasons=[f"release {wanted_id} is asked for"],
        warnings=target.plan.warnings,
    )
    _targets[host.name] = replace(target, release_id=wanted_id, plan=plan)
    return _targets[host.name]


def survey_to_take_down() -> Target:
    """Reads the host in context and plans to remove its container, whatever runs in it."""
    target = survey_to_run(release_id=None)
    plan = replace(target.plan, switch=False, reasons=["the container and its network are removed"])
    _targets[host.name] = replace(target, plan=plan)
    return _targets[host.name]


def surveyed() -> dict[str, Target | None]:
    """Every host of the run in the inventory's order; None for one that did not answer."""
    limit = inventory.state.limit_hosts
    return {each.name: _targets.get(each.name) for each in inventory if not limit or each in limit}


def mounted_elsewhere(name: str) -> bool:
    """Whether a token that lasts is in a directory that only the running container has mounted."""
    target = _targets.get(name)
    if target is None or target.reading is None:
        return False
    return mounted_token_left(target.reading, target.key) > WORTH_KEEPING


def all_are_read() -> bool:
    """Whether every host was read; one without python3 is read once that is installed."""
    return all(target is None or target.reading for target in surveyed().values())


def why_untouched(name: str) -> list[str]:
    """Why nothing may be touched on this host; to be asked when every host has been read.

    Its own refusals, or that another host was refused or not reached: all or none.
    """
    if own := _targets[name].plan.refusals:
        return own
    refused = {target.name for target in _targets.values() if target.plan.refusals}
    if others := sorted(refused | dropped_out()):
        return [f"not touched, because of {', '.join(others)} (see there)"]
    return []


def dropped_out() -> set[str]:
    """The hosts that were not reached or have failed so far."""
    return {each.name for each in inventory.state.failed_hosts}


@cache
def batch_count() -> int:
    """How many batches there can be, whichever hosts turn out to need a switch or a token."""
    names = list(surveyed())
    settings = wanted(names[0])[0]
    batches = most_batches(len(names), settings.rollout_batches)
    return most_divided_batches(batches, len(names), settings.rollout_share_token)


# Hosts run side by side, and the first that asks may have to read others.
_one_at_a_time = Lock()


def rollout() -> Rollout:
    """The batches of the hosts that have something to switch; to be asked when all are read."""
    with _one_at_a_time:
        return _rollout()


@cache
def _rollout() -> Rollout:
    members = [
        name
        for name, target in surveyed().items()
        if target and target.reading and target.plan.switch
    ]
    settings = next(iter(_targets.values())).settings
    gateways = {
        name: gateway_of(target.reading, target.key, target.settings.token_at_start)
        for name, target in _targets.items()
        if target.reading
    }
    share = settings.rollout_share_token
    if share:
        gateways |= _beyond_the_limit(members, gateways)
    return Rollout.plan(
        make_batches(members, settings.rollout_batches), gateways, share, time.monotonic()
    )


def _beyond_the_limit(
    members: Sequence[str], gateways: Mapping[str, Gateway]
) -> dict[str, Gateway]:
    """Hosts that `--limit` leaves out and that may have a token which one of the run lacks.

    They are read and give, and nothing is changed there.
    """
    lacking = {gateways[name].key for name in members if not gateways[name].has_token}
    lacking -= {gateway.key for gateway in gateways.values() if gateway.in_file > WORTH_KEEPING}
    found = {}
    of_this_run = surveyed()
    for each in inventory:
        _, release = wanted(each.name)
        if each.name in of_this_run or release.key not in lacking:
            continue
        with suppress(ConnectError), ctx_host.use(each):
            if reading := read_host(each):
                found[each.name] = gateway_of(reading, release.key)
    return found

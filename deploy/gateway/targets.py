"""What each host of the running pyinfra inventory shall become, and what was planned for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import click
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import host, inventory
from pyinfra_cli.exceptions import CliError

from deploy.gateway.plan import Plan, make_plan
from deploy.gateway.release import Release, make_release
from deploy.gateway.settings import Settings, SettingsError, validate_fleet

CANNOT_READ = (
    "the host could not be read as root; its own words are above. If they are sudo's: let the "
    "SSH user use sudo without a password, or run with --use-sudo-password"
)


class Refused(CliError, PyinfraError):  # type: ignore[misc]
    """Raised by a deploy file: ends the run with a message and exit status 1, no traceback.

    pyinfra lets a PyinfraError out of a deploy file as it is, and its command line shows a
    CliError as it is: it has to be both.
    """

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(f"{click.style('--> Refused:', 'red', bold=True)} {self.message}", err=True)


@dataclass(frozen=True)
class Target:
    """One host: what is wanted of it and what that takes."""

    name: str
    settings: Settings
    release: Release
    plan: Plan


_targets: dict[str, Target] = {}


@cache
def fleet() -> dict[str, tuple[Settings, Release]]:
    """Settings and release of every host of the inventory.

    Raises:
        Refused: something is wrong with any of them.
    """
    try:
        settings = validate_fleet({each.name: each.data.dict() for each in inventory})
    except SettingsError as error:
        raise Refused(str(error)) from None
    return {name: (each, make_release(each)) for name, each in settings.items()}


def wanted(name: str) -> tuple[Settings, Release]:
    return fleet()[name]


def survey() -> Target:
    """Reads the host in context, once, and plans for it."""
    from deploy.gateway.facts import HostReading

    settings, release = wanted(host.name)
    reading = host.get_fact(HostReading, _ignore_errors=True)
    plan = make_plan(settings, release, reading) if reading else Plan(refusals=[CANNOT_READ])
    return _targets.setdefault(host.name, Target(host.name, settings, release, plan))


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
    """The hosts that dropped out of the run so far."""
    return {each.name for each in inventory.state.failed_hosts}

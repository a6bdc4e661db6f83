"""The operations that only show what was read, or fail because of it."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING

import click
from pyinfra import logger
from pyinfra.api.operation import operation
from pyinfra.context import host, inventory, state

from kis_gateway_deploy import calls, display, overview
from kis_gateway_deploy.context import Commands, do, fail, say, target_of_host
from kis_gateway_deploy.runs import expect_confirmation, note_refusal, seconds_ago
from kis_gateway_deploy.session import ADOPTS, CANNOT_READ, Refused, Session, Target

if TYPE_CHECKING:
    from kis_gateway_deploy import adopting


@operation()
def show_status(as_json: bool) -> Commands:
    """Prints on standard output what was read of all hosts; to be run once, not on each."""
    if state.is_executing:
        hosts = _found(as_json)
        click.echo(overview.status_json(hosts) if as_json else overview.status_table(hosts))
    yield from ()


@operation()
def show_history(as_json: bool) -> Commands:
    """Prints on standard output the switches of all hosts; to be run once, not on each."""
    if state.is_executing:
        hosts = _found(as_json)
        click.echo(overview.history_json(hosts) if as_json else overview.history_table(hosts))
    yield from ()


@operation()
def show_logs() -> Commands:
    """Prints the gateway's log of the host in context on standard output."""
    session = Session.current()
    if not state.is_executing:
        return
    session.is_executed = True
    ago, follow = seconds_ago(), bool(host.data.get("follow"))
    yield do(lambda host: calls.logs(session, host, ago, follow))


def _found(as_json: bool) -> dict[str, overview.Found | str]:
    """What is known of every host of the run, or why nothing is."""
    session = Session.current()
    session.is_executed = True
    session.prints_json = as_json
    return {
        name: _found_of(target) if target else display.UNREACHABLE
        for name, target in session.surveyed().items()
    }


def _found_of(target: Target) -> overview.Found | str:
    if target.reading:
        is_desired = target.reading.current == target.release.id
        return overview.Found(target.settings, target.reading, target.plan, is_desired)
    return display.UNREADABLE if target.has_python else display.NO_PYTHON


@operation()
def show_plan() -> Commands:
    """Prints on standard output what `up` would change on all hosts; to be run once."""
    if state.is_executing:
        session = Session.current()
        session.is_executed = True
        targets = session.surveyed()
        coming: list[display.Coming] = []
        for name, target in targets.items():
            if not target or target.is_unreadable:
                coming.append("not read")
            else:
                is_blocked = bool(session.why_untouched(name))
                coming.append(display.coming(target.plan, target.reading, is_blocked))
            if target and not target.has_python:
                click.echo(display.without_python(name, target.plan))
            elif target and target.reading:
                click.echo(
                    display.host_plan(
                        name,
                        target.settings,
                        target.release,
                        target.reading,
                        target.plan,
                        session.why_untouched(name),
                        display.token_notes(name, session.rollout),
                    )
                )
            else:
                why = display.UNREADABLE if target else display.UNREACHABLE
                click.echo(display.not_read(name, why))
        has_steps = any(target and target.plan.steps for target in targets.values())
        if has_steps and (closed := session.closed_window()):
            click.secho(f"! {closed}: deploy refuses", fg="yellow")
        are_known = session.all_are_read() and "not read" not in coming
        issuers = session.rollout.issuances.issuers if are_known else None
        session.plan_count = display.plan_count(coming, issuers)
    yield from ()


@operation()
def expect(unblocked: bool = False, no_changes: bool = False) -> Commands:
    """Fails on a host that could not be read, is blocked, or would be changed."""
    session, target = Session.current(), target_of_host()
    if target.reading is None and target.has_python:
        yield fail(*(target.plan.refusals or [CANNOT_READ]))
    elif unblocked and state.is_executing and (problems := session.why_untouched(host.name)):
        session.untouched.add(host.name)
        yield fail(*(f"blocked: {problem}" for problem in problems))
    elif no_changes and (target.plan.steps or target.plan.findings):
        yield fail("the host has drifted (see above): run `make deploy`")


def describe() -> adopting.Described:
    """The container that host data `container` names, on the one host of this run.

    Raises Refused if the run has several hosts, or cannot write to the given path.
    """
    from kis_gateway_deploy import adopting  # only this verb needs it: 50 ms

    try:
        expect_confirmation("adopt")
        names = [each.name for each in state.limit_hosts or inventory]
        container, path = adopting.checked(host.data, names)
    except Refused:
        note_refusal("adopt")
        raise
    run, name = host.state, host.name
    setattr(run, ADOPTS, "failed")
    atexit.register(
        lambda: click.echo(display.last_line("adopt", {name: getattr(run, ADOPTS)}), err=not path)
    )
    return adopting.describe(host, container, path)


@operation()
def write_inventory(described: adopting.Described) -> Commands:
    """Writes the inventory and the files beside it, or prints it."""
    from kis_gateway_deploy import adopting

    if not state.is_executing:
        return
    if described.written is None:
        yield fail(*described.problems)
        return
    try:
        adopting.write_files(described.written, described.path)
    except OSError as error:
        yield fail(f"{error.filename} cannot be written: {error.strerror}")
        return
    setattr(host.state, ADOPTS, "read")
    if described.path is None:
        click.echo(described.written.inventory)
    for line in adopting.what_was_written(described):
        say(line)
    for note in described.written.notes:
        logger.warning(f"{host.print_prefix}{click.style(f'to decide: {note}', 'yellow')}")

"""The operations: each executes one step of a plan. The verbs choose those that a host needs."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Generator
from functools import cache, partial
from typing import Any

import click
from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.context import host, state
from pyinfra.operations import files

from kis_gateway_deploy import calls, display, requests
from kis_gateway_deploy.remote import Script
from kis_gateway_deploy.targets import (
    CANNOT_READ,
    Target,
    all_are_read,
    current,
    dropped_out,
    rollout,
    survey_again,
    surveyed,
    why_untouched,
)

Commands = Generator[PyinfraCommand, None, None]


def _fail(*messages: str) -> PyinfraCommand:
    """Fails the operation on the host in context, with these lines, and asks the host nothing.

    An exception would end the run as well, but gevent prints its traceback.
    """

    def fail(host: Host) -> bool:
        for message in messages:
            logger.error(f"{host.print_prefix}{click.style(message, 'red')}")
        return False

    return _do(fail)


def _do(act: Callable[[Host], bool]) -> PyinfraCommand:
    """Fails the operation on the host in context if `act` returns False."""

    def run(state: Any, host: Any) -> bool:  # noqa: ARG001 - how pyinfra passes the host
        return act(host)

    return FunctionCommand(run, (), {})


def _failed() -> str:
    return ", ".join(sorted(dropped_out()))


@cache
def _count_at_the_end() -> None:
    """The run ends, however it does, with a line such as `issuances: 0 (budget 0)`.

    When this process ends: pyinfra goes no further where no host is left.
    """
    atexit.register(lambda: logger.info(rollout().count))


def _say(message: str) -> None:
    logger.info(f"{host.print_prefix}{message}")


@operation()
def check(target: Target) -> Commands:
    """Says what is about to change. Fails on every host where any of them cannot be deployed to.

    It is the last moment at which nothing is touched anywhere.
    """
    if not state.is_executing:
        return
    if problems := why_untouched(target.name):
        yield _fail(*problems)
    else:
        for warning in [*target.plan.findings, *target.plan.warnings]:
            logger.warning(f"{host.print_prefix}{click.style(warning, 'yellow')}")
        if all_are_read():
            for note in display.token_notes(target.name, rollout()):
                _say(note)
        for reason in target.plan.reasons:
            _say(reason)


@operation()
def bootstrap(target: Target) -> Commands:  # noqa: ARG001 - as the others
    """Installs python3 and reads the host; fails if it then turns out that it is refused."""
    yield Script(requests.bootstrap_script(engine=False, packages=("python3",)))
    plan = survey_again().plan
    for reason in plan.reasons:
        _say(reason)
    if plan.refusals:
        yield _fail(*plan.refusals)


@operation()
def install_engine(target: Target) -> Commands:
    """Docker from the distribution's packages, compose v2, and a running engine."""
    target = current(target)
    if not target.plan.install_engine:
        return
    if target.plan.put_compose_plugin:
        yield from files.put._inner(
            src=str(requests.compose_binary()),
            dest=requests.COMPOSE_PLUGIN,
            mode="755",
            create_remote_dir=True,
        )
    yield Script(requests.bootstrap_script(engine=True, packages=target.plan.packages))


@operation()
def fetch_images(target: Target) -> Commands:
    """Pulls, builds or loads the images that the host lacks."""
    target = current(target)
    for image in target.plan.images:
        yield _do(partial(calls.fetch, target=target, image=image))


@operation()
def start_simulator(target: Target) -> Commands:
    """The KIS simulator, for an inventory that tries the gateway without an account."""
    if current(target).plan.start_simulator:
        yield _do(calls.start_simulator)


@operation()
def prepare(target: Target) -> Commands:
    """Puts release and token directory in order. Nothing in it is removed or emptied."""
    target = current(target)
    if target.plan.prepares:
        yield _do(lambda host: calls.prepare(host, target))


@operation()
def stop_loop(target: Target) -> Commands:
    """Stops a gateway that KIS refuses again and again: it would spoil the minute of another."""
    _count_at_the_end()
    if state.is_executing and not dropped_out() and target.name in rollout().looping:
        _say("crash loop (EGW00133) detected: stopping the gateway")
        yield _do(lambda host: calls.switch(host, target, "stop", None, None, 0))


@operation()
def switch(target: Target, batch: int, action: str = "up") -> Commands:
    """Makes a prepared release the running one behind the health gate, if it is its batch's turn.

    It begins only when no host has failed, and when every host of the batches before is switched.
    """
    if not state.is_executing:
        yield StringCommand("true")  # counts as a change in a dry run, where nothing runs
        return
    progress = rollout()
    if dropped_out() or not progress.is_turn_of(target.name, batch):
        return
    _say(f"batch {batch + 1} of {len(progress.batches)}: {', '.join(progress.batches[batch])}")
    source = progress.issuances.given.get(target.name)
    yield _do(lambda host: calls.switch(host, target, action, target.release_id, source, batch))
    progress.switched.append(target.name)  # reached only where the command succeeded


@operation()
def revert(target: Target) -> Commands:
    """Takes a host that was switched back to what it ran, if a later batch has failed."""
    if not state.is_executing or not dropped_out():
        return
    if target.name not in rollout().switched:
        if target.name in rollout().looping and target.name in rollout().generations:
            _say(f"what was stopped here is started again, because {_failed()} failed")
            yield _do(lambda host: calls.switch(host, target, "start", None, None, 0))
        return
    target = current(target)
    before = target.reading.current if target.reading else None
    if target.settings.rollout_revert == "fleet" and before != target.release_id:
        _say(f"reverting, because {_failed()} failed")
        yield _do(lambda host: calls.switch(host, target, "revert", before, None, 0))


@operation()
def report(target: Target) -> Commands:
    """Says how it ended and where the gateway listens. Changes nothing."""
    _count_at_the_end()
    if not state.is_executing:
        return
    if dropped_out() and target.plan.switch:
        kept = target.name in rollout().switched and target.settings.rollout_revert == "host"
        outcome = "was switched and kept" if kept else "runs what it ran before"
        _say(f"{outcome}; {_failed()} failed (see above)")
    elif target.name in rollout().unfinished:
        yield _fail("was not switched for an unknown reason; please report this as a bug")
    else:
        for line in where_it_listens(current(target)):
            _say(line)


@operation()
def down(target: Target) -> Commands:
    """Removes container and network; the token directory and the releases stay."""
    yield _do(lambda host: calls.change(host, target, "down", None).is_good)
    _say(f"The token stays in {target.settings.token_path}, the releases in the app directory.")


def where_it_listens(target: Target) -> list[str]:
    settings = target.settings
    url = f"http://{settings.bind_address}:{settings.published_port}"
    lines = [
        f"The gateway listens on {url}, release {target.release_id}.",
        _where_its_token_is(target),
    ]
    if settings.simulator:
        query = "FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=005930"
        path = "/uapi/domestic-stock/v1/quotations/inquire-price"
        lines += [
            "A price from the simulator, through the gateway:",
            f"  curl -H 'tr_id: FHKST01010100' '{url}{path}?{query}'",
        ]
    return lines


def _where_its_token_is(target: Target) -> str:
    """What is known of the token: by the reading, or because a switch has just passed its gate."""
    settings, reading = target.settings, target.reading
    if not target.plan.switch and reading:
        return f"{settings.token_path}: {display.token_state(reading)}."
    if settings.token_at_start:
        return f"Its token is in {settings.token_path} and outlives the container."
    return f"It will keep its token in {settings.token_path}, where that outlives the container."


@operation()
def show_status(as_json: bool) -> Commands:
    """Prints on standard output what was read of all hosts; to be run once, not on each."""
    if state.is_executing:
        hosts = {
            name: (target.reading or _why_not_read(target)) if target else display.UNREACHABLE
            for name, target in surveyed().items()
        }
        click.echo(display.status_json(hosts) if as_json else display.status_table(hosts))
    yield from ()


def _why_not_read(target: Target) -> str:
    return display.NO_PYTHON if target.plan.bootstrap else display.UNREADABLE


@operation()
def show_plan(verb: str) -> Commands:
    """Prints on standard output what `up` would change on all hosts; to be run once."""
    if state.is_executing:
        targets = surveyed()
        for name, target in targets.items():
            if target and target.plan.bootstrap:
                click.echo(display.without_python(name, target.plan))
            elif target and target.reading:
                click.echo(
                    display.host_plan(
                        name,
                        target.settings,
                        target.release,
                        target.reading,
                        target.plan,
                        why_untouched(name),
                        display.token_notes(name, rollout()),
                    )
                )
            else:
                why = display.UNREADABLE if target else display.UNREACHABLE
                click.echo(display.not_read(name, why))
        if all_are_read():
            click.echo(display.budget(rollout().issuances.asks))
        blocked = [name for name, target in targets.items() if not target or why_untouched(name)]
        click.echo(display.summary(verb, {n: t.plan for n, t in targets.items() if t}, blocked))
    yield from ()


@operation()
def expect(target: Target, unblocked: bool = False, no_changes: bool = False) -> Commands:
    """Fails on a host that could not be read, is blocked, or would be changed."""
    if target.reading is None and not target.plan.bootstrap:
        yield _fail(*(target.plan.refusals or [CANNOT_READ]))
    elif unblocked and state.is_executing and (problems := why_untouched(target.name)):
        yield _fail(*(f"blocked: {problem}" for problem in problems))
    elif no_changes and (target.plan.reasons or target.plan.findings):
        yield _fail("the host has drifted (see above): run `make deploy`")

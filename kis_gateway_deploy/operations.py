"""The operations that change a host: each executes one step of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import click
from gevent.pool import Group
from pyinfra import logger
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state
from pyinfra.operations import files

from kis_gateway_deploy import calls, display, requests
from kis_gateway_deploy.context import Commands, do, fail, say, target_of_host
from kis_gateway_deploy.host.client import authority
from kis_gateway_deploy.remote import Script
from kis_gateway_deploy.rollout import Actions
from kis_gateway_deploy.rollout import roll_out as roll_out_in_batches
from kis_gateway_deploy.session import Session, Target

STILL_NO_PYTHON = (
    "the distribution says that python3 is installed, but there is no such program: run "
    "`apt-get install --reinstall python3-minimal` on the host, then deploy again"
)


@operation()
def check() -> Commands:
    """Says what is about to change. Fails on every host if any of them cannot be deployed to.

    It is the last moment at which nothing is touched anywhere.
    """
    if not state.is_executing:
        return
    session = Session.current()
    session.is_executed = True
    target = session.targets[host.name]
    if problems := session.why_untouched(host.name):
        session.untouched.add(host.name)
        yield fail(*problems)
    else:
        for warning in [*target.plan.findings, *target.plan.warnings]:
            logger.warning(f"{host.print_prefix}{click.style(warning, 'yellow')}")
        if not session.says_steps:
            session.says_steps = True
            for line in _steps_of_all(session):
                logger.info(line)


def _steps_of_all(session: Session) -> list[str]:
    """What is about to be done, and where; hosts with the same steps share a line."""
    groups: dict[str, list[str]] = {}
    for name, target in session.surveyed().items():
        if target and target.plan.steps:
            notes = display.token_notes(name, session.rollout) if session.all_are_read() else []
            said = "; ".join(step.reason for step in target.plan.steps)
            groups.setdefault(" ".join([f"{said}.", *notes]), []).append(name)
    return [
        f"[{click.style(', '.join(names), bold=True)}] {said}" for said, names in groups.items()
    ]


@operation()
def bootstrap() -> Commands:
    """Installs python3 and reads the host; fails if it then turns out that it is refused."""
    with calls.named(host, "installing python3"):
        yield Script(requests.bootstrap_script(engine=False, packages=("python3",)))
    target = Session.current().read(host)
    if not target.has_python:
        yield fail(STILL_NO_PYTHON)
        return
    for step in target.plan.steps:
        say(step.reason)
    if target.plan.refusals:
        Session.current().failed[host.name] = "; ".join(target.plan.refusals)  # it was touched
        yield fail(*target.plan.refusals)


@operation()
def install_engine() -> Commands:
    """Docker from the distribution's packages, compose v2, and a running engine."""
    plan = target_of_host().plan
    if not plan.does("engine"):
        return
    if plan.put_compose_plugin:
        yield from files.put._inner(
            src=str(requests.compose_binary()),
            dest=requests.COMPOSE_PLUGIN,
            mode="755",
            create_remote_dir=True,
        )
    what = f"installing {', '.join(plan.packages)}" if plan.packages else "starting Docker"
    with calls.named(host, what):
        yield Script(requests.bootstrap_script(engine=True, packages=plan.packages))


@operation()
def fetch_images() -> Commands:
    """Pulls, builds or loads the images that the host lacks."""
    session, target = Session.current(), target_of_host()
    for image in target.plan.images:
        yield do(partial(calls.fetch, session, target=target, image=image))


@operation()
def start_simulator() -> Commands:
    """The KIS simulator, for an inventory that tries the gateway without an account."""
    if target_of_host().plan.does("simulator"):
        yield do(partial(calls.start_simulator, Session.current()))


@operation()
def prepare() -> Commands:
    """Puts release and token directory in order. Nothing in it is removed or emptied."""
    target = target_of_host()
    if target.plan.does("tokens", "release"):
        yield do(partial(calls.prepare, Session.current(), target=target))


@operation()
def roll_out(action: str) -> Commands:
    """Switches the hosts, batch by batch; to be run once. `action`: as of `host/switch.py`.

    It fails on no host: pyinfra would count that against the one that it runs on. `report` does.
    """
    if not state.is_executing:
        if target_of_host().plan.does("switch"):
            yield StringCommand("true")  # counts as a change in a dry run, where nothing runs
        return
    session = Session.current()
    session.counts_issuances = session.is_executed = True
    # A host that got python3 in this run could not be refused before.
    late = {name: why for name in session.names if (why := session.late_refusal(name))}
    session.failed |= late
    if session.rollout.batches and not session.dropped_out():
        yield do(lambda _: _roll_out(session, action))


def _roll_out(session: Session, action: str) -> bool:
    rollout = session.rollout

    def switch(name: str, batch: int) -> bool:
        release = session.targets[name].release_id
        result = calls.switch(session, name, action, release, batch)
        if result.may_have_begun:
            rollout.progress.sent.add(name)
        return result.is_good

    def revert(name: str) -> bool:
        before = session.ran_before(name)
        if before == session.targets[name].release_id:
            return True  # it ran that before, too
        return calls.switch(session, name, "revert", before).is_good

    act = Actions(
        switch=switch,
        revert=revert,
        stop=lambda name: calls.switch(session, name, "stop", None).is_good,
        start=lambda name: calls.switch(session, name, "start", None).is_good,
        look=session.look_at,
        say=lambda text: logger.info(f"    {text}"),
        stop_reason=session.stop_reason,
        side_by_side=_side_by_side,
    )
    for name in rollout.looping:
        prefix = session.inventory.get_host(name).print_prefix
        logger.info(f"{prefix}crash loop (EGW00133) detected: stopping the gateway")
    revert_what = session.targets[next(iter(session.targets))].settings.rollout_revert
    session.is_rolling_out = True
    try:
        roll_out_in_batches(rollout, revert_what, act)
    finally:
        session.is_rolling_out = False
    session.failed |= rollout.progress.failed
    return True


def _side_by_side(names: Sequence[str], do: Callable[[str], bool]) -> list[bool]:
    def safely(name: str) -> bool:
        """An exception of one host must not end the rollout before the others are looked after."""
        try:
            return do(name)
        except Exception as error:
            logger.error(
                f"    [{name}] unexpected {type(error).__name__}; please report this as a bug"
            )
            return False

    return list(Group().imap(safely, names))


@operation()
def report() -> Commands:
    """Says how it ended and where the gateway listens; fails on a host that failed."""
    session = Session.current()
    session.counts_issuances = True
    if not state.is_executing:
        return
    session.is_executed = True
    target, failed = target_of_host(), session.dropped_out()
    if host.name in session.failed:
        yield fail(session.failed[host.name])
    elif failed and target.plan.does("switch"):
        progress = session.rollout.progress
        kept = host.name in progress.switched and host.name not in progress.reverted
        outcome = "was switched and kept" if kept else "runs what it ran before"
        say(f"{outcome}; {', '.join(sorted(failed))} failed")
    elif host.name in {*session.rollout.members} - {*session.rollout.progress.switched}:
        yield fail("was not switched for an unknown reason; please report this as a bug")
    elif wrong := _what_a_client_misses(target):
        yield fail(wrong)
    elif session.interrupted:
        yield fail(f"interrupted ({session.interrupted}), after its switch was complete")
    elif len(session.names) == 1:
        for line in where_it_listens(target):
            say(line)


@operation()
def down() -> Commands:
    """Removes container and network; the token directory and the releases stay."""
    session, settings = Session.current(), target_of_host().settings
    if not target_of_host().plan.does("down"):
        return
    yield do(lambda host: calls.change(session, host.name, "down", None).is_good)
    if not state.is_executing:
        return
    session.is_executed = True
    say(f"The token stays in {settings.token_path}, the releases in the app directory.")


def _what_a_client_misses(target: Target) -> str:
    """What is wrong for a client on a host that was only read; empty if nothing is."""
    reading = target.reading
    if target.plan.does("switch") or not reading or not reading.client_sees:
        return ""
    if reading.client_sees.is_good:
        return ""
    path = target.settings.health_path
    return f"the desired release runs, but a client that asks {path} gets: {reading.client_sees}"


def where_it_listens(target: Target) -> list[str]:
    """For a first deploy, and for a host on which nothing was changed; else the summary says it."""
    settings = target.settings
    is_first = target.reading is None or target.reading.current is None
    if target.plan.does("switch") and not is_first:
        return []
    url = f"http://{authority(settings.client_address, settings.published_port)}"
    lines = [
        f"The gateway listens on {display.listening_address(settings)}, "
        f"release {target.release_id}.",
        _where_its_token_is(target),
    ]
    if settings.simulator and is_first:
        query = "FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=005930"
        path = "/uapi/domestic-stock/v1/quotations/inquire-price"
        lines.append(f"A price: curl -H 'tr_id: FHKST01010100' '{url}{path}?{query}'")
    return lines


def _where_its_token_is(target: Target) -> str:
    """What is known of the token: by the reading, or because a switch has just passed its gate."""
    settings, reading = target.settings, target.reading
    if not target.plan.does("switch") and reading:
        return f"{settings.token_path}: {display.token_state(reading)}."
    if settings.token_store == "external":
        return (
            "It keeps its token elsewhere (gateway_token_store), so its issuances are not counted."
        )
    if settings.token_at_start:
        return f"Its token is in {settings.token_path} and outlives the container."
    return f"It will keep its token in {settings.token_path}, where that outlives the container."

"""The operations: each executes one step of a plan. The verbs choose those that a host needs."""

from __future__ import annotations

import atexit
import os
import shlex
import sys
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import pyinfra
from gevent.pool import Group
from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.context import host, inventory, state
from pyinfra.operations import files

from kis_gateway_deploy import calls, display, ending, hook, overview, requests
from kis_gateway_deploy.host.containers import authority
from kis_gateway_deploy.remote import Script
from kis_gateway_deploy.rollout import Actions
from kis_gateway_deploy.rollout import roll_out as roll_out_in_batches
from kis_gateway_deploy.session import ADOPTS, CANNOT_READ, REFUSED, Refused, Session, Target

if TYPE_CHECKING:
    from kis_gateway_deploy import adopting

Commands = Generator[PyinfraCommand, None, None]

STILL_NO_PYTHON = (
    "the distribution says that python3 is installed, but there is no such program: run "
    "`apt-get install --reinstall python3-minimal` on the host, then deploy again"
)
DEFAULT_INVENTORY = "inventory/local.py"  # of the Makefile


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


def begin(verb: str) -> Session | None:
    """This run's session; None if the host in context takes no part in it.

    The run's last line says how it ended. It is printed when this process ends: pyinfra goes no
    further if no host is left.
    """
    try:
        _expect_confirmation(verb)
        if verb == "logs":
            _seconds_ago()
        session = Session.current()
        session.begin(verb, host.name)
    except Refused:
        _note_refusal(verb)
        raise
    if session.names and not session.is_concluded:
        session.is_concluded = True
        atexit.register(tell, session)  # after the last line: the last that was registered is first
        atexit.register(_conclude, session)
    return session if session.takes_part(host) else None


def _note_refusal(verb: str) -> None:
    if not hasattr(state, REFUSED):
        setattr(state, REFUSED, True)
        words: dict[str, display.Word] = {each.name: "blocked" for each in inventory}
        line, is_json = display.last_line(verb, words), bool(host.data.get("json"))
        atexit.register(partial(click.echo, line, err=is_json))


def _expect_confirmation(verb: str) -> None:
    """pyinfra asks before it executes anything, and ends with a traceback if nobody can answer."""
    flags = {*sys.argv} if pyinfra.is_cli else set()
    if "--dry" in flags and verb in {"plan", "drift", "status", "history", "logs", "adopt"}:
        raise Refused(f"no host was touched: {verb} changes nothing: leave --dry out")
    asks = pyinfra.is_cli and state.check_for_changes and not {"--dry", "--json"} & flags
    if asks and not sys.stdin.isatty():
        raise Refused("no host was touched: there is no terminal to confirm on: add -y")


def _seconds_ago() -> float:
    """Host data `since` of the host in context. Raises Refused."""
    try:
        return requests.seconds_ago(host.data.get("since", "10m"), time.time())
    except ValueError as error:
        raise Refused(f"no host was asked: {error}") from None


def _conclude(session: Session) -> None:
    if hasattr(session.state, REFUSED):
        return  # another last line says so
    if not _has_run(session):
        click.echo(f"{session.verb}: not executed")  # a dry run, or not confirmed
        return
    for line in _ending(session):
        click.echo(f"    {line}", err=True)
    if session.counts_issuances and not session.not_read():
        logger.info(session.rollout.count)
    if session.plan_count:
        click.echo(session.plan_count)
    click.echo(display.last_line(session.verb, session.words()), err=session.prints_json)
    if session.verb == "logs" and session.exit_status:
        # paramiko prints a traceback if what reads from a host is there when the interpreter ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(session.exit_status)


def _ending(session: Session) -> list[str]:
    """What became of the hosts of a run that may change them."""
    if session.verb not in hook.VERBS:
        return []
    hosts, seconds = session.endings(), time.monotonic() - session.began
    commands = [_command(session, verb) for verb in ("rollback", session.verb, "status")]
    lines = ending.summary(session.verb, hosts, seconds, commands[0])
    return [*lines, *ending.failure(hosts, *commands[1:])]


def _command(session: Session, verb: str) -> str:
    """The words that start a verb on the hosts of this run."""
    words = ["make", {"up": "deploy"}.get(verb, verb)]
    inventory_file = sys.argv[-2] if pyinfra.is_cli and sys.argv[-1].startswith("deploy/") else ""
    if inventory_file not in {"", DEFAULT_INVENTORY}:
        words.append(f"INVENTORY={inventory_file}")
    if session.state.limit_hosts:
        words.append(f"LIMIT={','.join(session.names)}")
    return shlex.join(words)


def tell(session: Session) -> None:
    """Runs `rollout_after` if this run may have changed something, or was meant to."""
    command = next(iter(session.desired.values()))[0].rollout_after
    if command is None or session.verb not in hook.VERBS or not _has_run(session):
        return
    seconds = time.monotonic() - session.began
    author, status = requests.author(), session.exit_status
    document = hook.document(session.verb, author, seconds, session.ends(), status)
    if why := hook.tell(command, document):
        click.secho(f"rollout_after: {why}", fg="red", err=True)


def _has_run(session: Session) -> bool:
    """False for a dry run, and for one that was not confirmed."""
    return bool(session.is_executed or session.interrupted or session.dropped_out())


def _say(message: str) -> None:
    logger.info(f"{host.print_prefix}{message}")


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
        yield _fail(*problems)
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
        yield _fail(STILL_NO_PYTHON)
        return
    for step in target.plan.steps:
        _say(step.reason)
    if target.plan.refusals:
        yield _fail(*target.plan.refusals)


def _target() -> Target:
    """What is known now of the host in context."""
    return Session.current().targets[host.name]


@operation()
def install_engine() -> Commands:
    """Docker from the distribution's packages, compose v2, and a running engine."""
    plan = _target().plan
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
    session, target = Session.current(), _target()
    for image in target.plan.images:
        yield _do(partial(calls.fetch, session, target=target, image=image))


@operation()
def start_simulator() -> Commands:
    """The KIS simulator, for an inventory that tries the gateway without an account."""
    if _target().plan.does("simulator"):
        yield _do(partial(calls.start_simulator, Session.current()))


@operation()
def prepare() -> Commands:
    """Puts release and token directory in order. Nothing in it is removed or emptied."""
    target = _target()
    if target.plan.does("tokens", "release"):
        yield _do(partial(calls.prepare, Session.current(), target=target))


@operation()
def roll_out(action: str) -> Commands:
    """Switches the hosts, batch by batch; to be run once. `action`: as of `host/switch.py`.

    It fails on no host: pyinfra would count that against the one that it runs on. `report` does.
    """
    if not state.is_executing:
        if _target().plan.does("switch"):
            yield StringCommand("true")  # counts as a change in a dry run, where nothing runs
        return
    session = Session.current()
    session.counts_issuances = session.is_executed = True
    # A host that got python3 in this run could not be refused before.
    late = {name: why for name in session.names if (why := session.late_refusal(name))}
    session.failed |= late
    if session.rollout.batches and not session.dropped_out():
        yield _do(lambda _: _roll_out(session, action))


def _roll_out(session: Session, action: str) -> bool:
    rollout = session.rollout

    def switch(name: str, batch: int) -> bool:
        release = session.targets[name].release_id
        result = calls.switch(session, name, action, release, batch)
        if result.may_have_begun:
            rollout.progress.sent.add(name)
        return result.is_good

    def revert(name: str) -> bool:
        target = session.targets[name]
        before = target.reading.current if target.reading else None
        if before == target.release_id:
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
    target, failed = _target(), session.dropped_out()
    if host.name in session.failed:
        yield _fail(session.failed[host.name])
    elif failed and target.plan.does("switch"):
        progress = session.rollout.progress
        kept = host.name in progress.switched and host.name not in progress.reverted
        outcome = "was switched and kept" if kept else "runs what it ran before"
        _say(f"{outcome}; {', '.join(sorted(failed))} failed")
    elif host.name in {*session.rollout.members} - {*session.rollout.progress.switched}:
        yield _fail("was not switched for an unknown reason; please report this as a bug")
    elif wrong := _what_a_client_misses(target):
        yield _fail(wrong)
    elif session.interrupted:
        yield _fail(f"interrupted ({session.interrupted}), after its switch was complete")
    elif len(session.names) == 1:
        for line in where_it_listens(target):
            _say(line)


@operation()
def down() -> Commands:
    """Removes container and network; the token directory and the releases stay."""
    session, settings = Session.current(), _target().settings
    if not _target().plan.does("down"):
        return
    yield _do(lambda host: calls.change(session, host.name, "down", None).is_good)
    if not state.is_executing:
        return
    session.is_executed = True
    _say(f"The token stays in {settings.token_path}, the releases in the app directory.")


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
    ago, follow = _seconds_ago(), bool(host.data.get("follow"))
    yield _do(lambda host: calls.logs(session, host, ago, follow))


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
        return overview.Found(target.settings, target.reading, target.plan)
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
    session, target = Session.current(), _target()
    if target.reading is None and target.has_python:
        yield _fail(*(target.plan.refusals or [CANNOT_READ]))
    elif unblocked and state.is_executing and (problems := session.why_untouched(host.name)):
        session.untouched.add(host.name)
        yield _fail(*(f"blocked: {problem}" for problem in problems))
    elif no_changes and (target.plan.steps or target.plan.findings):
        yield _fail("the host has drifted (see above): run `make deploy`")


def describe() -> adopting.Described:
    """The container that host data `container` names, on the one host of this run.

    Raises Refused if the run has several hosts, or cannot write where it shall.
    """
    from kis_gateway_deploy import adopting  # only this verb needs it: 50 ms

    try:
        _expect_confirmation("adopt")
        names = [each.name for each in state.limit_hosts or inventory]
        container, path = adopting.checked(host.data, names)
    except Refused:
        _note_refusal("adopt")
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
        yield _fail(*described.problems)
        return
    try:
        adopting.write_files(described.written, described.path)
    except OSError as error:
        yield _fail(f"{error.filename} cannot be written: {error.strerror}")
        return
    setattr(host.state, ADOPTS, "read")
    if described.path is None:
        click.echo(described.written.inventory)
    for line in adopting.what_was_written(described):
        _say(line)
    for note in described.written.notes:
        logger.warning(f"{host.print_prefix}{click.style(f'to decide: {note}', 'yellow')}")

"""How the run of a verb begins and ends: confirmation, last line, summary, `rollout_after`."""

from __future__ import annotations

import atexit
import os
import re
import shlex
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, Signals, getsignal, signal

import click
import pyinfra
from pyinfra import logger
from pyinfra.context import host, inventory, state

from kis_gateway_deploy import display, ending, hook, requests
from kis_gateway_deploy.outcomes import NO_GATE, Switches
from kis_gateway_deploy.session import READING_VERBS, REFUSED, Refused, Session

EXIT_BY_SIGNAL = 128  # as shells report a process that a signal ended
DEFAULT_INVENTORY = "inventory/local.py"  # of the Makefile


def begin(verb: str) -> Session | None:
    """This run's session; None if the host in context takes no part in it.

    The run's last line says how it ended. It is printed when this process ends: pyinfra goes no
    further if no host is left.
    """
    try:
        expect_confirmation(verb)
        if verb == "logs":
            seconds_ago()
        session = Session.current()
        session.begin(verb, host.name)
    except Refused:
        note_refusal(verb)
        raise
    if session.names and not session.is_concluded:
        session.is_concluded = True
        handle_signals(session)
        atexit.register(tell, session)  # after the last line: the last that was registered is first
        atexit.register(_conclude, session)
    return session if session.takes_part(host) else None


def handle_signals(session: Session) -> None:
    """A signal ends the run with a status that is not 0; pyinfra exits with 0 after SIGINT.

    During a rollout it is only noted: no new switch begins, those under way are waited for.
    """

    def handle(number: int, _: object) -> None:
        name = Signals(number).name
        session.interrupted = name
        if session.is_rolling_out:
            logger.error(f"{name}: no new switch begins; those under way are waited for")
            return
        changes = session.verb in hook.VERBS
        what = "; what has begun on a host ends there" if changes else ""
        logger.error(f"{name}: interrupted{what}")
        if session.verb == "logs":
            # pyinfra disconnects in the same pool, when what follows a log has left it.
            session.state.pool.kill(block=False)
        session.exit_status = EXIT_BY_SIGNAL + number
        raise SystemExit(session.exit_status)

    if not pyinfra.is_cli:
        return  # the program that uses this library handles its signals itself
    for each in (SIGINT, SIGTERM, SIGHUP):
        if getsignal(each) != SIG_IGN:  # nohup
            # Not gevent's handlers: the one for SIGINT comes after Python's own has raised.
            signal(each, handle)


def note_refusal(verb: str) -> None:
    if not hasattr(state, REFUSED):
        setattr(state, REFUSED, True)
        words: dict[str, display.Word] = {each.name: "blocked" for each in inventory}
        line, is_json = display.last_line(verb, words), bool(host.data.get("json"))
        atexit.register(partial(click.echo, line, err=is_json))


def expect_confirmation(verb: str) -> None:
    """pyinfra asks before it executes anything, and ends with a traceback if nobody can answer."""
    flags = {*sys.argv} if pyinfra.is_cli else set()
    if "--dry" in flags and verb in {"plan", "drift", "status", "history", "logs", "adopt"}:
        raise Refused(f"no host was touched: {verb} changes nothing: leave --dry out")
    asks = pyinfra.is_cli and state.check_for_changes and not {"--dry", "--json"} & flags
    if asks and not sys.stdin.isatty():
        raise Refused("no host was touched: there is no terminal to confirm on: add -y")


def seconds_ago() -> float:
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
    click.echo(display.last_line(session.verb, words(session)), err=session.prints_json)
    if session.verb == "logs" and session.exit_status:
        # paramiko prints a traceback if what reads from a host is there when the interpreter ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(session.exit_status)


def _ending(session: Session) -> list[str]:
    """What became of the hosts of a run that may change them."""
    if session.verb not in hook.VERBS:
        return []
    hosts, seconds = _endings(session), time.monotonic() - session.began
    commands = [_command(session, verb) for verb in ("rollback", session.verb, "status")]
    lines = ending.summary(session.verb, hosts, seconds, commands[0])
    return [*lines, *ending.failure(hosts, *commands[1:])]


def words(session: Session) -> dict[str, display.Word]:
    """How each host of the run stands at its end."""
    return {name: _word(session, name) for name in session.names}


def _word(session: Session, name: str) -> display.Word:
    if session.verb == "logs":
        return "failed" if name in session.dropped_out() or not session.is_executed else "read"
    target = session.targets.get(name)
    if target is None or name in session.failed or target.is_unreadable:
        return "failed"
    if session.verb in {"status", "history"}:
        return "failed" if name in session.dropped_out() else "read"
    plan = target.plan
    if session.interrupted and plan.steps and session.verb not in READING_VERBS:
        return "failed"
    if plan.refusals or name in session.untouched:
        return "blocked"
    if session.verb == "drift" and (plan.steps or plan.findings):
        return "drifted"
    if name in session.dropped_out():
        return "failed"
    return "changes" if plan.steps else "drifted" if plan.findings else "up to date"


def ends(session: Session) -> list[hook.End]:
    """The same, with what ran before, what runs now, and why a host failed or was blocked."""
    return [_end(session, name, word) for name, word in words(session).items()]


def _end(session: Session, name: str, word: display.Word) -> hook.End:
    switches = session.switches.get(name) or Switches(session.ran_before(name))
    why = _why(session, name) if word in {"failed", "blocked"} else ""
    issued = session.issued(name)
    return hook.End(name, word, switches.before, switches.runs, switches.outcome, issued, why)


def _why(session: Session, name: str) -> str:
    """The most specific cause that is known."""
    target = session.targets.get(name)
    if why := session.why.get(name):
        return why
    if target and (target.plan.refusals or name in session.untouched):
        return "; ".join(session.why_untouched(name))
    if name in session.failed:
        return session.failed[name]
    if session.interrupted:
        return f"interrupted ({session.interrupted})"
    return "see the output of the run" if target else display.UNREACHABLE


def _endings(session: Session) -> list[ending.Ended]:
    found = []
    for end in ends(session):
        settings, release = session.desired[end.host]
        target, switches = session.targets.get(end.host), session.switches.get(end.host)
        found.append(
            ending.ended(
                replace(end, why=hook.bounded(end.why)),
                release.image.reference,
                target.reading if target else None,
                session.looked.get(end.host),
                switches.gate if switches else NO_GATE,
                session.is_reverted(end.host),
                target is not None and target.plan.does("switch"),
                settings.token_store == "file",
            )
        )
    return found


def _command(session: Session, verb: str) -> str:
    """The words that start a verb on the hosts of this run, with make or plain pyinfra."""
    release = session.release_asked if verb == session.verb else ""
    limits = session.names if session.state.limit_hosts else []
    is_forced = session.is_forced and verb in hook.VERBS
    installed = f"kis_gateway_deploy.{session.verb}"
    if pyinfra.is_cli and installed in sys.argv[2:]:
        inventory_file = sys.argv[sys.argv.index(installed) - 1]
        words = ["pyinfra", "-y", *(word for name in limits for word in ("--limit", name))]
        words += ["--data", f'release="{release}"'] if release else []
        words += ["--data", "force=1"] if is_forced else []
        return shlex.join([*words, inventory_file, f"kis_gateway_deploy.{verb}"])
    words = ["make", {"up": "deploy"}.get(verb, verb)]
    deploy = re.compile(rf"(.*/)?deploy/{session.verb}\.py")
    given = pairwise(sys.argv[1:] if pyinfra.is_cli else [])
    named = (before for before, each in given if deploy.fullmatch(each))
    inventory_file = next(named, DEFAULT_INVENTORY)
    words += [f"INVENTORY={inventory_file}"] if inventory_file != DEFAULT_INVENTORY else []
    words += [f"LIMIT={','.join(limits)}"] if limits else []
    words += [f"RELEASE={release}"] if release else []
    words += ["FORCE=1"] if is_forced else []
    return shlex.join(words)


def tell(session: Session) -> None:
    """Runs `rollout_after` if this run may have changed something, or was meant to."""
    command = next(iter(session.desired.values()))[0].rollout_after
    if command is None or session.verb not in hook.VERBS or not _has_run(session):
        return
    seconds = time.monotonic() - session.began
    author, status = requests.author(), session.exit_status
    document = hook.document(session.verb, author, seconds, ends(session), status)
    if why := hook.tell(command, document):
        click.secho(f"rollout_after: {why}", fg="red", err=True)


def _has_run(session: Session) -> bool:
    """False for a dry run, and for one that was not confirmed."""
    return bool(session.is_executed or session.interrupted or session.dropped_out())

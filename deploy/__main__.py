"""Starts a verb as `make` does: `python -m deploy VERB INVENTORY [LIMIT] [PYINFRA_FLAG …]`.

It is `pyinfra -y INVENTORY deploy/VERB.py --limit …`, with these differences, which pyinfra has no
option for: it fails if the inventory is missing, has no hosts of ours, has a group that cannot be
read, or gives two hosts one name; an error in a file of the inventory is one line, its traceback is
in `pyinfra-debug.log`; a host whose SSH key is missing or unusable fails alone. LIMIT: names of
hosts or groups, with commas.
"""

from __future__ import annotations

import signal
import sys


def _interrupted_early(number: int, _: object) -> None:
    sys.exit(f"no host was touched: interrupted ({signal.Signals(number).name})")


# The imports below take a second, in which Ctrl-C would show a traceback.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENDING = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]  # as by nohup
for each in ENDING:
    signal.signal(each, _interrupted_early)

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb
from types import SimpleNamespace
from typing import Any, NoReturn

import click
from pyinfra import logger
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.inventory import Inventory, extract_name_data
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.context import ctx_state
from pyinfra_cli import main as pyinfra_main
from pyinfra_cli.exceptions import UnexpectedExternalError, UnexpectedInternalError

from kis_gateway_deploy.display import UNREACHABLE, last_line
from kis_gateway_deploy.overview import history_json, status_json
from kis_gateway_deploy.runs import EXIT_BY_SIGNAL, handle_signals, tell
from kis_gateway_deploy.session import ADOPTS, ATTRIBUTE, REFUSED, Refused, Session

DEBUG_LOG = Path("pyinfra-debug.log")


def main(verb: str, inventory: str, limit: str = "", *flags: str) -> None:
    """Runs the verb; raises SystemExit with its status."""
    if not Path(inventory).is_file():
        _fail(verb, f"there is no inventory {inventory} (INVENTORY=path/to/it.py)", flags)
    limits = [word for name in limit.split(",") if name for word in ("--limit", name.strip())]
    sys.argv[1:] = ["-y", *limits, *flags, inventory, f"deploy/{verb}.py"]
    try:
        pyinfra_main.main()
    except SystemExit as end:
        state = ctx_state.get() if ctx_state.isset() else None
        session = getattr(state, ATTRIBUTE, None)
        takes_part = bool(session and session.begun & session.desired.keys()) or hasattr(
            state, ADOPTS
        )
        signals = {EXIT_BY_SIGNAL + each: each.name for each in ENDING}
        interrupted = signals.get(end.code, "") if isinstance(end.code, int) else ""
        if session and interrupted:  # perhaps while it was made
            session.interrupted, session.exit_status = interrupted, end.code
        if end.code in (0, None) and not takes_part:
            lacks = f"no host that matches LIMIT={limit}" if limit else "no host of this package"
            _fail(verb, f"the inventory {inventory} has {lacks}", flags)
        if end.code and not (session or takes_part or hasattr(state, REFUSED)):
            # pyinfra has read no inventory, or reached none of its hosts.
            if hasattr(state, "inventory"):
                _tell_that_none_was_reached(verb, interrupted)
            why = f"interrupted ({interrupted})" if interrupted else "see above"
            _fail(verb, why, flags, [each.name for each in getattr(state, "inventory", ())])
        raise


def _fail(verb: str, why: str, flags: Sequence[str], hosts: Sequence[str] = ()) -> NoReturn:
    click.secho(f"no host was touched: {why}", fg="red", err=True)
    is_json = "json=1" in flags
    if is_json:
        as_json = history_json if verb == "history" else status_json
        click.echo(as_json(dict.fromkeys(hosts, UNREACHABLE)))
    click.echo(last_line(verb, dict.fromkeys(hosts, "failed")), err=is_json)
    sys.exit(1)


def _tell_that_none_was_reached(verb: str, interrupted: str) -> None:
    """Runs `rollout_after`, which a run otherwise does at its end.

    `interrupted`: by which signal, or empty.
    """
    with suppress(Refused):  # nobody knows the command
        session = Session.current()
        session.verb, session.interrupted = verb, interrupted
        handle_signals(session)
        if session.names:
            tell(session)


class _DroppedGroups(logging.Handler):
    """pyinfra goes on without a group that it cannot read, and with a warning only."""

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Ignoring host group"):
            raise PyinfraError(record.getMessage().replace("Ignoring", "cannot read the"))


def _make_hosts(inventory: Inventory, names: list[Any], groups: dict[str, Any]) -> None:
    """pyinfra merges two hosts of one name, and deploys to one of them only, without a word."""
    known: dict[str, dict[str, Any]] = {}
    for name, data in extract_name_data(
        [*names, *(each for of, _ in groups.values() for each in of)]
    ):
        its = known.setdefault(name, {})
        if twice := [key for key, value in data.items() if its.get(key, value) != value]:
            raise PyinfraError(
                f"{name} is in the inventory twice, with two values of {twice[0]}: give each host "
                "a name of its own"
            )
        its |= data
    _make_hosts_as_pyinfra(inventory, names, groups)


def _show_error(error: Any, file: object = None) -> None:  # noqa: ARG001 - click's interface
    """Shows an error with its file and line, and writes the calls that led there to `DEBUG_LOG`.

    Without the text of any line: one of an inventory may hold a secret.
    """
    cause = error.exception
    calls = extract_tb(getattr(cause, "_traceback", cause.__traceback__))
    if isinstance(cause, SyntaxError):
        where = f"{cause.filename}, line {cause.lineno}: {cause.msg}"
    else:
        where = f"{calls[-1].filename}, line {calls[-1].lineno}: {type(cause).__name__}: {cause}"
    lines = [f"{each.filename}, line {each.lineno}, in {each.name}" for each in calls]
    DEBUG_LOG.write_text("".join(f"{line}\n" for line in [*lines, where]))
    click.secho(f"{where} (the traceback is in {DEBUG_LOG})", fg="red", err=True)


def _connect(connector: SSHConnector) -> None:
    """pyinfra ends the run of all hosts, with a traceback, if the key of one cannot be read."""
    try:
        _connect_as_pyinfra(connector)
    except ConnectError:
        raise
    except PyinfraError as error:
        raise ConnectError(str(error)) from None
    except (OSError, ValueError) as error:  # of a key that may not be read, or is not text
        raise ConnectError(f"the SSH key cannot be used: {error}") from None


def _interrupted(number: int, _: object) -> None:
    """In place of pyinfra's own handler, which ends a run with 0. A session has another one."""
    sys.exit(EXIT_BY_SIGNAL + number)


def _handle_signals(*_: object) -> None:
    """To be called when pyinfra has set its handlers."""
    for each in SIGNALS:
        signal.signal(each, _interrupted if each in ENDING else signal.SIG_IGN)


def _no_color(_: bool | None = None) -> bool:
    return False


if __name__ == "__main__":
    if os.environ.get("NO_COLOR"):  # which click and pyinfra do not heed
        click.utils.resolve_color_default = _no_color  # type: ignore[attr-defined,assignment]
    logger.addHandler(_DroppedGroups())
    UnexpectedExternalError.show = _show_error
    UnexpectedInternalError.show = _show_error
    _connect_as_pyinfra = SSHConnector.connect
    # What pyinfra's command line uses of `signal`, which it imports as a module.
    pyinfra_main.signal = SimpleNamespace(SIGINT=signal.SIGINT, signal=_handle_signals)
    _make_hosts_as_pyinfra = Inventory.make_hosts_and_groups
    Inventory.make_hosts_and_groups = _make_hosts  # type: ignore[method-assign,assignment]
    SSHConnector.connect = _connect  # type: ignore[method-assign,assignment]
    main(*sys.argv[1:])

"""Sends a host the host program and one request on standard input; reads framed JSON lines.

Shell scripts are sent on standard input, too.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import socket
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import gevent
from paramiko import SSHException
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.output import set_echo
from pyinfra.connectors.util import CommandOutput

# paramiko logs the traceback of a cut connection; what happened is in the exception, too.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

TOKENS = ("tokens", "directory", "token_files")
RELEASES = ("processes", "compose", "releases", "in_place")
FOUND = (*TOKENS, "engine", *RELEASES, "containers")
FETCH = (*TOKENS, "engine", "control", *RELEASES, "containers")
VERBS = {
    "read": (*FOUND, "client", "probe", "read"),
    "describe": (*FOUND, "describe"),
    "token": (*FOUND, "donor"),
    "prepare": (*TOKENS, *RELEASES, "hiding", "prepare"),
    "fetch": (*FETCH, "fetch"),
    "simulator": (*FETCH, "fetch"),
    "switch": (
        *(*FETCH, "client", "neighbour", "gate", "probe"),
        *("hiding", "watch", "deployment", "adoption", "starting", "change", "switch"),
    ),
    "logs": (*FOUND, "hiding", "logs"),
}
"""The modules of `kis_gateway_deploy/host` for each verb, each after those that it imports; the
last one has a function with the verb's name."""

COMMAND = (
    "export PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH; "
    "command -v python3 >/dev/null || exec echo {no_python}; "
    "exec python3 -I -S -c '"
    "import sys,zlib;f=sys.stdin.buffer;exec(zlib.decompress(f.read(int(f.readline()))))'"
)
"""The same for every request, and short: sudo logs it. No backslash, line break or `!`, which fish
and tcsh would change."""

NO_PYTHON_MARK = "kis-gateway-deploy:no-python3"
"""What a host without python3 answers instead."""

ANSWER_LIMIT = 4 << 20
ENDS = ('{"result": ', '{"error": ')
"""How the last line of the host program begins; `host/main.py` writes it."""
SILENCE_SECONDS = 30
"""For how long a host may be silent that sends a line every few seconds, and for how long TCP data
sent to it may stay unacknowledged."""

BEATING = {"switch", "prepare", "fetch", "simulator", "logs"}
"""Verbs during which a host sends a line at least every 5 s."""
WORDS_LIMIT = 20
"""How many of the last lines of a host's standard error are added to an error."""

_BOOT = """\
import sys, types
if sys.version_info < (3, 9):
    sys.exit("python3 of this host is %s: Python 3.9 or newer is needed" % sys.version.split()[0])
host = sys.modules["host"] = types.ModuleType("host")
host.__path__ = []
for name, source in {sources!r}:
    module = sys.modules["host." + name] = types.ModuleType("host." + name)
    module.__package__ = "host"
    exec(compile(source, name + ".py", "exec"), module.__dict__)
sys.exit(module.main(sys.modules["host.{module}"].{verb}))
"""


NO_TERMINAL = (
    "sudo needs a password and there is no terminal to type it on: let the SSH user use sudo "
    "without a password, or set _sudo_password in the inventory data"
)


class RemoteError(Exception):
    """The host gave no usable answer; the text contains its standard error."""


class NoAnswerError(RemoteError):
    """The command has ended without an answer: its process was killed, or the connection cut."""


class NoPythonError(RemoteError):
    """The host has no python3."""


class Octets:
    """Bytes for pyinfra's `_stdin`, which is made for text. They are never printed."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def endswith(self, _: str) -> bool:
        return True

    def encode(self) -> bytes:
        return self.content

    def __repr__(self) -> str:
        return "(standard input)"


class Script(StringCommand):
    """A shell script, sent on standard input after its length.

    The command is the same for every script, and short: sudo logs it, and a login shell other than
    sh could not parse a script.
    """

    COMMAND = 'read -r n; eval "$(head -c "$n")"'

    def __init__(self, script: str) -> None:
        content = script.encode()
        stdin: Any = [Octets(b"%d\n%b" % (len(content), content))]
        super().__init__(self.COMMAND, _stdin=stdin)


def _packed(source: str) -> str:
    """The source without docstrings and comments, which are half of its size."""
    source = re.sub(r'^"""(?:[^"]|"(?!""))*"""\n', "", source, flags=re.MULTILINE)
    # `0` in their place: some classes contain nothing else.
    source = re.sub(r'^( +)"""(?:[^"]|"(?!""))*"""\n', r"\g<1>0\n", source, flags=re.MULTILINE)
    return re.sub(r"^ *#.*\n|  # .*$", "", source, flags=re.MULTILINE)


@cache
def program(verb: str) -> bytes:
    """The host program with its length on a line before it, as `COMMAND` reads it."""
    host = files("kis_gateway_deploy") / "host"
    names = [*VERBS[verb], "main"]
    sources = [(name, _packed((host / f"{name}.py").read_text("utf-8"))) for name in names]
    boot = _BOOT.format(sources=sources, verb=verb, module=names[-2])
    packed = zlib.compress(boot.encode(), 9)
    return b"%d\n%s" % (len(packed), packed)


def ask(
    host: Host,
    verb: str,
    request: dict[str, Any],
    seconds: int = 60,
    show: Callable[[str], None] | None = None,
    more: Sequence[object] = (),
    connector: Mapping[str, Any] | None = None,
) -> str:
    """Asks the host program; returns its answer in JSON: `{"result": …}` or `{"error": …}`.

    This is not a pyinfra fact, because pyinfra prints the output of facts with `-vvv`. `-vv` shows
    the command; standard input and the answer are never shown. `seconds`: the time limit. `show` is
    called with the host's messages for people. `more`: further standard input, in objects like
    `Octets`. `connector`: pyinfra's connector arguments; None: those of the context.

    Raises:
        NoPythonError: the host has no python3.
        NoAnswerError: the command has ended without an answer.
        RemoteError: there is no usable answer.
        pyinfra.api.exceptions.ConnectError: the host was not connected and cannot be reached.
    """
    if not host.connected:
        host.connect(reason=f"to {verb}", raise_exceptions=True)
    frame, stdin = question(verb, request)
    if connector is None:
        arguments, _ = pop_global_arguments(host.state, host, {})
        connector = {n: value for n, value in arguments.items() if n in CONNECTOR_ARGUMENT_KEYS}
    _notice_silence(host)

    execute, print_input = host.run_shell_command, host.state.print_fact_input  # of this context

    def run() -> tuple[bool, CommandOutput] | Exception:
        """gevent would print the traceback of an exception that leaves a greenlet."""
        words = StringCommand(command())
        shown = {"print_output": show is not None, "print_input": print_input}
        try:
            try:
                return execute(words, **shown, **{**connector, "_stdin": [stdin, *more]})
            except BrokenPipeError:  # it ended before it read its input, as sudo does if it refuses
                if more:
                    raise
                return execute(words, **shown, **connector)  # to hear why
        except Exception as error:
            return error

    with _listening(host.print_prefix, frame, show) as heard:
        job = gevent.spawn(run)
        # Nothing is read before all input is sent.
        _wait(job, seconds, heard if verb in BEATING and not more else None)
    ended = job.get(block=False)
    if isinstance(ended, EOFError) and _is_of_getpass(ended):
        raise RemoteError(NO_TERMINAL)
    if isinstance(ended, EOFError | OSError | SSHException | UnicodeError | PyinfraError):
        raise RemoteError(str(ended) or type(ended).__name__)
    if isinstance(ended, Exception):
        raise ended
    _, output = ended
    try:
        return answer(frame, output.stdout_lines)
    except NoPythonError:
        raise
    except RemoteError as error:
        raise type(error)("\n".join([*output.stderr_lines[-WORDS_LIMIT:], str(error)])) from None


def _is_of_getpass(error: EOFError) -> bool:
    """Whether pyinfra wanted to ask for sudo's password; paramiko raises EOFError, too."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).name == "getpass.py" for frame in frames)


def _wait(job: gevent.Greenlet, seconds: float, heard: list[float] | None) -> None:
    """Waits for a command. `heard`: when its host last sent a line; None if it may be silent.

    Raises RemoteError if it takes too long, or the host is silent for too long.
    """
    ends = time.monotonic() + seconds
    try:
        while not job.ready():
            job.join(1)
            now = time.monotonic()
            if now >= ends:
                raise RemoteError(f"the host gave no answer within {seconds:g} s")
            if heard and now - heard[-1] >= SILENCE_SECONDS:
                raise RemoteError(f"the host has been silent for {SILENCE_SECONDS} s")
    finally:
        if not job.ready():
            job.kill(block=False)


def _notice_silence(host: Host) -> None:
    """Ends a connection whose packets stay unacknowledged, which paramiko does not notice."""
    try:
        transport = host.connector.client.get_transport()  # type: ignore[attr-defined]
        option = getattr(socket, "TCP_USER_TIMEOUT", 18)
        transport.sock.setsockopt(socket.IPPROTO_TCP, option, SILENCE_SECONDS * 1000)
        transport.set_keepalive(SILENCE_SECONDS // 3)
    except (AttributeError, OSError):  # a local host, or a proxy command
        pass


def reconnect_if_cut(host: Host) -> None:
    """Has the next question connect again if the SSH connection was cut."""
    try:
        is_cut = not host.connector.client.get_transport().is_active()  # type: ignore[attr-defined]
    except AttributeError:  # a local host
        return
    if is_cut:
        host.connected = False


_listeners: dict[str, tuple[str, Callable[[str], None], list[float]]] = {}
"""By a host's print prefix: the frame of its lines, `show`, and when it last sent a line."""


@contextmanager
def _listening(
    prefix: str, frame: str, show: Callable[[str], None] | None
) -> Iterator[list[float]]:
    """In this context, pyinfra prints nothing for a host; `show` gets its messages for people.

    Yields a list whose last item is when the host last sent a line (time.monotonic).
    """
    heard = [time.monotonic()]
    if show is None:
        yield heard
        return
    set_echo(_echo)
    _listeners[prefix] = frame, show, heard
    try:
        yield heard
    finally:
        del _listeners[prefix]


def _echo(message: Any = None, **kwargs: Any) -> None:
    for prefix, (frame, show, heard) in _listeners.items():
        if str(message).startswith(prefix):
            _, is_ours, line = str(message).partition(frame)
            heard[:] = [time.monotonic()]
            said = _said(line) if is_ours else None
            if said is not None:
                show(said)
            return
    click.echo(message, **kwargs)


def _said(line: str) -> str | None:
    """What a host's line says for people; None if it is the result, or cut off."""
    try:
        said = json.loads(line).get("say")
    except (ValueError, AttributeError, RecursionError):
        return None
    return None if said is None else str(said)


def command() -> str:
    """The shell command that runs on a host."""
    return COMMAND.format(no_python=NO_PYTHON_MARK)


def question(verb: str, request: dict[str, Any]) -> tuple[str, Octets]:
    """The frame of the answer's lines, and what the host reads on standard input."""
    frame = secrets.token_hex(8)
    line = json.dumps({"v": 1, "verb": verb, "frame": frame, **request})
    return frame, Octets(program(verb) + line.encode() + b"\n")


def answer(frame: str, lines: Iterable[str]) -> str:
    """The JSON text of the last framed line, with the result or the error.

    Raises:
        NoPythonError: the host has no python3.
        NoAnswerError: there is no such line.
        RemoteError: it is too long.
    """
    found = ""
    for line in lines:
        if line == NO_PYTHON_MARK:
            raise NoPythonError("this host has no python3")
        if line.startswith(frame):
            found = line.removeprefix(frame)
    if not found.startswith(ENDS):  # the last line was for people: the program did not end
        raise NoAnswerError("the host gave no answer")
    if len(found) > ANSWER_LIMIT:
        raise RemoteError("the host's answer is too long")
    return found

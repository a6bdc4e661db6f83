"""`rollout_after`: what a run came to, as one JSON document, and the command that gets it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile

from kis_gateway_deploy.display import WORDS, Word
from kis_gateway_deploy.reading import escaped

VERBS = {"up", "restart", "rollback", "renew", "down"}
"""The verbs that may change a host."""

TIME_LIMIT = 30.0
OUTPUT_SHOWN = 400
WHY_LIMIT = 1000
"""Maximum length of a host's `why`, in characters."""


@dataclass(frozen=True)
class End:
    """How one host stands at the end of a run.

    `before` and `after`: the release that runs; None if none runs, or it is not known. `outcome`:
    of the last request to switch (see `host/switch.py`), None if there was none.
    """

    host: str
    word: Word
    before: str | None
    after: str | None
    outcome: str | None
    issuances: int
    why: str


def document(verb: str, by: str, seconds: float, hosts: Sequence[End], status: int = 0) -> str:
    """The document as JSON, in ASCII. `seconds`: the run's duration.

    `status`: the exit status of a run that a signal ended; 0: it follows from the hosts' words.
    """
    outcome = min((each.word for each in hosts), key=WORDS.index, default="failed")
    return json.dumps(
        {
            "version": 1,
            "verb": verb,
            "by": by,
            "outcome": outcome,
            "status": status or int(outcome in {"failed", "blocked"}),
            "seconds": round(seconds, 1),
            "hosts": [asdict(each) | {"why": bounded(each.why)} for each in hosts],
            "issuances": sum(each.issuances for each in hosts),
        }
    )


def bounded(why: str) -> str:
    text = "\n".join(escaped(line) for line in why.splitlines())
    return text if len(text) <= WHY_LIMIT else f"{text[: WHY_LIMIT - 1]}…"


def tell(command: Sequence[str], document: str, seconds: float = TIME_LIMIT) -> str:
    """Runs the command with the document on its standard input, for at most `seconds`.

    Returns why it failed, in one line; empty if it did not. Its output is shown only there. Without
    its arguments, which may hold secrets.
    """
    name = escaped(Path(command[0]).name)
    with TemporaryFile() as given:  # a pipe could be full, or closed
        given.write(document.encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"`{name}` cannot be started: {getattr(error, 'strerror', None) or error}"
    output = b""
    try:
        output, has_ended = _wait(process, seconds)
        how = "" if has_ended else f"did not end within {seconds:g} s"
    except (SystemExit, KeyboardInterrupt):  # a signal, by the handlers of the session
        how = "was interrupted"
    if how:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    if not how and code:
        how = f"failed (exit status {code})" if code > 0 else f"failed (signal {-code})"
    text = output.decode("utf-8", "replace")
    said = " / ".join(escaped(line.strip()) for line in text.splitlines() if line.strip())
    return f"`{name}` {how}{': ' if said else ''}{said[-OUTPUT_SHOWN:]}" if how else ""


def _wait(process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bool]:
    """The end of the command's output, and whether the command has ended.

    What it has started may go on, and hold the pipe open.
    """
    assert process.stdout is not None  # noqa: S101 - for mypy
    kept, deadline, pipe = b"", time.monotonic() + seconds, process.stdout.fileno()
    with process.stdout:
        is_open = True
        while time.monotonic() < deadline:
            has_ended = process.poll() is not None
            if is_open and select.select([pipe], [], [], 0 if has_ended else 0.1)[0]:
                part = os.read(pipe, 65536)
                kept = (kept + part)[-4 * OUTPUT_SHOWN :]
                is_open = bool(part)
            elif has_ended:
                return kept, True
            elif not is_open:
                time.sleep(0.05)
    return kept, False

"""Makes a prepared release the running one; the switch ends on the host, whatever becomes of the
connection. In the end the new release runs, or the old one.

| outcome | what is so in the end |
| --- | --- |
| `switched` | the release of the request runs and has passed the gate |
| `already` | it ran before somebody else's switch was seen; nothing was done |
| `restored` | it did not pass: the release that ran before runs again |
| `restored-adopted` | it did not pass: the container that was to be adopted runs again |
| `removed` | it did not pass, and nothing ran before: its container is gone |
| `left` | it did not pass, and ran before, too: its container is left as it is |
| `restarted`, `started`, `stopped`, `down`, `reverted` | as asked |
| `failed` | what was asked did not come about, nor did the way back; `why` says what runs |
| `refused` | nothing was touched |

The process that has the connection forks. Its child, in a session of its own, holds the host's
lock and forks again: the grandchild works, and if it dies, the child has another one go back.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from contextlib import suppress

from .change import Change, RefusedError
from .engine import EngineError
from .releases import lock, make_dir, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import RawIOBase
    from typing import Any

LOCK_SECONDS = 10
BEAT_SECONDS = 5
"""At least so often a line is sent, so that the controller knows that the connection lives."""


def switch(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what it does as `{"say": …}`, `{"beat": true}` meanwhile, and at last `{"result": …}`.

    `request`: as of `read`; and `action`: `up`, `rollback`, `revert`, `restart`, `down`, `stop` or
    `start`; `release` (an id; null for a revert to nothing); `seen` and `generation`; `by`;
    `budget`, the issuances that it may take; `kis_wait`, seconds for which KIS must be left alone;
    `token` (one that was brought, in base64, or null); `min_healthy` and `deadline` in seconds; and
    `die_at`, one of `STEPS`, or null.

    The result: `outcome` (see above), `generation`, `issuances`, `rewritten` (whether the token
    file was written again with the same token), `asked` (whether KIS may just have been asked) and
    `why`.
    """
    make_dir(request["app_dir"])
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            status = _Supervisor(request, writing).run()
        finally:
            os._exit(status)
    os.close(writing)
    result = None
    with open(reading, "rb", buffering=0) as pipe:
        for line in _lines(pipe):
            document = json.loads(line) if line else {"beat": True}
            if "result" in document:
                result = document
            else:
                yield document
    os.waitpid(child, 0)
    yield result or {"error": f"the switch died; {request['app_dir']}/switch.log says more"}


def _lines(pipe: RawIOBase) -> Iterator[bytes]:
    """Line by line to the end; an empty one whenever nothing has come for `BEAT_SECONDS`."""
    rest = b""
    while True:
        if not select.select([pipe], [], [], BEAT_SECONDS)[0]:
            yield b""
            continue
        piece = pipe.read(65536) or b""
        *lines, rest = (rest + piece).split(b"\n")
        yield from filter(None, lines)
        if not piece:
            return


class _Supervisor:
    """Holds the lock, and has the work done: it has little to do, and little to die of."""

    def __init__(self, request: dict[str, Any], pipe: int) -> None:
        self.request, self.app_dir, self.pipe = request, request["app_dir"], pipe
        self.log = os.open("/dev/null", os.O_WRONLY)
        nothing = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)

    def run(self) -> int:
        held = lock(f"{self.app_dir}/.switch.lock", LOCK_SECONDS)
        state = state_of(self.app_dir)
        if held is None:
            who = f" by {state['by']}" if state.get("by") else ""
            return self._end({"outcome": "refused", "why": f"another switch{who} is under way"})
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self.log = os.open(f"{self.app_dir}/switch.log", flags, 0o600)
        for descriptor in (1, 2):
            os.dup2(self.log, descriptor)
        result = self._in_a_child(Change.run)
        if result is None:
            self.say("the program that made the switch has died: another one goes back")
            self.request["die_at"] = None
            result = self._in_a_child(Change.recover)
        dead = {"outcome": "failed", "why": "the switch died twice; deploy again"}
        return self._end(result or dead)

    def _in_a_child(self, work: Callable[[Change], dict[str, Any]]) -> dict[str, Any] | None:
        """What the work comes to; None if its process died."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                answer = json.dumps(_worked(self.request, self.say, work))
                os.write(writing, answer.encode())
            except BaseException:  # the log has the traceback, and the supervisor goes back
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as answers:
            text = answers.read()
        os.waitpid(child, 0)
        return json.loads(text) if text else None

    def say(self, text: str) -> None:
        self._write({"say": text})
        os.write(self.log, f"{text}\n".encode("utf-8", "replace"))

    def _end(self, result: dict[str, Any]) -> int:
        self._write({"result": result})
        return 0

    def _write(self, document: dict[str, Any]) -> None:
        with suppress(OSError):  # nobody listens any more
            os.write(self.pipe, json.dumps(document).encode() + b"\n")


def _worked(
    request: dict[str, Any],
    say: Callable[[str], None],
    work: Callable[[Change], dict[str, Any]],
) -> dict[str, Any]:
    try:
        change = Change(request, state_of(request["app_dir"]), say)
        try:
            return work(change)
        except EngineError as error:
            if change.has_begun:
                raise
            raise RefusedError(f"the Docker engine: {error}") from None
    except RefusedError as error:
        return {"outcome": "refused", "why": str(error)}

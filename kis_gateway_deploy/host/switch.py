"""Makes a prepared release the running one. The switch ends on the host even if the connection
breaks: then the new release runs, or the old one.

| outcome | result |
| --- | --- |
| `switched` | the requested release runs and has passed the gate |
| `already` | another deploy has already switched to the requested release; nothing was done |
| `restored` | the gate failed: the release that ran before runs again |
| `restored-adopted` | the gate failed: the container that was to be adopted runs again |
| `removed` | the gate failed, and nothing ran before: the container was removed |
| `left` | the gate failed, and the same release ran before: its container is left as it is |
| `restarted`, `renewed`, `started`, `stopped`, `down`, `reverted` | as requested |
| `failed` | the request failed, and so did the restore, if there is one; `why` names the cause |
| `refused` | nothing was touched |
| `died` | the supervisor was killed; `recover` has another one complete or restore |

The process that has the connection forks. Its child, in a session of its own, holds the host's lock
and forks a worker. If the worker dies, the child forks another one, which completes or restores.
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
"""A line is sent at least this often, so that the controller knows that the connection is alive."""


def switch(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields messages as `{"say": …}`, `{"beat": true}` in silence, at the end `{"result": …}`.

    `request`: as for `read`; and `action`: `up`, `rollback`, `revert`, `restart`, `renew`, `down`,
    `stop` or `start`; `release` (an id; null for a revert to nothing); `seen` and `generation`;
    `by` and `forced` (outside of the rollout window), for the history; `budget`: the number of
    issuances allowed; `kis_wait`: seconds until KIS may be asked; `token` (a donated one in base64,
    or null); `min_healthy` and `deadline` in seconds; `die_at`, one of `STEPS`, or null; `recover`:
    if not 0, this request was sent before and had no answer: how many seconds its switch, which may
    be under way, is waited for. If nobody ends it, this one does.

    The result: `outcome` (see above), `issuances`, `asked` (whether KIS may just have been asked),
    `why`; `gate`: the seconds of the gate that passed last, or null; `heard` and `log_error`: what
    the gate that failed last asked and was answered, and the first error in the log, or empty.
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
    why = f"the switch process died: see {request['app_dir']}/switch.log"
    yield result or {"result": {"outcome": "died", "why": why}}


def _lines(pipe: RawIOBase) -> Iterator[bytes]:
    """The pipe's lines; an empty one after each `BEAT_SECONDS` of silence."""
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
    """Holds the lock and starts the worker. It does little itself, so that it does not die."""

    def __init__(self, request: dict[str, Any], pipe: int) -> None:
        self.request, self.app_dir, self.pipe = request, request["app_dir"], pipe
        self.log = os.open("/dev/null", os.O_WRONLY)
        nothing = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)

    def run(self) -> int:
        recover = self.request["recover"]
        held = lock(f"{self.app_dir}/.switch.lock", recover or LOCK_SECONDS)
        state = state_of(self.app_dir)
        if held is None:
            who = f" by {state['by']}" if state.get("by") else ""
            return self._end({"outcome": "refused", "why": f"another switch{who} is under way"})
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self.log = os.open(f"{self.app_dir}/switch.log", flags, 0o600)
        for descriptor in (1, 2):
            os.dup2(self.log, descriptor)
        result = self._in_a_child(Change.recover if recover else Change.run)
        if result is None:
            self.say("the switch process died: another one completes or restores")
            self.request["die_at"] = None
            result = self._in_a_child(Change.recover)
        dead = {"outcome": "failed", "why": "the switch process died twice; deploy again"}
        return self._end(result or dead)

    def _in_a_child(self, work: Callable[[Change], dict[str, Any]]) -> dict[str, Any] | None:
        """The result of the work; None if its process died."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            try:
                answer = json.dumps(_worked(self.request, self.say, work))
                os.write(writing, answer.encode())
            except BaseException:  # the traceback goes to the log, the supervisor restores
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
        with suppress(OSError):  # a full disk must not end the switch
            os.write(self.log, f"{text}\n".encode("utf-8", "replace"))

    def _end(self, result: dict[str, Any]) -> int:
        self._write({"result": result})
        return 0

    def _write(self, document: dict[str, Any]) -> None:
        with suppress(OSError):  # the connection is closed
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

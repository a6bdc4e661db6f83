"""The host's protocol: one JSON request in, JSON lines out.

Standard input holds this program, the request on one line, and further input of the verb. Each line
of the answer begins with the request's `frame`, a random word: the host may print a login banner.
Lines with `say` are for people. The last line holds `result`, or `error`, which says why there is
no result. Exit status 0: as requested; 1: see the result; 2: refused, nothing was touched.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Serve = Callable[[dict[str, Any]], dict[str, Any] | Iterator[dict[str, Any]]]

REQUEST_LIMIT = 64 << 20
ANSWER_LIMIT = 4 << 20
BEAT_SECONDS = 5
BEATING = {"prepare", "fetch", "simulator", "logs"}
"""The verbs that may take long and say nothing meanwhile; `switch` beats by itself."""


FAILED = ("failed", "died", "left", "removed", "restored", "restored-adopted")
STATUS = {"refused": 2, **dict.fromkeys(FAILED, 1)}
"""The exit status by a result's `outcome`; 0 for every other."""


def main(serve: Serve) -> int:
    """Reads the request from standard input and writes the answer of `serve`.

    `serve` returns the result, or yields documents; the last document holds the result.
    """
    request = json.loads(sys.stdin.buffer.readline(REQUEST_LIMIT))
    document: dict[str, Any] = {}
    for document in _documents(serve, request):
        line = line_of(document)
        if len(line) > ANSWER_LIMIT:
            document = {"error": "the answer of this host is too long"}
            line = json.dumps(document)
        # Earlier output may have ended without a line break.
        _write(f"\n{request['frame']}{line}\n".encode())
    return STATUS.get(document["result"].get("outcome"), 0) if "result" in document else 1


def line_of(document: dict[str, Any]) -> str:
    """A document as JSON in ASCII, which no terminal or locale changes.

    A lone surrogate, which is no character, becomes `?`: a container may put one into a file's name
    or an answer, and the controller's parser refuses it.
    """
    line = json.dumps(document)
    if "\\ud" not in line:
        return line
    octets = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    return json.dumps(json.loads(octets))


_is_writing = False


def _write(line: bytes) -> None:
    global _is_writing
    _is_writing = True
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    _is_writing = False


def _beat(frame: str) -> None:
    """Starts to write a line every `BEAT_SECONDS`.

    Without it, a controller behind a proxy cannot tell a host that works from a silent one.
    """
    import signal

    line = f'\n{frame}{{"beat": true}}\n'.encode()
    # A long line may be half written; it is a sign of life, too.
    signal.signal(signal.SIGALRM, lambda *_: None if _is_writing else os.write(1, line))
    signal.setitimer(signal.ITIMER_REAL, BEAT_SECONDS, BEAT_SECONDS)


def _documents(serve: Serve, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    # The user's own compose variables and locale must not affect child processes.
    for name in [name for name in os.environ if name.startswith("COMPOSE_")]:
        del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"
    if request["verb"] in BEATING:
        _beat(request["frame"])
    try:
        served = serve(request)
        if isinstance(served, dict):
            yield {"result": served}
        else:
            yield from served
    except Exception as error:  # one line on the operator's screen, no traceback
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        at = f" (line {where.tb_lineno} of {where.tb_frame.f_code.co_filename})" if where else ""
        yield {"error": f"{type(error).__name__}: {error}{at}"}

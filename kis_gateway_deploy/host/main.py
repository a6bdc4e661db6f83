"""What a host is asked: one JSON request in, JSON lines out.

Standard input holds this program and, on one line, the request. Each line of the answer begins
with the request's `frame`, a random word: a host may greet whoever logs in. The last line holds
`result`, or `error`, which says why there is none. Exit status 0 or 1.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Serve = Callable[[dict[str, Any]], dict[str, Any]]

REQUEST_LIMIT = 64 << 20
ANSWER_LIMIT = 4 << 20


def main(serve: Serve) -> int:
    """Answers the request on standard input by what `serve` makes of it."""
    request = json.loads(sys.stdin.buffer.readline(REQUEST_LIMIT))
    answer, status = _answer(serve, request)
    line = json.dumps(answer)  # in ASCII: no terminal and no locale has a say in it
    if len(line) > ANSWER_LIMIT:
        line, status = json.dumps({"error": "the answer of this host is too long"}), 1
    # What was said before may have ended without a line break.
    sys.stdout.buffer.write(f"\n{request['frame']}{line}\n".encode())
    sys.stdout.buffer.flush()
    return status


def _answer(serve: Serve, request: dict[str, Any]) -> tuple[dict[str, Any], int]:
    # Children see what this program was told, and nothing of the user's own set-up.
    for name in [name for name in os.environ if name.startswith("COMPOSE_")]:
        del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"
    try:
        return {"result": serve(request)}, 0
    except Exception as error:  # one line on the operator's screen, no traceback
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        at = f" (line {where.tb_lineno} of {where.tb_frame.f_code.co_filename})" if where else ""
        return {"error": f"{type(error).__name__}: {error}{at}"}, 1

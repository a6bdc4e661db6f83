"""Prints the gateway's log, without secrets."""

from __future__ import annotations

import os
import time

from .containers import engine_address, gateway_of, socket_path
from .engine import Engine, EngineError
from .hiding import hide, secrets_of, tokens_in
from .releases import manifest_of
from .tokens import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

LOG_LIMIT = 4 << 20
"""Maximum size of a log that is not followed, in bytes: its end counts."""

BUFFER_LIMIT = 64 << 10
"""How many bytes of a line are looked at: the first. It is shown after its secrets are hidden."""

LINE_LIMIT = 1000
"""How many characters of a line are shown."""

LOOK_SECONDS = 1.0
"""How often a host is asked for the next container of the gateway."""

NEEDS_ROOT = (
    "the log needs root: set `_sudo` to True in the host's inventory data, or connect as root"
)


def logs(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields each line as `{"say": line}`, at the end `{"result": …}` with `outcome` and `why`.

    `request`: `project`, `service`, `app_dir`, `token_dir` and `token_file` as for `read`; `ago`:
    how many seconds of the log; `follow`: for how many seconds more lines are waited for, also of
    the gateway's next container, or 0. `outcome`: `shown`, or `refused` without a container or
    without root.
    """
    if os.getuid() != 0:  # a user of the group docker cannot read the secrets to hide
        yield {"result": {"outcome": "refused", "why": NEEDS_ROOT}}
        return
    engine = Engine(socket_path(engine_address()))
    gateway = gateway_of(request, engine)
    if gateway is None:
        why = "there is no gateway container on this host, so there is no log: make deploy"
        yield {"result": {"outcome": "refused", "why": why}}
        return
    since = time.time() - request["ago"]
    try:
        if request["follow"]:
            yield from _followed(request, engine, gateway, since)
        else:
            yield from _latest(request, engine, gateway, since)
    except EngineError as error:
        yield {"result": {"outcome": "refused", "why": f"the log cannot be read: {error}"}}
        return
    yield {"result": {"outcome": "shown", "why": ""}}


def _latest(
    request: dict[str, Any], engine: Engine, gateway: dict[str, Any], since: float
) -> Iterator[dict[str, Any]]:
    log = engine.logs(str(gateway["Id"]), since, limit=LOG_LIMIT)
    if len(log) == LOG_LIMIT:  # the first line may begin with the rest of a secret
        log = log.partition(b"\n")[2]
        yield {"say": f"(the log is longer: its last {LOG_LIMIT >> 20} MiB follow)"}
    yield from _shown([log], _hidden(request, gateway))


def _followed(
    request: dict[str, Any], engine: Engine, gateway: dict[str, Any] | None, since: float
) -> Iterator[dict[str, Any]]:
    """The log of the container, and of those that come after it."""
    until = time.monotonic() + request["follow"]
    known = gateway["Id"] if gateway else ""
    while (left := until - time.monotonic()) > 0:
        if gateway:
            if gateway["Id"] != known:
                known, since = gateway["Id"], 0.0
            try:
                yield from _shown(engine.follow(known, since, left), _hidden(request, gateway))
            except EngineError as error:
                is_removed = error.status in (404, 409)
                if not is_removed and time.monotonic() < until:
                    raise
            since = time.time()
        time.sleep(LOOK_SECONDS)
        gateway = gateway_of(request, engine)


def _hidden(request: dict[str, Any], gateway: dict[str, Any]) -> set[str]:
    """What is hidden: the values of every release on the host, and their tokens of now."""
    app_dir = request["app_dir"]
    releases = f"{app_dir}/releases"
    names = list(filter(is_id, os.listdir(releases))) if os.path.isdir(releases) else []
    found = secrets_of(app_dir, names, gateway)
    for known in (request, *filter(None, (manifest_of(app_dir, name) for name in names))):
        found |= tokens_in(known["token_dir"], known["token_file"])
    return found


def _shown(pieces: Iterable[bytes], hidden: set[str]) -> Iterator[dict[str, Any]]:
    for line in _lines(pieces):
        text = hide(line.decode("utf-8", "replace").rstrip("\r"), hidden)
        yield {"say": text if len(text) <= LINE_LIMIT else f"{text[:LINE_LIMIT]}…"}


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, at most `BUFFER_LIMIT` bytes of each."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        rest = rest[:BUFFER_LIMIT]
        for line in lines:
            yield line[:BUFFER_LIMIT]
    if rest:
        yield rest

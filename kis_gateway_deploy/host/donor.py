"""Prints a token of this host, for another host or for the next gateway of this host."""

from __future__ import annotations

import time
from binascii import b2a_base64

from .containers import (
    engine_address,
    file_of_container,
    gateway_of,
    socket_path,
)
from .engine import Engine, EngineError
from .releases import linked, token_target
from .tokens import Directory, examine, kept_fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def token(request: dict[str, Any]) -> dict[str, str | None]:
    """`token`: of this host's valid token files for an app key, the one that expires last, in
    base64; None if there is none.

    `request`: as for `read`, and `key`, the app key's fingerprint, and `mounted`: whether to look
    in the running container's mount, too.
    """
    files = {content: examine(content) for content in _files(request)}
    valid = {
        content: found.valid_until
        for content, found in files.items()
        if (found.valid_until or 0) > time.time() and found.whose in (None, request["key"])
    }
    best = max(valid, key=lambda content: valid[content], default=None)
    return {"token": b2a_base64(best, newline=False).decode() if best else None}


def _files(request: dict[str, Any]) -> Iterator[bytes]:
    app_dir, token_dir, name = request["app_dir"], request["token_dir"], request["token_file"]
    of_key = kept_fingerprint(app_dir, f"{token_dir}/{name}") in (None, request["key"])
    places = [(token_dir, name if of_key else ""), (f"{app_dir}/tokens", request["key"])]
    for directory, entry in places:
        try:
            with Directory(directory) as opened:
                content = opened.read(entry)
        except OSError:
            continue
        if content:
            yield content
    if of_key and request["mounted"]:
        try:
            engine = Engine(socket_path(engine_address()))
            gateway = gateway_of(request, engine)
            path = f"{token_target(app_dir, linked(app_dir, 'current'))}/{name}"
            content = file_of_container(engine, gateway, path) if gateway else None
        except EngineError:
            return
        if content:
            yield content

"""Prints a token of this host, for another host or for the next gateway of this host."""

from __future__ import annotations

import time
from binascii import b2a_base64
from contextlib import suppress

from .containers import engine_address, gateway_of, socket_path, tokens_of_container
from .directory import Directory
from .engine import Engine, EngineError
from .releases import as_deployed, linked, token_target
from .token_files import PARKED_LIMIT, TokenFiles, kept_fingerprint, later
from .tokens import examine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def token(request: dict[str, Any]) -> dict[str, str | None]:
    """`token`: this host's valid token files for an app key, packed, in base64; None if there is
    none. If several places have a file of one name, the one that expires last counts.

    `request`: as for `read`, and `key`, the app key's fingerprint, and `mounted`: whether to look
    in the running container's mount, too.
    """
    request = as_deployed(request)
    found: dict[str, bytes] = {}
    files = TokenFiles(request["token_file"])
    for place in _places(request, files):
        found = later(found, {n: each for n, each in place.items() if _is_valid(each, request)})
    packed = b2a_base64(files.pack(found), newline=False).decode() if found else None
    return {"token": packed}


def _is_valid(content: bytes, request: dict[str, Any]) -> bool:
    found = examine(content)
    return (found.valid_until or 0) > time.time() and found.whose in (None, request["key"])


def _places(request: dict[str, Any], files: TokenFiles) -> Iterator[dict[str, bytes]]:
    """The token files of each place where this host may have some."""
    app_dir, token_dir = request["app_dir"], request["token_dir"]
    of_key = kept_fingerprint(app_dir, files.path(token_dir)) in (None, request["key"])
    if of_key:
        with suppress(OSError), Directory(token_dir) as opened:
            names = files.next_names(opened)
            yield {name: content for name in names if (content := opened.read(name))}
    with suppress(OSError), Directory(f"{app_dir}/tokens") as kept:
        yield files.unpack(kept.read(request["key"], PARKED_LIMIT))
    if of_key and request["mounted"]:
        with suppress(EngineError):
            engine = Engine(socket_path(engine_address()))
            gateway = gateway_of(request, engine)
            target = token_target(app_dir, linked(app_dir, "current"))
            path = f"{target}/{files.form}" if files.is_one else target
            if gateway:
                yield tokens_of_container(engine, gateway, files, path)

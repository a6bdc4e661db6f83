"""Puts a release on the host, checked by the host's own compose. Changes nothing that runs."""

from __future__ import annotations

import json
import os
import tempfile
import time
from binascii import a2b_base64

from .compose import ComposeError, compose
from .directory import Directory, make_token_dir
from .hiding import SHORTEST, hide, values_of
from .in_place import Place
from .releases import (
    changed_since,
    compose_files,
    lock,
    make_dir,
    release_dir,
    state_of,
    sync,
    text_of,
    write_file,
)
from .token_files import TokenFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOCK_SECONDS = 60


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """`outcome`: `prepared`, `refused` (nothing was done) or `failed`; and `why`.

    `request`: `app_dir`, `project`, `in_place` (see `Place`, or null), `seen` (the generation that
    the plan was made from, or null); `tokens` (null, or `dir`, `file` and `owner` of a token
    directory to prepare); `release` (null, or its `id` and `files`: for each name the `content` in
    base64 and the `owner`: mode, uid, gid).
    """
    app_dir = request["app_dir"]
    make_dir(f"{app_dir}/releases")
    state = state_of(app_dir)
    if state.get("generation") != request["seen"]:
        return {"outcome": "refused", "why": changed_since(state)}
    if request["tokens"]:
        _prepare_tokens(**request["tokens"])
    if request["release"] is None:
        return {"outcome": "prepared", "why": ""}
    held = lock(f"{app_dir}/.prepare.lock", LOCK_SECONDS)
    if held is None:
        return {"outcome": "refused", "why": "another deploy prepares a release here: try again"}
    try:
        why = _stage(request, **request["release"])
    finally:
        os.close(held)
    return {"outcome": "failed" if why else "prepared", "why": why}


def _prepare_tokens(dir: str, file: str | None, owner: list[int]) -> None:
    make_token_dir(dir)
    files = TokenFiles(file)
    with Directory(dir) as directory:
        names = files.next_names(directory) if file else []
        damaged = [name for name in names if _is_damaged(directory, name)]
        if damaged:
            # They may be half written by a running gateway: read them again after a second.
            time.sleep(1)
        for name in damaged:
            if _is_damaged(directory, name):
                directory.set_aside(name, "damaged")
        directory.own((owner[0], owner[1]), files.holds, deep=file is None)


def _is_damaged(directory: Directory, name: str) -> bool:
    found = directory.examine(name)
    return found is not None and found.state == "damaged"


def _stage(request: dict[str, Any], id: str, files: dict[str, Any]) -> str:
    """Puts a release on the host; returns what is wrong with it, or empty."""
    from shutil import rmtree

    app_dir = request["app_dir"]
    releases = f"{app_dir}/releases"
    for name in os.listdir(releases):
        if name.startswith(".staging."):  # left by a killed run; contains secrets
            rmtree(f"{releases}/{name}", ignore_errors=True)
    staging = tempfile.mkdtemp(prefix=".staging.", dir=releases)
    try:
        for name, file in files.items():
            mode, uid, gid = file["owner"]
            content = a2b_base64(file["content"])
            write_file(f"{staging}/{os.path.basename(name)}", content, mode, (uid, gid))
        if why := _refused_by_compose(request, staging):
            return why
        # Replace a release whose files were changed by hand; a running container keeps its mounts.
        there = release_dir(app_dir, id)
        if os.path.lexists(there):
            os.rename(there, f"{staging}.replaced")
        sync(staging)
        os.rename(staging, there)
        sync(releases)
    finally:
        for path in (staging, f"{staging}.replaced"):
            rmtree(path, ignore_errors=True)
    return ""


def _refused_by_compose(request: dict[str, Any], staging: str) -> str:
    project, files = request["project"], compose_files(staging)
    try:
        if request["in_place"]:
            place = Place(request["in_place"])
            place.service_of("", [*place.own_files, *files])  # warnings are the operator's own
            return ""
        # `config` only warns, with status 0, if a variable is not set: any output is an error.
        said = compose(project, files, ["config", "--quiet"])
        if not said and len(files) > 1:
            return _lost_by_override(project, files)
    except ComposeError as error:
        said = str(error)
    if not said:
        return ""
    values = values_of("".join(map(text_of, files[1:])))  # of the operator's override
    said = hide(said, {each for each in values if len(each) >= SHORTEST})
    return (
        f"{said}\ndocker compose rejects the compose file or warns about it: see above. The "
        "running gateway was not touched. Correct the settings that the message names, then deploy "
        "again."
    )


def _lost_by_override(project: str, files: list[str]) -> str:
    """What the package's own compose file says and the merged one does not; empty if nothing."""
    words = ["config", "--format", "json"]
    own, merged = (json.loads(compose(project, each, words)) for each in (files[:1], files))
    if own["services"].keys() != merged["services"].keys():
        return _override_error("has other services: only that of the gateway is started")
    [(name, before)] = own["services"].items()
    after = merged["services"][name]
    for key, value in before.items():
        if not _holds(after.get(key), value):
            return _override_error(f"changes `{key}` of the service {name}")
    return ""


def _override_error(what: str) -> str:
    return (
        f"gateway_compose_override {what}: it may add, but not change what the settings say. The "
        "running gateway was not touched. Correct that file, then deploy again."
    )


def _holds(merged: object, own: object) -> bool:
    """Whether a merged value still has all of the package's own value."""
    if own is None:  # compose writes `command: null` for what the file does not say
        return True
    if isinstance(own, dict):
        return isinstance(merged, dict) and all(_holds(merged.get(k), v) for k, v in own.items())
    if isinstance(own, list):
        return isinstance(merged, list) and all(each in merged for each in own)
    return merged == own

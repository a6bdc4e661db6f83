"""Describes a container, so that an inventory can be written for it. Changes nothing.

The answer is secret: it has environment variables, and files with app keys.
"""

from __future__ import annotations

import os
import re
import time
from binascii import b2a_base64
from itertools import islice
from stat import S_ISREG

from .containers import (
    DEFAULT_TOKEN_PATH,
    directory_beneath,
    engine_address,
    labels_of,
    name_of,
    socket_path,
    user_of,
    uses,
)
from .engine import Engine, EngineError, quote
from .in_place import MARK, Place, is_of
from .releases import current_place, state_of
from .tokens import FILE_LIMIT, examine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .directory import Directory

DEPTH = 3
"""How many levels below a starting point are searched for token files."""

ENTRIES_LIMIT = 4000
"""Maximum number of directory entries that are looked at."""

SECONDS = 20
"""Time limit of the search."""

TOKENS_LIMIT = 50
EXPIRIES_LIMIT = 20
SECRETS_LIMIT = 8
NAMES_LIMIT = 200
ARCHIVE_LIMIT = 4 << 20

WRITTEN_LIMIT = 200
"""Maximum number of paths of the container's own layer that are looked at."""

DELETED = 2
"""The kind of a deleted path in the engine's list of changes."""

NOT_SEARCHED = {"proc", "sys", "dev"}
CODE = re.compile(
    r".*\.(py|pyc|pyi|so|js|mjs|cjs|ts|map|go|java|class|jar|rb|h|c|html|css|md)", re.I
)
STRUCTURED = re.compile(r".*\.(json|ya?ml)", re.I)
APP_KEY = re.compile(rb"app[-_]?key[\w-]{0,64}[\"']?\s{0,64}:", re.I)
"""Bounded, so that hostile content is searched in linear time."""


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """What `kis_gateway_deploy.adopted_inventory` must know of a container.

    `request`: `container`, its name; `app_dir`: where a deployment would be.
    `container` of the answer is None if there is none; `running` are the names of those that run.
    """
    found: dict[str, Any] = {"uid": os.getuid(), "clock": int(time.time()), "running": []}
    try:
        engine = Engine(socket_path(engine_address()))
        found["running"] = sorted(map(name_of, engine.containers()))[:NAMES_LIMIT]
        details = engine.inspect(request["container"])
        if details:
            found["container"] = _described(engine, details)
            found["container"]["app_dir_in_use"] = _is_in_use(engine, details, request["app_dir"])
    except EngineError as error:
        found["engine_error"] = str(error)
    return found


def _is_in_use(engine: Engine, details: dict[str, Any], app_dir: str) -> bool:
    """Whether another gateway than this container, or its copy, uses an app directory."""
    adopted = (state_of(app_dir) or {}).get("adopted") or {}
    if adopted.get("name") == str(details["Name"]).lstrip("/"):
        return False
    place = current_place(app_dir)
    if place and is_of(details["Config"].get("Labels") or {}, place):
        return False
    if place and Place(place).text.startswith(MARK):  # also while its project is down
        return True
    return any(uses(labels_of(each), app_dir, place) for each in engine.containers(all=True))


def _described(engine: Engine, details: dict[str, Any]) -> dict[str, Any]:
    config, host = details["Config"], details["HostConfig"]
    image = engine.image(str(details["Image"])) or {}
    of_image = image.get("Config") or {}
    named = engine.image(str(config["Image"])) or {}
    environment, theirs = _variables(config.get("Env")), _variables(of_image.get("Env"))
    has_entrypoint = config.get("Entrypoint") != of_image.get("Entrypoint")
    has_command = has_entrypoint or config.get("Cmd") != of_image.get("Cmd")
    labels, old = config.get("Labels") or {}, of_image.get("Labels") or {}
    network = str(host.get("NetworkMode") or "default")
    mounts = details.get("Mounts") or []
    user, home = _user(engine, details)
    cpus = (host.get("NanoCpus") or 0) / 1e9
    if not cpus and (host.get("CpuQuota") or 0) > 0:
        cpus = host["CpuQuota"] / (host.get("CpuPeriod") or 100000)
    found = {
        "name": str(details["Name"]).lstrip("/"),
        "image": config["Image"],
        "image_id": details["Image"],
        "has_digest": bool(image.get("RepoDigests")),
        "image_is_current": named.get("Id") == details["Image"],
        "user": user,
        "configured_user": config.get("User") or "",
        "network_mode": network,
        "networks": sorted((details.get("NetworkSettings") or {}).get("Networks") or {}),
        "entrypoint": (config.get("Entrypoint") or []) if has_entrypoint else None,
        "command": config.get("Cmd") if has_command else None,
        "program": [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])],
        "working_dir": config.get("WorkingDir") or "/",
        "has_working_dir": (config.get("WorkingDir") or "/") != (of_image.get("WorkingDir") or "/"),
        "environment": {n: v for n, v in environment.items() if theirs.get(n) != v},
        "image_environment": {n: v for n, v in environment.items() if theirs.get(n) == v},
        "healthcheck": config.get("Healthcheck"),
        "has_healthcheck": config.get("Healthcheck") != of_image.get("Healthcheck"),
        "mounts": [
            {
                "type": each.get("Type"),
                "source": each.get("Source") or "",
                "name": each.get("Name") or "",
                "destination": each["Destination"],
                "rw": bool(each.get("RW")),
            }
            for each in mounts
        ],
        "tmpfs": host.get("Tmpfs") or {},
        "ports": _ports(details),
        "exposed": sorted(config.get("ExposedPorts") or {}),
        "extra_hosts": host.get("ExtraHosts") or [],
        "dns": host.get("Dns") or [],
        "ulimits": {
            each["Name"]: [each["Soft"], each["Hard"]] for each in host.get("Ulimits") or []
        },
        "labels": {n: v for n, v in labels.items() if old.get(n) != v},
        "auto_remove": bool(host.get("AutoRemove")),
        "memory": host.get("Memory") or 0,
        "cpus": cpus,
        "read_only": bool(host.get("ReadonlyRootfs")),
        "cap_drop": host.get("CapDrop") or [],
        "cap_add": host.get("CapAdd") or [],
        "privileged": bool(host.get("Privileged") or host.get("Devices")),
        "sharers": _sharers(engine, str(details["Id"])),
    }
    paths = _paths(environment, found["working_dir"], home)
    paths += _written(engine, str(details["Id"]))
    search = _Search(paths, [str(each["Destination"]) for each in mounts])
    process = details["State"].get("Pid")
    if process:
        starts = [found["working_dir"], home, "/app", "/tmp", "/root", *search.mounted]  # noqa: S108
        search.running(f"/proc/{process}/root", starts)
    else:
        search.stopped(engine, str(details["Id"]))
    found["tokens"] = list(search.tokens.values())
    found["secrets"] = list(search.secrets.values())
    return found


def _variables(variables: list[str] | None) -> dict[str, str]:
    parts = [str(each).partition("=") for each in variables or []]
    return {name: value for name, _, value in parts}


def _user(engine: Engine, details: dict[str, Any]) -> tuple[str, str]:
    """The user, `uid:gid` in numbers (empty if unknown), and its home directory."""
    user = user_of(details)
    users = _table(engine, details, "/etc/passwd")
    if not user:
        name, _, group = str(details["Config"].get("User") or "").partition(":")
        line = next((each for each in users if name in (each[0], each[2])), None)
        uid, gid = (line[2], line[3]) if line else (name, "0")
        if group:
            groups = _table(engine, details, "/etc/group")
            gid = next((each[2] for each in groups if each[0] == group), group)
        user = f"{uid}:{gid}" if re.fullmatch("[0-9]+:[0-9]+", f"{uid}:{gid}") else ""
    of_user = (each[5] for each in users if len(each) > 5 and each[2] == user.split(":")[0])
    home = _variables(details["Config"].get("Env")).get("HOME") or next(of_user, "/")
    return user, home


def _table(engine: Engine, details: dict[str, Any], path: str) -> list[list[str]]:
    """The lines of passwd(5) or group(5) in the container."""
    content = _file(engine, str(details["Id"]), path) or b""
    lines = content.decode("utf-8", "replace").splitlines()
    return [fields for fields in (line.split(":") for line in lines) if len(fields) > 3]


def _ports(details: dict[str, Any]) -> list[list[Any]]:
    """Port and protocol in the container, address and port on the host (empty if unknown)."""
    actual = (details.get("NetworkSettings") or {}).get("Ports") or {}
    found = []
    for name, bindings in (details["HostConfig"].get("PortBindings") or {}).items():
        port, _, protocol = name.partition("/")
        for number, binding in enumerate(bindings or []):
            on_host = str(binding.get("HostPort") or "0")
            there = actual.get(name) or []
            if on_host == "0" and number < len(there):  # the engine has chosen it
                on_host = str(there[number].get("HostPort") or "")
            found.append([int(port), protocol or "tcp", str(binding.get("HostIp") or ""), on_host])
    return found


def _sharers(engine: Engine, container: str) -> list[str]:
    """The containers in the network of this one."""
    return [
        name_of(each)
        for each in engine.containers(all=True)
        if (each.get("HostConfig") or {}).get("NetworkMode") == f"container:{container}"
    ]


def _paths(environment: dict[str, str], working_dir: str, home: str) -> list[str]:
    """The paths that variables name, absolute, as candidates for a token file or its directory."""
    found = []
    for value in environment.values():
        if "/" in value or re.fullmatch(r"[\w.-]+\.(json|ya?ml|dat|txt|pkl|token)", value):
            path = f"{home}{value[1:]}" if value.startswith("~/") else value
            path = os.path.normpath(os.path.join(working_dir, path))
            if len(path) < 1024 and ":" not in path:
                found.append(path)
    return [*found, DEFAULT_TOKEN_PATH]


def _written(engine: Engine, container: str) -> list[str]:
    """The paths that the container has added or changed in its own layer."""
    try:
        changes = engine.get(f"/containers/{quote(container)}/changes") or []
    except EngineError:  # too many: the usual places are searched all the same
        return []
    paths = (str(each.get("Path")) for each in changes if each.get("Kind") != DELETED)
    is_searched = (path for path in paths if path.split("/")[1] not in NOT_SEARCHED)
    return list(islice((path for path in is_searched if not CODE.fullmatch(path)), WRITTEN_LIMIT))


class _Search:
    """`tokens` and `secrets` that were found, by path. `paths`: candidates; `mounted`: mounts."""

    def __init__(self, paths: list[str], mounted: list[str]) -> None:
        self.paths, self.mounted = paths, mounted
        self.tokens: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.left, self.ends = ENTRIES_LIMIT, time.monotonic() + SECONDS

    def running(self, root: str, starts: list[str]) -> None:
        """Searches a running container through `/proc/PID/root`, level by level."""
        parents = [os.path.dirname(path) for path in [*self.paths, *self.mounted]]
        # A variable may name anything: a directory of the system is not searched to its bottom.
        queue = [(path, DEPTH) for path in parents] + [(path, DEPTH - 1) for path in self.paths]
        queue += [(path, 0) for path in starts]
        seen: dict[str, int] = {}
        for path, depth in queue:  # grows meanwhile
            path = os.path.normpath("/" + path.strip("/"))  # which keeps a second slash
            top = path.strip("/").partition("/")[0]
            if top in NOT_SEARCHED or seen.get(path, DEPTH + 1) <= depth:
                continue
            if self.left <= 0 or time.monotonic() > self.ends:
                break
            seen[path] = depth
            try:
                with directory_beneath(root, path) as directory:
                    below = self._look_into(directory, path)
            except OSError:  # it is missing, a file, or a link
                continue
            if depth < DEPTH:
                queue += [(f"{path.rstrip('/')}/{name}", depth + 1) for name in below]

    def _look_into(self, directory: Directory, path: str) -> list[str]:
        """Examines the files of a directory; returns the names of its directories."""
        with os.scandir(directory.descriptor) as entries:
            found = list(islice(entries, self.left + 1))
        self.left -= len(found)
        is_complete = self.left >= 0
        names, below, strange = [], [], 0
        for entry in found:
            try:
                at = entry.stat(follow_symlinks=False)
            except OSError:  # it was removed just now
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
            elif (
                S_ISREG(at.st_mode) and at.st_size <= FILE_LIMIT and not CODE.fullmatch(entry.name)
            ):
                content = directory.read(entry.name)
                full = f"{path.rstrip('/')}/{entry.name}"
                if content is not None and self._look_at(full, content):
                    names.append(full)
                elif at.st_size and not _is_beside(entry.name):
                    strange += 1
            elif not _is_beside(entry.name):
                strange += 1
        for each in names:
            self.tokens[each]["alone"] = is_complete and not (strange or below)
        return sorted(below)

    def stopped(self, engine: Engine, container: str) -> None:
        """Looks for the candidates only: the engine sends a directory as one archive."""
        for path in self.mounted:
            content = _file(engine, container, path)
            if content is not None:
                self._look_at(path, content)
        for path in self.paths:
            for each in (path, f"{path}/kis_token.json"):
                content = _file(engine, container, each)
                if content is None or not self._look_at(each, content):
                    continue
                beside = _beside(engine, container, os.path.dirname(each))
                names = {name for name in beside if not _is_beside(name)}
                self.tokens[each]["alone"] = bool(beside) and names <= {os.path.basename(each)}

    def _look_at(self, path: str, content: bytes) -> bool:
        """Notes a file that holds a token, or an app key; returns whether it is a token file."""
        found = examine(content)
        is_mounted = any(path == each or path.startswith(f"{each}/") for each in self.mounted)
        has_key = is_mounted and STRUCTURED.fullmatch(path) and APP_KEY.search(content)
        if found.state != "token" and has_key:
            if len(self.secrets) < SECRETS_LIMIT:
                text = b2a_base64(content, newline=False).decode()
                self.secrets[path] = {"path": path, "content": text}
            return False
        if found.state == "token" or (content and "token" in os.path.basename(path).lower()):
            if len(self.tokens) < TOKENS_LIMIT:
                self.tokens[path] = {
                    "path": path,
                    "state": found.state,
                    "expiries": list(found.expiries[-EXPIRIES_LIMIT:]),
                    "alone": False,
                }
            return path in self.tokens
        return False


def _file(engine: Engine, container: str, path: str) -> bytes | None:
    """A file of a container; None if it is missing, larger than 64 KiB, or beneath a file."""
    try:
        return engine.file(container, path, FILE_LIMIT)
    except EngineError as error:
        if not error.status:  # the engine itself cannot be asked
            raise
        return None


def _beside(engine: Engine, container: str, path: str) -> dict[str, bytes]:
    """The files of a directory and its subdirectories; empty if they are too large, or unknown."""
    try:
        return engine.directory(container, path, ARCHIVE_LIMIT) if path != "/" else {}
    except EngineError:
        return {}


def _is_beside(name: str) -> bool:
    """Whether a gateway may have made this file beside its token file."""
    return "token" in name.lower() or name.endswith((".lock", ".attempt"))

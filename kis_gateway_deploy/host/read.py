"""Reads all that a plan needs to know about a host. Changes nothing, returns no secret."""

from __future__ import annotations

import json
import os
import re
import stat
import time

from .client import ask_health
from .compose import ComposeError, plugins
from .containers import (
    CREDENTIALS,
    REFUSAL,
    adopted_tokens,
    compose_file_of,
    engine_address,
    kind_of,
    labels_of,
    name_of,
    project_of,
    socket_path,
    token_mount,
    tokens_of_container,
    user_of,
    uses,
)
from .directory import Directory
from .engine import IMAGES_RUN, Engine, EngineError
from .in_place import Place, keeps_token
from .probe import probe
from .releases import (
    COMPOSE_FILE,
    MANIFEST,
    as_deployed,
    current_place,
    damage_of,
    is_locked,
    json_of,
    linked,
    manifest_of,
    state_of,
    text_of,
    token_target,
)
from .token_files import PARKED_LIMIT, TokenFiles, kept_fingerprint
from .tokens import MARGIN, examine, is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

REFUSED_WITHIN = 130
"""How many seconds of a gateway's log are searched for a refusal by KIS."""

EXPIRIES = 20
"""Maximum number of tokens whose expiries are reported, the last to expire; and of token files."""

MAPPED = bytes(10) + b"\xff\xff"
"""The beginning of an IPv4-mapped IPv6 address (RFC 4291)."""

KINDS = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def read(request: dict[str, Any]) -> dict[str, Any]:
    """The reading of this host for one deployment, as `kis_gateway_deploy.reading` describes it.

    `request`: `project`, `service`, `app_dir`, `token_dir`, `token_file` (see `TokenFiles`),
    `token_mount` (the directory in the container), `token_env` (variables that name the file or its
    directory), `about` (see `as_deployed`), the id of the desired `release`, references of
    `images`, `with_layers` (whether missing images are sent layer by layer), `adopt` (a container's
    name, or null) and `adopt_path`
    (the path of its token file or of their directory; null: as in its environment), `health` (null,
    or address, port and path to ask, unless the running release has others), `probe` (null, or the
    parameters of `probe`), and `history` (the number of lines).
    """
    found = _machine()
    if found["uid"] != 0:
        return found  # the host counts as not read: the rest is for root's eyes
    request = as_deployed(request)
    found.update(_token_directory(request))
    found.update(_kept_tokens(request, found))
    found.update(_app_directory(request))
    try:
        found["engine_address"] = ""  # if it is unknown
        found["engine_address"] = engine_address()
        engine = Engine(socket_path(found["engine_address"]))
        found.update(_containers(request, found, engine))
        found["engine"] = "up"
    except EngineError as error:
        is_down = isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError))
        found["engine"] = "down" if is_down else "unusable"
        found["engine_error"] = str(error)
    return found


# The machine


def _machine() -> dict[str, Any]:
    return {
        "uid": os.getuid(),
        "clock": int(time.time()),
        "architecture": os.uname().machine,
        "runs": IMAGES_RUN.get(os.uname().machine, []),
        "os": _distribution(),
        "apt": bool(_program("apt-get")),
        "docker_cli": bool(_program("docker")),
        "podman": _is_podman(_program("docker")),
        "dockerd": bool(_program("dockerd")),
        "compose": _has_compose(),
        "disk_free_kb": _disk_free("/var/lib/docker"),
        "listening": sorted(set(_listening("/proc/net/tcp")) | set(_listening("/proc/net/tcp6"))),
    }


def _distribution() -> list[str]:
    """ID and VERSION_ID of os-release(5), each empty if missing."""
    text = text_of("/etc/os-release")
    found = dict(re.findall(r"^([A-Z_]+)=[\"']?([^\"'\n]*)", text, re.MULTILINE))
    return [found.get("ID", ""), found.get("VERSION_ID", "")]


def _program(name: str) -> str:
    paths = (f"{directory}/{name}" for directory in os.environ.get("PATH", "").split(":"))
    return next((path for path in paths if os.access(path, os.X_OK)), "")


def _is_podman(docker: str) -> bool:
    """Whether the command `docker` is podman: a link to it, or a script that calls it."""
    if not docker:
        return False
    with open(docker, "rb") as file:
        head = file.read(4096)
    is_link = os.path.basename(os.path.realpath(docker)) == "podman"
    return is_link or (head[:2] == b"#!" and b"podman" in head)


def _has_compose() -> bool:
    """Whether the compose plugin is installed."""
    return any(os.access(path, os.X_OK) for path in plugins())


def _disk_free(path: str) -> int:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize // 1024


def _listening(table: str) -> Iterator[tuple[str, int]]:
    """Address and port of each listening socket; the table's 32-bit words are little-endian."""
    import socket  # engine.py has already imported it

    for line in text_of(table).splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[3] != "0A":
            continue
        address, _, port = fields[1].partition(":")
        words = bytes.fromhex(address)
        packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
        if packed.startswith(MAPPED):
            packed = packed[len(MAPPED) :]
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        yield socket.inet_ntop(family, packed), int(port, 16)


# Tokens


def _token_directory(request: dict[str, Any]) -> dict[str, Any]:
    files = TokenFiles(request["token_file"])
    found: dict[str, Any] = {}
    try:
        at = os.lstat(request["token_dir"])
    except OSError:
        return found
    found["token_dir"] = _described(at)
    try:
        directory = Directory(request["token_dir"])
    except OSError:
        return found
    with directory:
        entries = [directory.stat(each) for each in directory.names()]
        found["token_dir_owners"] = sorted({each.st_uid for each in entries if each})
        names = files.names(directory)
        evidence = files.examine(directory, names)
        described = {n: status for n in names[:EXPIRIES] if (status := directory.stat(n))}
        if evidence and described:
            found["token_files"] = {name: _described(s) for name, s in described.items()}
            written = [_moment(s.st_mtime) for s in described.values()]
            found["token_written"] = max(filter(None, written), default=None)
            found["token_state"] = evidence.state
            found["token_expires"] = evidence.valid_until
            # The gateway asks KIS if there is no file of today.
            is_read = not files.has_date or files.next_names(directory)
            found["token_file_says"] = evidence.file_says if is_read else None
            found["token_source"] = evidence.source
            found["token_expiries"] = evidence.expiries[-EXPIRIES:]
            found["token_key"] = evidence.whose
        attempt_file = directory.read(f"{files.form}.attempt") if files.is_one else b""
        attempt = json_of((attempt_file or b"").decode("utf-8", "replace"))
        if isinstance(attempt, dict) and is_id(attempt.get("app_key_fingerprint")):
            moment = attempt.get("attempted_at")
            if isinstance(moment, (int, float)) and _moment(moment):
                found["attempted"] = {attempt["app_key_fingerprint"]: int(moment)}
    return found


def _kept_tokens(request: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    kept = f"{request['app_dir']}/tokens"
    if not os.path.isdir(kept):
        return {}
    files = TokenFiles(request["token_file"])
    path = files.path(request["token_dir"])
    with Directory(kept) as directory:
        parked = _parked(directory, files)
    whose = found.get("token_key") or kept_fingerprint(request["app_dir"], path)
    return {"token_key": whose if found.get("token_state") else None, "parked": parked}


def _parked(directory: Directory, files: TokenFiles) -> dict[str, int]:
    """When parked tokens expire, by the fingerprint of their app key."""
    found = {
        key: _ends(files, files.unpack(directory.read(key, PARKED_LIMIT)))
        for key in directory.names()
        if is_id(key)
    }
    return {key: ends for key, ends in found.items() if ends is not None}


def _ends(files: TokenFiles, contents: dict[str, bytes]) -> int | None:
    """When the last of the tokens in these files expires; None if that is unknown."""
    found = files.together(map(examine, contents.values()))
    return found.valid_until if found else None


def _moment(seconds: float) -> int | None:
    """Epoch seconds that the container decides; None if the controller would refuse the answer."""
    return int(seconds) if 0 < seconds < 10**11 else None


def _described(at: os.stat_result) -> dict[str, str]:
    return {
        "mode": f"{stat.S_IMODE(at.st_mode):o}",
        "owner": f"{at.st_uid}:{at.st_gid}",
        "kind": KINDS.get(stat.S_IFMT(at.st_mode), "device"),
    }


# The app directory, where only root can write


def _app_directory(request: dict[str, Any]) -> dict[str, Any]:
    app_dir, release = request["app_dir"], request["release"]
    current = linked(app_dir, "current")
    found: dict[str, Any] = {"current": current, "previous": linked(app_dir, "previous")}
    state = state_of(app_dir)
    if state:
        shown = ("generation", "by", "began", "action", "to", "phase", "outcome")
        found["state"] = {name: state.get(name) for name in shown}
        adopted = state.get("adopted") or {}
        found["adopted_before"] = adopted.get("name")
        found["replaced_id"] = adopted.get("id") if adopted.get("replaced") else None
    found["switching"] = is_locked(f"{app_dir}/.switch.lock")
    if current and current != release:
        found["current_compose"] = text_of(f"{app_dir}/current/{COMPOSE_FILE}")
        files = (manifest_of(app_dir, current) or {"files": {}})["files"]
        found["current_files"] = {name: file["sha256"] for name, file in files.items()}
    releases = f"{app_dir}/releases"
    names = sorted(filter(is_id, os.listdir(releases))) if os.path.isdir(releases) else []
    manifests = {name: manifest_of(app_dir, name) for name in names}
    of_token = ("key", "token_file", "tokens_expected", "token_at_start")
    found["releases"] = {
        name: {key: each[key] for key in of_token} for name, each in manifests.items() if each
    }
    directories = [each.get("token_dir") for each in manifests.values() if each]
    found["token_dir_is_ours"] = request["token_dir"] in directories
    found["release_damage"] = damage_of(app_dir, release, manifests.get(release))
    if request["history"]:
        lines = _last(f"{app_dir}/history.jsonl").splitlines()[-request["history"] :]
        found["history"] = list(map(json_of, lines))
        found["release_images"] = {
            name: str(each.get("image", ""))[:1000] for name, each in manifests.items() if each
        }
    return found


def _last(path: str, limit: int = 64 * 1024) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


# The engine


def _containers(request: dict[str, Any], host: dict[str, Any], engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = {"containers": [], "strangers": [], "token_users": [], "images": {}}
    found["others"], found["image_architectures"], found["residents"] = [], {}, []
    gateway: dict[str, Any] | None = None
    talkers = []
    networks = {}
    place = current_place(request["app_dir"])
    for summary in engine.containers(all=True):
        labels, name = labels_of(summary), name_of(summary)
        if summary.get("Image") in request["images"]:
            # Docker shows a name here only while it still refers to this image.
            found["images"][summary["Image"]] = str(summary.get("ImageID"))
        networks[name] = (summary.get("HostConfig") or {}).get("NetworkMode")
        kind = kind_of(labels, request)
        if kind == "stranger":
            found["strangers"].append(
                {"name": name, "compose_file": compose_file_of(labels)}
                | {"project": project_of(labels)}
            )
            continue
        is_ours = kind == "ours"
        if not is_ours and name != request["adopt"] and uses(labels, request["app_dir"], place):
            found["residents"].append(name)
        is_adopted = (
            not is_ours
            and name == request["adopt"]
            # One that was replaced, and was started again by hand, is to be replaced again.
            and (summary.get("Id") != host.get("replaced_id") or summary.get("State") == "running")
        )
        is_another = not (is_ours or is_adopted) and summary.get("State") != "exited"
        uses_tokens = is_another and _mounts(summary, request["token_dir"])
        if not (is_ours or is_adopted or uses_tokens or "kis-simulator" in labels):
            found["others"] += _published(name, summary)
            continue
        details = engine.inspect(str(summary.get("Id")))
        if details is None:  # it was removed just now
            continue
        if uses_tokens:
            found["token_users"].append(_token_user(name, labels, details))
            continue
        found["containers"].append(_container(details))
        if is_adopted:
            found["adopted_id"] = details["Id"]
            found["adopted_path"], contents = adopted_tokens(engine, details, request)
            found["adopted_token_expires"] = _ends(TokenFiles(request["token_file"]), contents)
        if is_ours:
            gateway = details
        if is_ours or is_adopted:
            talkers.append(str(details["Id"]))
    lacks = [reference for reference in request["images"] if reference not in found["images"]]
    for reference in lacks:
        image = engine.image(reference)
        if image:
            found["images"][reference] = str(image["Id"])
            found["image_architectures"][reference] = str(image.get("Architecture") or "")
    if host.get("current") != request["release"] or gateway is None:
        info = engine.info()
        found["user_namespaces"] = "name=userns" in (info.get("SecurityOptions") or [])
        if request["with_layers"] and not all(each in found["images"] for each in lacks):
            found["layers"] = _layers(engine, info)
    if gateway is not None:
        target = token_target(request["app_dir"], host.get("current"))
        if request["in_place"]:
            target = request["token_mount"]
        found["token_mount"] = token_mount(gateway, target, request["token_dir"])
        if found["token_mount"] == "other":
            files = TokenFiles(request["token_file"])
            path = f"{target}/{files.form}" if files.is_one else target
            contents = tokens_of_container(engine, gateway, files, path)
            found["mounted_token_expires"] = _ends(files, contents)
        health, asked = _questions(request, manifest_of(request["app_dir"], host.get("current")))
        if health and gateway["State"]["Running"]:
            found["client_sees"] = ask_health(**health)
        if asked and gateway["State"]["Running"]:
            found["token_probe"] = probe(**asked)
        network = f"container:{gateway['Id']}"
        found["sidecars"] = sorted(name for name, each in networks.items() if each == network)
    if request["in_place"]:
        runs = gateway is not None and gateway["State"]["Running"]
        is_settled = runs and host.get("current") == request["release"]
        found["in_place"] = _in_place(request, gateway, engine, is_settled)
        if gateway and not found["in_place"]["keeps_token"]:
            found["adopted_path"], contents = adopted_tokens(engine, gateway, request)
            found["adopted_token_expires"] = _ends(TokenFiles(request["token_file"]), contents)
    if (host.get("token_expires") or 0) <= host["clock"] + MARGIN:
        # A gateway without a valid token may be in a crash loop, asking KIS at each start.
        moments = [_refused(engine, each, host["clock"]) for each in talkers]
        found["refused"] = max(filter(None, moments), default=None)
    return found


def _questions(
    request: dict[str, Any], runs: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The request's `health` and `probe`, as the manifest of the release that runs has them.

    The inventory may name another port or path by now.
    """
    if runs is None or request["in_place"]:  # there the operator's compose file says the port
        return request["health"], request["probe"]
    client = {"address": runs["address"], "port": runs["port"]}
    health = client | {"path": runs["health_path"]} if runs["health_path"] else None
    return health, request["probe"] and request["probe"] | client


def _in_place(
    request: dict[str, Any], gateway: dict[str, Any] | None, engine: Engine, is_settled: bool
) -> dict[str, Any]:
    """The operator's compose project, as `reading.InPlace` describes it.

    Compose is asked unless the desired release runs (`is_settled`) and keeps its token.
    """
    asked = request["in_place"]
    found: dict[str, Any] = {"is_there": os.path.isfile(asked["compose_file"])}
    place = Place(asked)
    text, made_from = place.text, []
    found["override"], found["files"] = place.override, place.own_files
    found["is_written"] = text == asked["override"]
    found["keeps_token"] = False
    if gateway:
        config = gateway["Config"]
        found["user"] = user_of(gateway)
        found["network_mode"] = gateway["HostConfig"].get("NetworkMode")
        made_from = compose_file_of(config.get("Labels") or {}).split(",")
        found["keeps_token"] = keeps_token(
            {
                "volumes": [
                    {"type": each["Type"], "source": each["Source"], "target": each["Destination"]}
                    for each in gateway["Mounts"]
                ],
                "environment": dict(str(each).partition("=")[::2] for each in config["Env"] or []),
            },
            request | asked,
        )
    needs_override = bool(text) or place.override in made_from
    is_in_effect = found["keeps_token"] and (found["is_written"] or not needs_override)
    found["is_written"] = found["is_written"] or is_in_effect
    if not found["is_there"] or (is_in_effect and is_settled):
        return found
    os.environ["DOCKER_HOST"] = engine_address()
    labels = gateway["Config"]["Labels"] if gateway else {}
    project = labels.get("com.docker.compose.project", "")
    try:
        own = place.service_of(project, place.own_files)
        found["has_lines"] = keeps_token(own, request | asked)
        if gateway:
            found["differs"] = _differs(place, gateway, project, made_from, engine)
    except (ComposeError, ValueError) as error:
        found["error"] = str(error)[-2000:]
    return found


def _differs(
    place: Place, gateway: dict[str, Any], project: str, made_from: list[str], engine: Engine
) -> str:
    """What the operator's own `docker compose up -d` would change; empty if nothing.

    `files`, `image` or `definition`: such as a variable that was set only in the operator's shell.
    """
    own = [os.path.realpath(file) for file in place.own_files]
    if [os.path.realpath(file) for file in made_from if file != place.override] != own:
        return "files"
    image = engine.image(gateway["Config"]["Image"])
    if image and image.get("Id") != gateway["Image"]:
        return "image"
    if place.override in made_from and not place.text:
        return ""  # this package's own file was removed, so there is nothing to compare with
    label = gateway["Config"]["Labels"].get("com.docker.compose.config-hash")
    return "" if place.has_hash(str(label), project, made_from) else "definition"


def _published(name: str, summary: dict[str, Any]) -> list[list[Any]]:
    """The published addresses and ports of a container, each with its name."""
    ports = summary.get("Ports") or []
    return [
        [port.get("IP") or "0.0.0.0", port["PublicPort"], name]  # noqa: S104 - what it says
        for port in ports
        if port.get("PublicPort")
    ]


def _mounts(summary: dict[str, Any], token_dir: str) -> bool:
    """Whether a container mounts the token directory, or something inside it."""
    real = os.path.realpath(token_dir)
    for mount in summary.get("Mounts") or []:
        if mount.get("Type") != "bind":
            continue
        source = os.path.realpath(str(mount.get("Source")))
        if source == real or source.startswith(f"{real}/"):
            return True
    return False


def _token_user(name: str, labels: dict[str, str], details: dict[str, Any]) -> dict[str, Any]:
    file = compose_file_of(labels)
    manifest = json_of(text_of(f"{os.path.dirname(file)}/{MANIFEST}")) if file else None
    key = manifest.get("key") if isinstance(manifest, dict) else None
    return {
        "name": name,
        "compose_file": file,
        "user": details["Config"].get("User") or "0:0",
        "key": key if is_id(key) else None,
    }


def _container(details: dict[str, Any]) -> dict[str, Any]:
    state, config, host = details["State"], details["Config"], details["HostConfig"]
    health, labels = state.get("Health"), config.get("Labels") or {}
    return {
        "id": details["Id"],
        "name": details["Name"],
        "image": details["Image"],
        "image_name": config["Image"],
        "compose_file": compose_file_of(labels),
        "is_simulator": "kis-simulator" in labels,
        "status": state["Status"],
        "restarts": details.get("RestartCount", 0),
        "restart_policy": (host.get("RestartPolicy") or {}).get("Name") or "no",
        "auto_remove": bool(host.get("AutoRemove")),
        "health": health["Status"] if health else None,
        "ports": host.get("PortBindings"),
    }


def _layers(engine: Engine, info: dict[str, Any]) -> list[list[str]]:
    """The layers of each image, lowest first; empty for containerd's store, which needs all."""
    if "io.containerd.snapshotter" in json.dumps(info.get("DriverStatus")):
        return []
    images = (engine.image(str(each["Id"])) for each in engine.images())
    return [(image["RootFS"] or {}).get("Layers") or [] for image in images if image]


def _refused(engine: Engine, container: str, clock: int) -> int | None:
    """When KIS last refused a token, by the gateway's log; wrong credentials do not count.

    None if that is unknown: not every log can be read (`docker run --log-driver none`).
    """
    from datetime import datetime

    try:
        log = engine.logs(container, clock - REFUSED_WITHIN, timestamps=True, limit=1 << 20)
    except EngineError:
        return None
    # Not splitlines(): what follows a form feed of the container has no timestamp of the engine.
    lines = log.decode("utf-8", "replace").split("\n")
    for line in reversed(lines):
        if REFUSAL.search(line) and not CREDENTIALS.search(line):
            try:
                return _moment(datetime.fromisoformat(f"{line[:19]}+00:00").timestamp())
            except ValueError:
                return None
    return None

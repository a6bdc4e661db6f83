"""Reads all that a plan needs to know about a host. Changes nothing, and shows no secret."""

from __future__ import annotations

import json
import os
import re
import stat
import time

from .engine import Engine, EngineError
from .tokens import FILE_LIMIT, MARGIN, Directory, examine, is_id, kept_fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

COMPOSE_FILE = "docker-compose.yml"
TEXT_LIMIT = 1 << 20
REFUSED_WITHIN = 130
"""Seconds of a gateway's log in which a refusal by KIS counts."""
HEALTH_SECONDS = 2.0
TOKENS_TARGET = "/app/tokens"

KINDS = {
    stat.S_IFREG: "regular file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def read(request: dict[str, Any]) -> dict[str, Any]:
    """The reading of this host for one deployment, as `kis_gateway_deploy.reading` describes it.

    `request`: `project`, `service`, `app_dir`, `token_dir`, `token_file`, the id of the desired
    `release` and the SHA-256 of its `compose` file, references of `images`, `with_layers` (whether
    missing images are sent layer by layer), `adopt` (a container's name, or null) and `adopt_path`
    (its token inside), `health` (null, or address, port and path to ask), and how many lines of
    `history` to show.
    """
    found = _machine()
    found.update(_token_directory(request))
    found.update(_kept_tokens(request, found))
    found.update(_app_directory(request))
    try:
        found["engine_address"] = ""  # where it cannot be told
        found["engine_address"] = engine_address()
        engine = Engine(socket_path(found["engine_address"]))
        found.update(_containers(request, found, engine))
        found["engine"] = "up"
    except EngineError as error:
        nobody = isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError))
        found["engine"] = "down" if nobody else "unusable"
        found["engine_error"] = str(error)
    return found


# The machine


def _machine() -> dict[str, Any]:
    return {
        "uid": os.getuid(),
        "clock": int(time.time()),
        "architecture": os.uname().machine,
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
    """ID and VERSION_ID of os-release(5); empty where it does not say."""
    text = _text("/etc/os-release")
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
    """Whether compose is one of Docker's plugins (in the order of the Docker CLI)."""
    own = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    system = ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
    directories = [own, *(f"{directory}/docker" for directory in system)]
    return any(os.access(f"{each}/cli-plugins/docker-compose", os.X_OK) for each in directories)


def _disk_free(path: str) -> int:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize // 1024


def _listening(table: str) -> Iterator[tuple[str, int]]:
    """Address and port of the sockets that listen; the kernel's words are little-endian."""
    import socket  # the engine's client has imported it

    for line in _text(table).splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[3] != "0A":
            continue
        address, _, port = fields[1].partition(":")
        words = bytes.fromhex(address)
        packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        yield socket.inet_ntop(family, packed).replace("::ffff:", ""), int(port, 16)


def _text(path: str, limit: int = TEXT_LIMIT) -> str:
    """The text of a file that only root can write; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# Tokens


def _token_directory(request: dict[str, Any]) -> dict[str, Any]:
    name = request["token_file"]
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
        entry, evidence = directory.stat(name), directory.examine(name)
        if entry and evidence:
            found["token_file"] = _described(entry)
            found["token_written"] = int(entry.st_mtime)
            found["token_state"] = evidence.state
            found["token_expires"] = evidence.valid_until
            found["token_file_says"] = evidence.file_says
            found["token_key"] = evidence.whose
        attempt = _parsed((directory.read(f"{name}.attempt") or b"").decode("utf-8", "replace"))
        if isinstance(attempt, dict) and is_id(attempt.get("app_key_fingerprint")):
            moment = attempt.get("attempted_at")
            if isinstance(moment, (int, float)) and 0 < moment < 10**11:
                found["attempted"] = {attempt["app_key_fingerprint"]: int(moment)}
        if not os.path.isdir(f"{request['app_dir']}/tokens"):  # an earlier version kept them here
            whose = (directory.read(f"{name}.key") or b"").decode("ascii", "replace").strip()
            if found.get("token_state") and is_id(whose):
                found["token_key"] = found["token_key"] or whose
            found["parked"] = _parked(directory, f"{name}.of-")
    return found


def _kept_tokens(request: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    kept = f"{request['app_dir']}/tokens"
    if not os.path.isdir(kept):
        return {}
    path = f"{request['token_dir']}/{request['token_file']}"
    with Directory(kept) as directory:
        parked = _parked(directory, "")
    whose = found.get("token_key") or kept_fingerprint(request["app_dir"], path)
    return {"token_key": whose if found.get("token_state") else None, "parked": parked}


def _parked(directory: Directory, prefix: str) -> dict[str, int]:
    """When parked tokens end, by the fingerprint of their app key."""
    keys = [name[len(prefix) :] for name in directory.names(prefix)]
    ends = {key: _ends(directory, prefix + key) for key in keys if is_id(key)}
    return {key: end for key, end in ends.items() if end is not None}


def _ends(directory: Directory, name: str) -> int | None:
    content = directory.read(name)
    ends: int | None = examine(content).valid_until if content else None
    return ends


def _described(at: os.stat_result) -> dict[str, str]:
    return {
        "mode": f"{stat.S_IMODE(at.st_mode):o}",
        "owner": f"{at.st_uid}:{at.st_gid}",
        "kind": KINDS.get(stat.S_IFMT(at.st_mode), "device"),
    }


# What the package itself keeps, where only root can write


def _app_directory(request: dict[str, Any]) -> dict[str, Any]:
    app_dir, release = request["app_dir"], request["release"]
    found: dict[str, Any] = {"lock": _parsed(_text(f"{app_dir}/lock"))}
    for name in ("current", "previous"):
        try:
            target = os.path.basename(os.readlink(f"{app_dir}/{name}"))
        except OSError:
            continue
        if is_id(target):
            found[name] = target
    current = found.get("current")
    if current:
        hashes = {name: file["sha256"] for name, file in _files(f"{app_dir}/current").items()}
        if hashes.get(COMPOSE_FILE) != request["compose"]:  # else the controller knows it
            found["current_compose"] = _text(f"{app_dir}/current/{COMPOSE_FILE}")
        if current != release:
            found["current_files"] = hashes
    releases = f"{app_dir}/releases"
    names = sorted(filter(is_id, os.listdir(releases))) if os.path.isdir(releases) else []
    keys = {name: _text(f"{releases}/{name}/app_key_fingerprint").strip() for name in names}
    found["releases"] = {name: key if is_id(key) else "" for name, key in keys.items()}
    found["release_files"] = _files(f"{releases}/{release}") if release in names else {}
    if request["history"]:
        lines = _last(f"{app_dir}/history.jsonl").splitlines()[-request["history"] :]
        found["history"] = list(map(_parsed, lines))
    return found


def _files(directory: str) -> dict[str, dict[str, str]]:
    """Mode, owner and SHA-256 of each file; empty if there is no such directory."""
    from hashlib import sha256

    found = {}
    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
        path = f"{directory}/{name}"
        at = os.lstat(path)
        if stat.S_ISREG(at.st_mode):
            with open(path, "rb") as file:
                digest = sha256(file.read(TEXT_LIMIT)).hexdigest()
            described = _described(at)
            found[name] = {"mode": described["mode"], "owner": described["owner"], "sha256": digest}
    return found


def _last(path: str, limit: int = 64 * 1024) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


# The engine


def engine_address() -> str:
    """The engine that the docker command asks: DOCKER_HOST, the current context, or the default."""
    if os.environ.get("DOCKER_HOST"):
        return os.environ["DOCKER_HOST"]
    own = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    config = _parsed(_text(f"{own}/config.json"))
    name = os.environ.get("DOCKER_CONTEXT") or (
        config.get("currentContext") if isinstance(config, dict) else None
    )
    if not isinstance(name, str) or name in {"", "default"}:
        return "unix:///var/run/docker.sock"
    from hashlib import sha256

    meta = f"{own}/contexts/meta/{sha256(name.encode()).hexdigest()}/meta.json"
    context = _parsed(_text(meta))
    try:
        return str(context["Endpoints"]["docker"]["Host"])
    except (KeyError, TypeError):
        raise EngineError(f"the docker context {name} of this host is not there") from None


def socket_path(address: str) -> str:
    if not address.startswith("unix://"):
        raise EngineError(f"docker uses {address}, which is no socket of this host")
    return address[len("unix://") :]


def _containers(request: dict[str, Any], host: dict[str, Any], engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = {"containers": [], "strangers": [], "token_users": [], "images": {}}
    gateway: dict[str, Any] | None = None
    talkers = []
    for summary in engine.containers(all=True):
        labels, name = _labels(summary), _name(summary)
        if summary.get("Image") in request["images"]:
            # Docker names an image here only as long as the name still means it.
            found["images"][summary["Image"]] = str(summary.get("ImageID"))
        kind = _kind(labels, request)
        if kind == "stranger":
            found["strangers"].append({"name": name, "compose_file": _compose_file(labels)})
            continue
        is_ours = kind == "ours"
        is_adopted = not is_ours and name == request["adopt"]
        is_another = not (is_ours or is_adopted) and summary.get("State") != "exited"
        uses_tokens = is_another and _mounts(summary, request["token_dir"])
        if not (is_ours or is_adopted or uses_tokens or "kis-simulator" in labels):
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
            content = file_of_container(engine, details, request["adopt_path"])
            found["adopted_token_expires"] = examine(content).valid_until if content else None
        if is_ours:
            gateway = details
        if is_ours or is_adopted:
            talkers.append(str(details["Id"]))
    lacks = [reference for reference in request["images"] if reference not in found["images"]]
    for reference in lacks:
        image = engine.image(reference)
        if image:
            found["images"][reference] = str(image["Id"])
    if host.get("current") != request["release"] or gateway is None:
        info = engine.info()
        found["user_namespaces"] = "name=userns" in (info.get("SecurityOptions") or [])
        if request["with_layers"] and not all(each in found["images"] for each in lacks):
            found["layers"] = _layers(engine, info)
    if gateway is not None:
        found["token_mount"] = _token_mount(gateway, request["token_dir"])
        if found["token_mount"] == "other":
            content = file_of_container(engine, gateway, f"{TOKENS_TARGET}/{request['token_file']}")
            ends = examine(content).valid_until if content else None
            found["mounted_token_expires"] = ends
        if request["health"] and gateway["State"]["Running"]:
            found["client_sees"] = _ask(**request["health"])
    if (host.get("token_expires") or 0) <= host["clock"] + MARGIN:
        # A gateway without a token may be asking KIS for one all the time.
        moments = [_refused(engine, each, host["clock"]) for each in talkers]
        found["refused"] = max(filter(None, moments), default=None)
    return found


def gateway_of(request: dict[str, Any], engine: Engine) -> dict[str, Any] | None:
    """The gateway's container of this deployment; None if there is none."""
    for summary in engine.containers(all=True):
        if _kind(_labels(summary), request) == "ours":
            return engine.inspect(str(summary.get("Id")))
    return None


def _labels(summary: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in (summary.get("Labels") or {}).items()}


def _name(summary: dict[str, Any]) -> str:
    names = summary.get("Names") or [""]
    return str(names[0]).lstrip("/")


def _compose_file(labels: dict[str, str]) -> str:
    return labels.get("com.docker.compose.project.config_files", "")


def _kind(labels: dict[str, str], request: dict[str, Any]) -> str:
    """`ours`: the gateway of this deployment; `stranger`: another one under its labels; or empty.

    Containers that `docker compose run` left behind are nobody's.
    """
    if (
        labels.get("com.docker.compose.project") != request["project"]
        or labels.get("com.docker.compose.service") != request["service"]
        or labels.get("com.docker.compose.oneoff") == "True"
    ):
        return ""
    files = _compose_file(labels).split(",")
    return "ours" if all(f.startswith(f"{request['app_dir']}/") for f in files) else "stranger"


def _mounts(summary: dict[str, Any], token_dir: str) -> bool:
    """Whether a container has the token directory mounted, or something in it."""
    real = os.path.realpath(token_dir)
    for mount in summary.get("Mounts") or []:
        if mount.get("Type") != "bind":
            continue
        source = os.path.realpath(str(mount.get("Source")))
        if source == real or source.startswith(f"{real}/"):
            return True
    return False


def _token_user(name: str, labels: dict[str, str], details: dict[str, Any]) -> dict[str, Any]:
    file = _compose_file(labels)
    key = _text(f"{os.path.dirname(file)}/app_key_fingerprint", 64).strip() if file else ""
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
        "compose_file": _compose_file(labels),
        "is_simulator": "kis-simulator" in labels,
        "status": state["Status"],
        "restarts": details.get("RestartCount", 0),
        "restart_policy": (host.get("RestartPolicy") or {}).get("Name") or "no",
        "auto_remove": bool(host.get("AutoRemove")),
        "health": health["Status"] if health else None,
        "ports": host.get("PortBindings"),
    }


def _layers(engine: Engine, info: dict[str, Any]) -> list[list[str]]:
    """The layers of each image, from the lowest on; containerd's image store has to get all."""
    if "io.containerd.snapshotter" in json.dumps(info.get("DriverStatus")):
        return []
    images = (engine.image(str(each["Id"])) for each in engine.images())
    return [(image["RootFS"] or {}).get("Layers") or [] for image in images if image]


def _token_mount(gateway: dict[str, Any], token_dir: str) -> str | None:
    """Whether the running container has today's token directory mounted: `same`, `other` (it was
    moved, or something is mounted over it) or `deleted`; None if it does not run.
    """
    process = gateway["State"].get("Pid")
    if not process:
        return None
    for line in _text(f"/proc/{process}/mountinfo").splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and fields[4] == TOKENS_TARGET:
            if fields[3].endswith("//deleted"):
                return "deleted"
            try:
                mounted = os.stat(f"/proc/{process}/root{TOKENS_TARGET}", follow_symlinks=False)
                there = os.stat(token_dir)
            except OSError:
                return "other"
            same = (mounted.st_dev, mounted.st_ino) == (there.st_dev, there.st_ino)
            return "same" if same else "other"
    return None


def file_of_container(engine: Engine, details: dict[str, Any], path: str) -> bytes | None:
    """A file in a container that runs or not; None if there is none, or it has over 64 KiB.

    In one that runs it is looked up in its own mounts, where no link is followed: a link of the
    container's would lead to a file of the host's.
    """
    process = details["State"].get("Pid")
    if process:
        try:
            content = _beneath(f"/proc/{process}/root", path.strip("/").split("/"))
        except OSError:
            content = None
        if content is not None:
            return content
    return engine.file(str(details["Id"]), path, FILE_LIMIT)


def _beneath(root: str, parts: list[str]) -> bytes | None:
    *directories, name = parts
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    opened = [descriptor]
    try:
        for part in directories:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        with Directory(".", opened[-1]) as directory:
            return directory.read(name)
    finally:
        for each in opened:
            os.close(each)


REFUSAL = re.compile(r"EGW00133|403[^0-9].{0,16}forbidden", re.IGNORECASE)
CREDENTIALS = re.compile("EGW0010[35]")


def _refused(engine: Engine, container: str, clock: int) -> int | None:
    """When KIS last refused the gateway a token, by its log; 403 alone may be wrong credentials."""
    from datetime import datetime

    log = engine.logs(container, clock - REFUSED_WITHIN, timestamps=True, limit=1 << 20)
    lines = log.decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        if REFUSAL.search(line) and not CREDENTIALS.search(line):
            try:
                return int(datetime.fromisoformat(f"{line[:19]}+00:00").timestamp())
            except ValueError:
                return None
    return None


def _ask(address: str, port: int, path: str) -> dict[str, Any]:
    """What a client gets: `status`, the HTTP status; or `error`, why there was no answer."""
    import socket

    deadline = time.monotonic() + HEALTH_SECONDS
    request = f"GET {path} HTTP/1.0\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((address, port), HEALTH_SECONDS) as connection:
            connection.sendall(request.encode())
            head = b""
            while time.monotonic() < deadline:  # to its end: else a server logs a broken connection
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                part = connection.recv(65536)
                if not part:
                    break
                head = (head + part)[:64]
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", head)
        return {"status": int(status[1])} if status else {"error": "the answer is not HTTP"}
    except OSError as error:
        return {"error": str(error)}

"""Finds the containers of a deployment, reads their files and mounts."""

from __future__ import annotations

import os
import re

from .directory import Directory
from .engine import Engine, EngineError
from .in_place import is_of
from .releases import json_of, text_of
from .token_files import FILES_LIMIT, TokenFiles
from .tokens import FILE_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_TOKEN_PATH = "/tmp/kis_token_gateway.json"  # noqa: S108 - in a container


def engine_address() -> str:
    """The engine's address as the docker command finds it: DOCKER_HOST, context, or default."""
    if os.environ.get("DOCKER_HOST"):
        return os.environ["DOCKER_HOST"]
    own = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    config = json_of(text_of(f"{own}/config.json"))
    name = os.environ.get("DOCKER_CONTEXT") or (
        config.get("currentContext") if isinstance(config, dict) else None
    )
    if not isinstance(name, str) or name in {"", "default"}:
        return "unix:///var/run/docker.sock"
    from hashlib import sha256

    meta = f"{own}/contexts/meta/{sha256(name.encode()).hexdigest()}/meta.json"
    context = json_of(text_of(meta))
    try:
        return str(context["Endpoints"]["docker"]["Host"])
    except (KeyError, TypeError):
        raise EngineError(f"the docker context {name} does not exist on this host") from None


def socket_path(address: str) -> str:
    if not address.startswith("unix://"):
        raise EngineError(f"docker uses {address}, which is not a unix socket")
    return address[len("unix://") :]


def gateway_of(request: dict[str, Any], engine: Engine) -> dict[str, Any] | None:
    """The gateway container of this deployment; None if there is none."""
    for summary in engine.containers(all=True):
        if kind_of(labels_of(summary), request) == "ours":
            return engine.inspect(str(summary.get("Id")))
    return None


def labels_of(summary: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in (summary.get("Labels") or {}).items()}


def name_of(summary: dict[str, Any]) -> str:
    names = summary.get("Names") or [""]
    return str(names[0]).lstrip("/")


def compose_file_of(labels: dict[str, str]) -> str:
    return labels.get("com.docker.compose.project.config_files", "")


def project_of(labels: dict[str, str]) -> str:
    return labels.get("com.docker.compose.project", "")


def kind_of(labels: dict[str, str], request: dict[str, Any]) -> str:
    """`ours`: the gateway of this deployment; `stranger`: one that has only its project's name, or
    only its compose file; or empty.

    Containers of `docker compose run` count as neither.
    """
    if request["in_place"]:
        return "ours" if is_of(labels, request["in_place"]) else ""
    if (
        labels.get("com.docker.compose.service") != request["service"]
        or labels.get("com.docker.compose.oneoff") == "True"
    ):
        return ""
    files = compose_file_of(labels).split(",")
    of_files = all(file.startswith(f"{request['app_dir']}/") for file in files)
    if project_of(labels) == request["project"]:
        return "ours" if of_files else "stranger"
    is_release = files[0].startswith(f"{request['app_dir']}/releases/")
    return "stranger" if of_files and is_release else ""


def uses(labels: dict[str, str], app_dir: str, place: dict[str, Any] | None) -> bool:
    """Whether a container is the gateway of the releases in `app_dir`; `place`: see `place_of`."""
    if place:
        return is_of(labels, place)
    return (
        labels.get("com.docker.compose.service") == "kis-gateway"
        and labels.get("com.docker.compose.oneoff") != "True"
        and compose_file_of(labels).startswith(f"{app_dir}/releases/")
    )


def user_of(details: dict[str, Any]) -> str:
    """The user that a container runs as, `uid:gid` in numbers; empty if that is unknown."""
    status = text_of(f"/proc/{details['State'].get('Pid')}/status")
    ids = [
        re.search(rf"^{name}:\t[0-9]+\t([0-9]+)", status, re.MULTILINE) for name in ("Uid", "Gid")
    ]
    if all(ids):
        return ":".join(each[1] for each in ids if each)
    configured = str(details["Config"].get("User") or "0:0")
    return configured if re.fullmatch("[0-9]+:[0-9]+", configured) else ""


def token_mount(gateway: dict[str, Any], target: str, token_dir: str) -> str | None:
    """Whether the running container has the token directory mounted at `target`: `same`, `other`
    (the directory was moved or mounted over) or `deleted`; None if it does not run or has no mount.
    """
    process = gateway["State"].get("Pid")
    if not process:
        return None
    for line in text_of(f"/proc/{process}/mountinfo").splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and fields[4] == target:
            if fields[3].endswith("//deleted"):
                return "deleted"
            try:
                mounted = os.stat(f"/proc/{process}/root{target}", follow_symlinks=False)
                there = os.stat(token_dir)
            except OSError:
                return "other"
            same = (mounted.st_dev, mounted.st_ino) == (there.st_dev, there.st_ino)
            return "same" if same else "other"
    return None


def tokens_of_container(
    engine: Engine, details: dict[str, Any], files: TokenFiles, path: str
) -> dict[str, bytes]:
    """The token files in a running or stopped container by name, each at most 64 KiB.

    `path`: of the token file, or of the directory if `files` may be several. In a running container
    it is opened through `/proc/PID/root`, without following links: there, an absolute link would
    name a file of the host.
    """
    parent, _, name = path.rstrip("/").rpartition("/") if files.is_one else (path, "", "")
    found: dict[str, bytes | None] = {}
    process = details["State"].get("Pid")
    if process:
        try:
            with directory_beneath(f"/proc/{process}/root", parent) as directory:
                names = [name] if files.is_one else files.next_names(directory)
                found = {each: directory.read(each) for each in names}
        except OSError:
            pass
    if not any(found.values()):
        found = _from_archive(engine, str(details["Id"]), files, path)
    if files.is_one:
        return {str(files.form): content for content in found.values() if content}
    return {each: content for each, content in found.items() if content}


def _from_archive(
    engine: Engine, container: str, files: TokenFiles, path: str
) -> dict[str, bytes | None]:
    if files.is_one:
        return {path: engine.file(container, path, FILE_LIMIT)}
    limit = FILES_LIMIT * FILE_LIMIT
    found = engine.directory(container, path, limit)
    return {name: each for name, each in found.items() if files.holds(name) and each is not None}


def directory_beneath(root: str, path: str) -> Directory:
    """Opens a directory in another root directory, without following links or `..`.

    Raises OSError.
    """
    opened = [os.open(root, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for part in filter(None, path.split("/")):
            if part == "..":  # it could leave the other root: the path is the container's
                raise NotADirectoryError(f"{path} has `..`, which no directory may have")
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        return Directory(".", opened[-1])
    finally:
        for each in opened:
            os.close(each)


REFUSAL = re.compile(r"EGW00133|403[^0-9].{0,16}forbidden", re.IGNORECASE)
CREDENTIALS = re.compile("EGW0010[35]")


def adopted_tokens(
    engine: Engine, details: dict[str, Any], request: dict[str, Any]
) -> tuple[str, dict[str, bytes]]:
    """The token files of a container that is to be adopted, and the path at which they are.

    If there is none, the path is the first one that was looked at.
    """
    files = TokenFiles(request["token_file"])
    places = adopted_places(details, request, files)
    for place in places:
        found = tokens_of_container(engine, details, files, place)
        if found:
            return place, found
    return places[0], {}


def adopted_places(
    details: dict[str, Any], request: dict[str, Any], files: TokenFiles
) -> list[str]:
    """Where the tokens may be in a container: paths of a file, or of directories (see `files`)."""
    if request["adopt_path"]:
        return [str(request["adopt_path"])]
    found = []
    for variable in details["Config"].get("Env") or []:
        name, _, value = str(variable).partition("=")
        if name in request["token_env"] and value.startswith("/"):
            is_directory = name.endswith("_DIR")
            if files.is_one:
                found.append(f"{value}/{files.form}" if is_directory else value)
            elif is_directory:
                found.append(value)
    if files.is_one:
        return [*found, f"{request['token_mount']}/{files.form}", DEFAULT_TOKEN_PATH]
    return [*found, request["token_mount"]]

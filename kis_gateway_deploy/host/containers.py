"""Finds the containers of a deployment, reads their files and mounts, probes their health."""

from __future__ import annotations

import os
import re
import time

from .engine import Engine, EngineError
from .releases import json_of, text_of
from .tokens import FILE_LIMIT, Directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEALTH_SECONDS = 2.0
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


def kind_of(labels: dict[str, str], request: dict[str, Any]) -> str:
    """`ours`: the gateway of this deployment; `stranger`: another one with its labels; or empty.

    Containers of `docker compose run` count as neither.
    """
    if (
        labels.get("com.docker.compose.project") != request["project"]
        or labels.get("com.docker.compose.service") != request["service"]
        or labels.get("com.docker.compose.oneoff") == "True"
    ):
        return ""
    files = compose_file_of(labels).split(",")
    return "ours" if all(f.startswith(f"{request['app_dir']}/") for f in files) else "stranger"


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


def file_of_container(engine: Engine, details: dict[str, Any], path: str) -> bytes | None:
    """A file in a running or stopped container; None if it is missing or larger than 64 KiB.

    In a running container it is opened through `/proc/PID/root`, without following links: there,
    an absolute link would name a file of the host.
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


def client_address(address: str) -> str:
    """The address at which a client on the host reaches what is published on `address`."""
    everywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared
    return everywhere.get(address, address)


def authority(address: str, port: int) -> str:
    """Address and port as a URL has them: an IPv6 address in brackets (RFC 3986)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def ask_health(address: str, port: int, path: str) -> dict[str, Any]:
    """Sends a GET. Returns `status`, the HTTP status, or `error`: why there was no answer."""
    import socket

    deadline = time.monotonic() + HEALTH_SECONDS
    where = authority(address, port)
    request = f"GET {path} HTTP/1.0\r\nHost: {where}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((address, port), HEALTH_SECONDS) as connection:
            connection.sendall(request.encode())
            head = b""
            while time.monotonic() < deadline:  # to the end: else servers log a broken connection
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                part = connection.recv(65536)
                if not part:
                    break
                head = (head + part)[:64]
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", head)
        return {"status": int(status[1])} if status else {"error": "the answer is not HTTP"}
    except OSError as error:
        return {"error": str(error)}


def adopted_token_path(details: dict[str, Any], request: dict[str, Any]) -> str:
    """The path of the token file inside a container that is to be adopted."""
    if request["adopt_path"]:
        return str(request["adopt_path"])
    for variable in details["Config"].get("Env") or []:
        name, _, value = str(variable).partition("=")
        if name in request["token_env"] and value.startswith("/"):
            return f"{value}/{request['token_file']}" if name.endswith("_DIR") else value
    return DEFAULT_TOKEN_PATH

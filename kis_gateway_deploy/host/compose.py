"""The compose plugin of a host."""

from __future__ import annotations

import os

from .processes import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


SECONDS = 120.0
"""Time limit of a command that waits for no gateway."""


class ComposeError(Exception):
    """Compose failed; the text is its output."""


def plugins() -> Iterator[str]:
    """The paths at which the Docker CLI looks for compose, in its order."""
    own = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    system = ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
    for each in (own, *(f"{directory}/docker" for directory in system)):
        yield f"{each}/cli-plugins/docker-compose"


def compose(
    project: str,
    files: list[str],
    words: list[str],
    seconds: float = SECONDS,
    apart: bool = False,
    stdin: int | None = None,
) -> str:
    """Runs the compose plugin and returns its output; `docker compose` would start it twice.

    `project`: the project's name; empty: as the project itself says. `apart`: the output without
    warnings. `stdin`: the descriptor of the file `-`. Without `DOCKER_HOST` compose uses the user's
    current context.

    Raises:
        ComposeError: it is not installed, failed, or took longer than `seconds`.
    """
    plugin = next((path for path in plugins() if os.access(path, os.X_OK)), None)
    if plugin is None:
        raise ComposeError("docker compose is not installed here")
    flags = [word for file in files for word in ("--file", file)]
    name = ["--project-name", project] if project else []
    status, output = run([plugin, *name, *flags, *words], seconds, stdin, apart)
    if status:
        raise ComposeError(output or f"docker compose ended with status {status}")
    return output

"""The compose plugin of a host."""

from __future__ import annotations

import os
import re

from .processes import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


SECONDS = 120.0
"""Time limit of a command that waits for no gateway."""


WITHOUT_VALUES = re.compile(
    r"\b(?:services|networks|volumes|secrets|configs)(?:\.[\w-]+|\[\w*\])+|line \d+"
    r"|invalid interpolation format|unterminated quoted value|additional propert\w+"
    r"|undefined (?:network|volume|secret|config|service)|required variable|not found"
    r"|no such file or directory|neither an image nor a build context|did not find expected"
    r"|mapping values are not allowed|must be an? \w+|was stopped after [\d.]+ s"
    r"|Error response from daemon: .*"
)
"""What of compose's errors may be shown: where the error is, and compose's own words."""


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

    `project`: the project's name; empty: as the project itself says. `apart`: of the operator's
    own project; the output is without warnings, and an error without values. `stdin`: the
    descriptor of the file `-`. Without `DOCKER_HOST` compose uses the user's current context.

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
        raise ComposeError(
            (without_values(output) if apart else output)
            or f"docker compose ended with status {status}"
        )
    return output


def without_values(output: str) -> str:
    """Where compose has found an error in the operator's files, whose lines it may quote."""
    words = re.split(r"[\s\"',;]+|:(?=\s|$)", output)
    paths = [word for word in words if os.path.isabs(word) and os.path.isfile(word)]
    found = dict.fromkeys([*paths, *WITHOUT_VALUES.findall(output)])
    return (
        f"{', '.join(found) or 'an error'} (its text may quote a secret: to see it, run docker "
        "compose config --quiet in the project's directory)"
    )

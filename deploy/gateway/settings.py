"""One host's inventory data, validated and typed before anything is touched."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

PREFIXES = ("gateway_", "rollout_")

# What the container is told by the package itself; an operator's `gateway_environment` may not
# say otherwise, or the token would quietly go back into the container.
RESERVED_ENVIRONMENT = {
    "KIS_TOKEN_FILE_PATH": "gateway_token_dir and gateway_token_file",
    "SECRETS_FILE": "gateway_secrets_file",
    "PORT": "gateway_container_port",
}


class SettingsError(ValueError):
    """Every wrong field of a whole inventory, as one message.

    `problems` holds (host name, field name, what is wrong and what to do), in inventory order.
    """

    def __init__(self, problems: list[tuple[str, str, str]]) -> None:
        self.problems = problems
        width = max(len(f"{host}: {name}") for host, name, _ in problems)
        lines = [f"  {f'{host}: {name}':<{width}}  {what}" for host, name, what in problems]
        count = f"{len(problems)} setting{'s' if len(problems) > 1 else ''}"
        super().__init__(
            f"{count} of the inventory cannot be used; no host was touched.\n" + "\n".join(lines)
        )


def _absolute(path: str) -> str:
    if not re.fullmatch(r"/[^\0\n:]+", path) or ".." in Path(path).parts:
        raise ValueError("must be an absolute path without `..`, `:` or line breaks")
    return path.rstrip("/")


def _user(user: str) -> str:
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", user)
    if not match:
        raise ValueError("must be `uid:gid` in numbers, for example `10001:10001`")
    return user


def _file_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError("must be a plain file name, for example `kis_token.json`")
    return name


def _project(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError("must be a compose project name: lower case letters, digits, `_`, `-`")
    return name


def _image(reference: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.\-:/@]*", reference, re.ASCII):
        raise ValueError("must be an image reference, for example `registry.example/kis:1.4`")
    return reference


def _text(value: Any) -> str:
    """Environment and label values as the strings that compose hands to the container."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        text = str(value)
        if "\0" in text:
            raise ValueError("cannot hold a NUL character")
        return text
    raise ValueError("must be a string or a number")


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Text = Annotated[str, BeforeValidator(_text)]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Settings(BaseModel):
    """The inventory contract: one field for each `gateway_…` and `rollout_…` name.

    `gateway_` is left out of the attribute (`settings.port` is `gateway_port`). Durations are in
    seconds. Paths are on the host unless the name says otherwise in the README's table.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda n: n if n.startswith("rollout_") else f"gateway_{n}",
        # A wrong value may be a secret in the wrong place: it is never repeated in an error.
        hide_input_in_errors=True,
    )

    image: Annotated[str, AfterValidator(_image)]
    secrets_file: Path
    app_key_field: str

    image_source: Literal["registry", "build"] = "registry"
    build_context: Path | None = None
    user: Annotated[str, AfterValidator(_user)] = "10001:10001"
    bind_address: Annotated[str, Field(pattern=r"^\d{1,3}(\.\d{1,3}){3}$")] = "127.0.0.1"
    port: Port = 8080
    container_port: Port = 8080
    network_mode: Literal["bridge", "host"] = "bridge"
    environment: dict[Name, Text] = {}
    env_file: Path | None = None
    healthcheck: dict[str, Any] | None = None
    read_only: bool = True
    memory_limit: Annotated[str, Field(pattern=r"^\d+[bkmg]?$")] = "512m"
    cpus: Annotated[float, Field(gt=0)] = 1.0
    stop_grace_period: Annotated[str, Field(pattern=r"^(\d+(h|m|s|ms))+$")] = "10s"
    labels: dict[str, Text] = {}
    token_dir: AbsolutePath = "/docker_data/kis_tokens"
    token_file: Annotated[str, AfterValidator(_file_name)] = "kis_token.json"
    app_dir: AbsolutePath = "/opt/kis-gateway"
    project: Annotated[str, AfterValidator(_project)] = "kis"
    install_docker: bool = True
    token_at_start: bool = True
    cached_token_log: str = "유효한 캐시 토큰 사용"
    simulator: bool = False

    rollout_min_healthy_time: Annotated[float, Field(ge=0)] = 5
    rollout_healthy_deadline: Annotated[float, Field(gt=0)] = 120

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if (self.image_source == "build") != (self.build_context is not None):
            raise ValueError(
                "gateway_build_context is needed for gateway_image_source='build', and only there"
            )
        if self.image_source == "build" and re.search(r"[@:][^/]*$", self.image):
            raise ValueError(
                "gateway_image must have no tag for gateway_image_source='build': "
                "the tag is the hash of the context"
            )
        for name in self.environment:
            if name in RESERVED_ENVIRONMENT:
                raise ValueError(
                    f"gateway_environment may not set {name}: it follows from "
                    f"{RESERVED_ENVIRONMENT[name]}"
                )
        if self.rollout_min_healthy_time >= self.rollout_healthy_deadline:
            raise ValueError("rollout_healthy_deadline must be longer than min_healthy_time")
        if self.token_dir == self.app_dir or self.token_dir.startswith(f"{self.app_dir}/"):
            raise ValueError("gateway_token_dir must lie outside gateway_app_dir")
        return self

    @property
    def uid(self) -> int:
        return int(self.user.split(":")[0])

    @property
    def gid(self) -> int:
        return int(self.user.split(":")[1])

    @property
    def token_path(self) -> str:
        """The token file on the host."""
        return f"{self.token_dir}/{self.token_file}"

    @property
    def published_port(self) -> int:
        """The port that the gateway answers on, seen from the host."""
        return self.container_port if self.network_mode == "host" else self.port


def alias(field: str) -> str:
    """The inventory's name of a `Settings` attribute."""
    return field if field.startswith("rollout_") else f"gateway_{field}"


KNOWN_NAMES = frozenset(alias(field) for field in Settings.model_fields)


def validate_fleet(fleet: Mapping[str, Mapping[str, Any]]) -> dict[str, Settings]:
    """The settings of every host, or one error that lists everything wrong with any of them.

    `fleet` maps each inventory name to its host data; names without one of our prefixes (such as
    `ssh_hostname`) are pyinfra's and are only read to tell whether two names are one machine.
    Touches no host; reads the secrets, environment and build files on this machine.

    Raises:
        SettingsError: with all problems of all hosts.
    """
    problems: list[tuple[str, str, str]] = []
    valid: dict[str, Settings] = {}
    for host, data in fleet.items():
        ours = {key: value for key, value in data.items() if key.startswith(PREFIXES)}
        found = [(host, key, _suggestion(key)) for key in ours if key not in KNOWN_NAMES]
        try:
            settings = Settings.model_validate({k: v for k, v in ours.items() if k in KNOWN_NAMES})
        except ValidationError as error:
            found += [(host, _field(e["loc"]), _message(e)) for e in error.errors()]
        else:
            found += [(host, name, what) for name, what in _file_problems(settings)]
            valid[host] = settings
        problems += found
    if not problems:
        problems += _collisions(fleet, valid)
    if problems:
        raise SettingsError(problems)
    return valid


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name, KNOWN_NAMES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see the README's table of settings"
    return f"is not a setting; {hint}"


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "settings"


def _message(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    return str(error["msg"]).removeprefix("Value error, ")


def _file_problems(settings: Settings) -> list[tuple[str, str]]:
    """What is wrong with the files on the controller that the settings name."""
    problems = []
    try:
        read_secrets(settings)
    except ValueError as error:
        problems.append(("gateway_secrets_file", str(error)))
    if settings.env_file is not None:
        try:
            settings.env_file.read_bytes()
        except OSError as error:
            problems.append(("gateway_env_file", f"{settings.env_file}: {error.strerror}"))
    if settings.build_context and not (settings.build_context / "Dockerfile").is_file():
        problems.append(("gateway_build_context", f"{settings.build_context} has no Dockerfile"))
    return problems


def read_secrets(settings: Settings) -> bytes:
    """The secrets file as it will lie on the host, byte for byte.

    Raises:
        ValueError: it cannot be read, is not a JSON object, or lacks the app key. The message
            never repeats the content.
    """
    path = settings.secrets_file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    try:
        secrets = json.loads(content)
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(secrets, dict):
        raise ValueError(f"{path} must hold a JSON object")
    key = secrets.get(settings.app_key_field)
    if not isinstance(key, str) or not key.strip():
        raise ValueError(
            f"{path} has no app key under {settings.app_key_field!r} (gateway_app_key_field)"
        )
    return content


def _collisions(
    fleet: Mapping[str, Mapping[str, Any]], valid: Mapping[str, Settings]
) -> list[tuple[str, str, str]]:
    """Pairs of names that are one machine and would take something from each other."""
    problems = []
    taken: dict[tuple[Any, ...], str] = {}
    for host, settings in valid.items():
        data = fleet[host]
        machine = (data.get("ssh_hostname") or host, str(data.get("ssh_port") or 22))
        for field, value in (
            ("project", settings.project),
            ("port", settings.published_port),
            ("app_dir", settings.app_dir),
            ("token_dir", settings.token_dir),
        ):
            other = taken.setdefault((machine, field, value), host)
            if other != host:
                problems.append(
                    (host, alias(field), f"{value} is taken by {other} on the same machine")
                )
    return problems

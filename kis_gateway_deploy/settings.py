"""One host's inventory data, typed: the inventory contract."""

from __future__ import annotations

import math
import re
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from kis_gateway_deploy.credentials import (
    Credentials,
    Secret,
    from_command,
    from_file,
    from_variables,
    read_file,
)
from kis_gateway_deploy.env_file import names_in, values_in
from kis_gateway_deploy.host.client import client_address
from kis_gateway_deploy.setting_forms import (
    A_DAY,
    AbsolutePath,
    Address,
    BatchSizes,
    Command,
    ContainerName,
    HealthPath,
    HostDirectory,
    ImageName,
    KrxHours,
    Label,
    Name,
    Names,
    Number,
    Port,
    Probe,
    Project,
    RolloutWindow,
    ServiceName,
    Text,
    TokenFile,
    TokenMount,
    User,
)
from kis_gateway_deploy.windows import Window, outside_krx, weekly

PREFIXES = ("gateway_", "rollout_")
SERVICE = "kis-gateway"  # of the compose file
# Variables that the package itself sets. `gateway_environment` may not change them: the gateway
# would silently store its token inside the container again.
RESERVED_ENVIRONMENT = {
    "SECRETS_FILE": "gateway_secrets_file",
    "PORT": "gateway_container_port",
}
DEFAULT_ENVIRONMENT = {"GUNICORN_CMD_ARGS": "--timeout 600"}
TOKEN_SETTINGS = "gateway_token_mount and gateway_token_file"


def alias(field: str) -> str:
    """The inventory's name of a `Settings` attribute."""
    return field if field.startswith(("rollout_", "plan_")) else f"gateway_{field}"


class Settings(BaseModel):
    """The inventory contract: one field for each `gateway_…` and `rollout_…` name, and `plan_show`.

    `gateway_` is left out of the attribute (`settings.port` is `gateway_port`). Durations are in
    seconds. Paths are on the host unless the name says otherwise in the table in docs/settings.md.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=alias,
        # A wrong value may be a secret in the wrong place: it is never repeated in an error.
        hide_input_in_errors=True,
    )

    compose_file: AbsolutePath | None = None
    """Path of your own compose file on the host, for a gateway that stays a service of your compose
    project (see docs/in-place.md). Then image, secrets, environment and the like stay there.
    """
    service: ServiceName | None = None
    """Name of the gateway's service in `gateway_compose_file`."""
    image: ImageName = ""
    """Image reference: with its registry or a digest for `registry`, without a tag for `build`."""
    secrets_file: Path | None = None
    """Path of the secrets file on the deploying machine: JSON, YAML (`.yaml`, `.yml`) or dotenv
    (`.env`). In the container it is always `/app/config/secrets.json`, byte for byte, and
    `SECRETS_FILE` has this path. A gateway that reads variables only needs no secrets file.
    """
    secrets_command: Annotated[Command | None, Field(repr=False)] = None
    """Instead of `gateway_secrets_file`: a command on the deploying machine that prints its
    content, as a list of strings, such as `["sops", "-d", "kis.enc.json"]`. It runs once, without
    a shell or standard input, for at most 60 s.
    """
    app_key_field: str = ""
    """Field that holds the app key: its name, or its path if it is nested (`real.app_key`).
    Without secrets file and command: a variable of `gateway_env_file` or `gateway_environment`.
    """

    image_source: Literal["registry", "archive", "build", "host"] = "registry"
    """`registry`: the host pulls the image, pinned by its digest; `archive`: the image is sent
    over SSH; `build`: the host builds it; `host`: it is on the host already.
    """
    registry_auth_file: Path | None = None
    """For `registry`: a docker `config.json` on the deploying machine with the login; without it,
    each machine's own `docker login` applies.
    """
    image_archive: Path | None = None
    """For `archive`: a `docker save` tar on the deploying machine, plain, gzip or zstd; without
    it, that machine's Docker exports `gateway_image`. From a tar for several platforms, each host
    is sent its own image.
    """
    build_context: Path | None = None
    """For `build`: a directory with a Dockerfile on the deploying machine."""
    user: User = "10001:10001"
    """`uid:gid` that the container runs as; it owns the token directory and the secrets."""
    bind_address: Address = "127.0.0.1"
    """IPv4 or IPv6 address on which the host publishes the gateway. `0.0.0.0`: every IPv4 address;
    `::`: every IPv6 address, and no IPv4 address. Over IPv6, Docker's userland proxy passes
    connections to the container's IPv4 address: the gateway need not listen on IPv6, and sees
    Docker's address as the client's.
    """
    port: Port = 8080
    """Port on which the host publishes the gateway."""
    container_port: Port = 8080
    """Port on which the gateway listens in its container; the container gets it as `PORT`."""
    network_mode: Literal["bridge", "host"] = "bridge"
    """`bridge`, or `host` for a gateway in the host's own network, where it usually listens on
    every address, on `gateway_container_port`.
    """
    open_to_network: bool = False
    """Whether other machines may reach the gateway, which asks for no authentication; needed for a
    `gateway_bind_address` that is not on loopback, and for `gateway_network_mode = "host"`.
    """
    environment: Annotated[dict[Name, Text], Field(repr=False)] = {}
    """Additional environment variables, except `SECRETS_FILE`, `PORT` and those of
    `gateway_token_env`.
    """
    env_file: Path | None = None
    """Path of an env file on the deploying machine, with other names than `gateway_environment`
    and those above. A value with `$` must be in single quotes.
    """
    health_path: HealthPath | None = "/health"
    """Path, with its query, that a healthy gateway answers with 2xx; `None` for a program without
    HTTP.
    """
    probe: Annotated[Probe | None, Field(repr=False)] = None
    """A request to the gateway that succeeds only if KIS accepts the token: `path` with its query,
    `method` (`GET`), `headers`, `body` (JSON) and `expect`, an HTTP status (`200`) or a part of the
    JSON answer such as `{"rt_cd": "0"}`. A quotation, never an order. Health gate, `drift`, `plan`,
    `status` and `verify` send it.
    """
    healthcheck: dict[str, JsonValue] | None = None
    """A compose `healthcheck` mapping that a deploy waits for; without it, the image's own applies,
    if it has one, and a deploy ignores its result.
    """
    compose_override: Path | None = None
    """Path of a compose file on the deploying machine that adds to the gateway's service: networks,
    mounts, a command, dns, ulimits. It may not change what these settings say.
    """
    read_only: bool = True
    """Whether the container's root file system is read-only; `/tmp` and the token directory stay
    writable.
    """
    memory_limit: Annotated[str, Field(pattern=r"^[1-9][0-9]*[bkmg]?$")] = "512m"
    """Memory limit of the container, as compose's `mem_limit`."""
    cpus: Annotated[Number, Field(gt=0)] = 1.0
    """Number of processors that the container may use, as in compose."""
    stop_grace_period: Annotated[str, Field(pattern=r"^([0-9]{1,6}(h|m|s|ms)){1,4}$")] = "10s"
    """Time for the gateway to stop before it is killed, as in compose."""
    labels: dict[Label, Text] = {}
    """Additional labels of the container."""
    token_dir: HostDirectory = "/docker_data/kis_tokens"
    """Token directory on the host, mounted at `gateway_token_mount`."""
    token_mount: TokenMount = "/app/tokens"
    """Directory in the container in which the gateway keeps its token file."""
    token_file: TokenFile | None = "kis_token.json"
    """Name of the token file in that directory, which may begin with a dot; a pattern for several
    files (`token_real_*.json`); a name with a Korean date (`KIS{date:%Y%m%d}`); or `None` for every
    file, also in subdirectories.
    """
    tokens_expected: Annotated[int, Field(ge=1, le=20, strict=True)] = 1
    """Number of valid tokens that a healthy gateway has, such as 2 for a real and a paper one."""
    token_env: Names = ("KIS_TOKEN_FILE_PATH",)
    """Variable that names the token file for the gateway; one name, a list, or `None` for a gateway
    with a fixed path. A variable whose name ends with `_DIR` gets the directory. If
    `gateway_token_file` is not a plain name, only such a variable can be set.
    """
    app_dir: HostDirectory = "/opt/kis-gateway"
    """Directory on the host for releases and history."""
    project: Project = "kis"
    """Compose project name; two gateways on one machine need two names."""
    install_docker: bool = True
    """Whether `deploy` may install Docker Engine and compose if they are missing."""
    adopt_container: ContainerName | None = None
    """Name of a gateway container, running or stopped, that this package did not create: the
    deploy replaces it and keeps its token.
    """
    adopt_token_path: AbsolutePath | None = None
    """Path of the token file inside the adopted container, or of the directory of several files;
    without it, as that container's own variables of `gateway_token_env` say, in
    `gateway_token_mount`, or `/tmp/kis_token_gateway.json`.
    """
    adopt_without_token: bool = False
    """Whether to adopt a container even if no token is found in it: the new container then asks
    KIS for one.
    """
    token_store: Literal["file", "external"] = "file"
    """`external` for a gateway that keeps its token in memory, Redis or a database: no token can be
    judged, shared, counted or adopted, and the health gate goes by what a client sees.
    """
    token_at_start: bool = True
    """Whether the gateway gets its token when it starts; `False` if it asks KIS only at its first
    request.
    """
    cached_token_log: str | None = None
    """Text that the gateway logs when it uses a stored token, such as `유효한 캐시 토큰 사용`;
    `verify` looks for it after each restart.
    """
    simulator: bool = False
    """Whether the host also runs the KIS simulator, reachable from the host and its containers
    only.
    """

    rollout_batches: BatchSizes = [1, "25%", "100%"]
    """Batch sizes as counts or percentages of the hosts to switch; the last size repeats."""
    rollout_revert: Literal["fleet", "host"] = "fleet"
    """After a failure, hosts that were already switched are reverted (`fleet`) or stay (`host`)."""
    rollout_share_token: bool = True
    """Whether a host without a token gets the token of another host with the same app key."""
    rollout_min_healthy_time: Annotated[Number, Field(ge=0, le=A_DAY)] = 10
    """Seconds for which a new container must stay healthy."""
    rollout_healthy_deadline: Annotated[Number, Field(gt=0, le=A_DAY)] = 120
    """Seconds within which it must have been healthy for `rollout_min_healthy_time`."""
    rollout_window: RolloutWindow = None
    """When `deploy`, `restart`, `renew`, `rollback`, `down` and `verify` may change anything:
    `"outside-krx"`, or a list of days and times in Korean time such as
    `["Mon-Fri 20:30-23:00", "Sat,Sun"]`; `None`: always.
    """
    rollout_krx_hours: KrxHours = "07:00-20:00"
    """For `rollout_window = "outside-krx"`: the hours of KRX's trading days in which the window is
    closed, in Korean time.
    """
    rollout_after: Annotated[Command | None, Field(repr=False)] = None
    """A command on the deploying machine, as a list of strings, that gets a JSON document on its
    standard input when `deploy`, `restart`, `renew`, `rollback` or `down` ends; see
    docs/operations.md. It runs without a shell, for at most 30 s, and its failure fails no deploy.
    """
    plan_show: list[Name] = []
    """Names whose values `plan` and `drift` show; other values that may be secret are hidden."""

    @cached_property
    def credentials(self) -> Credentials:
        """The app key and its secrets; files are read once, a command is run once."""
        if self.is_in_place:
            return Credentials("in place", {})  # the operator's compose project knows it
        if self.secrets_file is not None:
            return from_file(self.secrets_file, self.app_key_field)
        if self.secrets_command is not None:
            return from_command(self.secrets_command, self.app_key_field)
        return from_variables(self.variables, self.app_key_field)

    @property
    def is_in_place(self) -> bool:
        """Whether the gateway stays a service of the operator's own compose project."""
        return self.compose_file is not None

    @property
    def service_name(self) -> str:
        return self.service or SERVICE

    @property
    def has_secrets_file(self) -> bool:
        """Whether a secrets file is mounted; else the app key is a variable."""
        return self.secrets_file is not None or self.secrets_command is not None

    @cached_property
    def env_content(self) -> Secret | None:
        """The env file, read once. Raises OSError, ValueError."""
        return Secret(read_file(self.env_file)) if self.env_file else None

    @cached_property
    def env_names(self) -> dict[str, int]:
        """The names in the env file, each with its line. Raises OSError, ValueError."""
        return names_in(self.env_content.content) if self.env_content else {}

    @cached_property
    def override_content(self) -> bytes | None:
        """The compose override, read once. Raises OSError, ValueError."""
        return read_file(self.compose_override) if self.compose_override else None

    @property
    def variables(self) -> dict[str, str]:
        """What the env file and `environment` set. Raises OSError, ValueError."""
        of_file = values_in(self.env_content.content) if self.env_content else {}
        return of_file | self.environment

    @property
    def stop_grace_seconds(self) -> int:
        """How long the gateway may take to stop, rounded up."""
        seconds = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
        parts = re.findall("([0-9]+)(ms|[hms])", self.stop_grace_period)
        return math.ceil(sum(int(number) * seconds[unit] for number, unit in parts))

    @property
    def is_open(self) -> bool:
        """Whether other machines may reach the gateway."""
        return self.network_mode == "host" or not ip_address(self.bind_address).is_loopback

    @property
    def uid(self) -> int:
        return int(self.user.split(":")[0])

    @property
    def gid(self) -> int:
        return int(self.user.split(":")[1])

    @property
    def token_path(self) -> str:
        """The token file on the host, or what stands for several."""
        return self.token_dir if self.token_file is None else f"{self.token_dir}/{self.token_file}"

    @property
    def is_one_token_file(self) -> bool:
        """Whether the token file always has the same name."""
        return self.token_file is not None and not {*"*?{"} & {*self.token_file}

    @property
    def expects_token(self) -> bool:
        """Whether a healthy gateway has a token in its token file."""
        return self.token_at_start and self.token_store == "file"

    @property
    def token_variables(self) -> dict[str, str]:
        """What the container gets for each of `gateway_token_env`."""
        file = f"{self.token_mount}/{self.token_file}"
        return {
            name: self.token_mount if name.endswith("_DIR") else file
            for name in self.token_env
            if self.is_one_token_file or name.endswith("_DIR")
        }

    @property
    def reserved(self) -> dict[str, str]:
        """The variables that the package sets, each with the setting that it follows from."""
        return RESERVED_ENVIRONMENT | dict.fromkeys(self.token_variables, TOKEN_SETTINGS)

    @cached_property
    def window(self) -> Window | None:
        """`rollout_window`, parsed; None: always open."""
        if isinstance(self.rollout_window, list):
            return weekly(self.rollout_window)
        return outside_krx(self.rollout_krx_hours) if self.rollout_window else None

    @property
    def client_address(self) -> str:
        """The address at which a client on the host reaches the gateway."""
        return "127.0.0.1" if self.network_mode == "host" else client_address(self.bind_address)

    @property
    def published_port(self) -> int:
        """The port that the gateway answers on, seen from the host."""
        return self.container_port if self.network_mode == "host" else self.port


REQUIRED = ("gateway_image", "gateway_app_key_field")
"""Settings that every gateway needs that is not in place."""
NOT_IN_PLACE = (
    *("image", "image_source", "registry_auth_file", "image_archive", "build_context"),
    *("secrets_file", "secrets_command", "app_key_field", "environment", "env_file"),
    *("healthcheck", "compose_override", "read_only", "memory_limit", "cpus", "labels"),
    *("stop_grace_period", "open_to_network", "project", "adopt_container", "install_docker"),
)
"""What the operator's own compose file decides, or does not apply there."""
KNOWN_NAMES = frozenset(alias(field) for field in Settings.model_fields)


def read_secrets(settings: Settings) -> Secret | None:
    """The secrets file as it will be on the host, byte for byte; None if there is none.

    Raises:
        ValueError: it cannot be read, or has no known form; the command that prints it fails.
        KeyError: there is no app key.
    """
    return settings.credentials.file


def key_fingerprint(settings: Settings) -> str:
    """The first 12 hex digits of the app key's SHA-256: identifies a key without revealing it.

    It belongs to the same bytes as `read_secrets`. The reference gateway writes it into its token
    file.

    Raises:
        ValueError, KeyError: as `read_secrets`.
    """
    return settings.credentials.fingerprint

"""One host's inventory data, validated and typed before anything is touched."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
)

from kis_gateway_deploy.credentials import (
    Credentials,
    Secret,
    from_command,
    from_file,
    from_variables,
    read_file,
    reason,
)
from kis_gateway_deploy.env_file import EnvFileError, names_in, values_in
from kis_gateway_deploy.host.containers import client_address
from kis_gateway_deploy.override import problems_in
from kis_gateway_deploy.reading import escaped
from kis_gateway_deploy.registry import ImageReference, read_login
from kis_gateway_deploy.saved_image import find_image
from kis_gateway_deploy.windows import OUTSIDE_KRX, WINDOW_FORM, Window, outside_krx, weekly

PREFIXES = ("gateway_", "rollout_")

SERVICE = "kis-gateway"  # of the compose file
SIMULATOR_LABEL = "kis-simulator"  # the label of the simulator's container
A_DAY = 24 * 3600

# Variables that the package itself sets. `gateway_environment` may not change them: the gateway
# would silently store its token inside the container again.
RESERVED_ENVIRONMENT = {
    "SECRETS_FILE": "gateway_secrets_file",
    "PORT": "gateway_container_port",
}
DEFAULT_ENVIRONMENT = {"GUNICORN_CMD_ARGS": "--timeout 600"}


TOKEN_SETTINGS = "gateway_token_mount and gateway_token_file"
SECRETS_TARGET = "/app/config/secrets.json"


# Host name, setting, and what is wrong with it.
Problem = tuple[str, str, str]


class SettingsError(ValueError):
    """All wrong settings of an inventory in one message; `problems` in inventory order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        width = max(len(f"{host}: {name}") for host, name, _ in problems)
        lines = [
            escaped(f"  {f'{host}: {name}':<{width}}  {what}") for host, name, what in problems
        ]
        count = f"{len(problems)} setting{'s' if len(problems) > 1 else ''}"
        super().__init__(
            f"{count} of the inventory cannot be used; no host was touched.\n" + "\n".join(lines)
        )


def _absolute(path: str) -> str:
    path = path.rstrip("/")
    parts = path.split("/")[1:]
    if not re.fullmatch(r"/[^\0\r\n:]+", path) or {"", ".", ".."} & set(parts):
        raise ValueError("must be an absolute path without `.`, `..`, `//`, `:` or line breaks")
    return path


# Root gives the directory to the container's user, or their content is lost at a reboot.
SYSTEM_DIRECTORIES = {
    *("/bin", "/boot", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/root"),
    *("/sbin", "/srv", "/usr", "/usr/local", "/var", "/var/lib", "/var/lib/docker", "/var/log"),
    *("/tmp", "/var/tmp"),  # noqa: S108 - compared, never used
}
NOT_BELOW = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys"),
    *("/usr", "/var/lib/docker", "/var/run"),
)


def _host_directory(path: str) -> str:
    """An absolute path that can be a directory of this package alone."""
    path = _absolute(path)
    if path in SYSTEM_DIRECTORIES or any(f"{path}/".startswith(f"{top}/") for top in NOT_BELOW):
        raise ValueError("must be a directory of its own, not one of the system's")
    if "\\" in path:
        raise ValueError("must be a path without backslashes")
    return path


def _user(user: str) -> str:
    if not re.fullmatch("[0-9]{1,9}:[0-9]{1,9}", user, re.ASCII):
        raise ValueError("must be `uid:gid` in numbers, for example `10001:10001`")
    return ":".join(str(int(number)) for number in user.split(":"))


def _matching(pattern: str, must_be: str) -> AfterValidator:
    """A check whose message does not repeat the value."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"must be {must_be}")
        return text

    return AfterValidator(check)


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


def _address(address: str) -> str:
    """The address as the kernel and Docker print it."""
    try:
        found = ip_address(address)
    except ValueError:  # its message repeats the value
        raise ValueError(
            "must be an IPv4 or IPv6 address without brackets and port, for example `127.0.0.1` "
            "or `::1`"
        ) from None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped:
            raise ValueError("is an IPv4 address in IPv6 form: write it as `127.0.0.1`")
        if found.is_link_local:
            raise ValueError(
                "is an address of one link (fe80::/10), on which Docker cannot publish: use `::1`, "
                "`::` or a global or unique local address (fc00::/7) of the host"
            )
        if found.scope_id is not None:
            raise ValueError("cannot have an interface (`%`): Docker publishes on addresses only")
    return str(found)


def _health_path(path: str) -> str:
    if not re.fullmatch(r"/[!-~]*", path):
        raise ValueError("must be a path in ASCII without blanks, for example `/health`")
    return path


def _mount(path: str) -> str:
    path = _absolute(path)
    if path in {"/", "/tmp"} or f"{SECRETS_TARGET}/".startswith(f"{path}/"):  # noqa: S108
        raise ValueError("must be another directory than `/`, `/tmp` and that of the secrets file")
    return path


def _token_file(form: str) -> str:
    """A file name, which may hold `*` and `?`, or one date."""
    name = re.sub(r"\{date:(%[Ymdyj]|[._-])+\}", "20270101", form, count=1)
    if not re.fullmatch(r"\.?[A-Za-z0-9*?][A-Za-z0-9._*?-]*", name, re.ASCII) or (
        name != form and {*"*?"} & {*form}
    ):
        raise ValueError(
            "must be a plain file name (`kis_token.json`), a pattern (`token_real_*.json`), a name "
            "with a date (`KIS{date:%Y%m%d}`), or None for every file"
        )
    return form


def _names(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(value) if isinstance(value, list) else value


def _batch_sizes(sizes: Any) -> Any:
    percentage = re.compile("([1-9][0-9]?|100)%")
    if isinstance(sizes, list) and all(
        size >= 1 if type(size) is int else percentage.fullmatch(str(size)) for size in sizes
    ):
        return sizes or [1]
    raise ValueError('must be a list of counts and percentages, such as [1, "25%", "100%"]')


def _window(window: Any) -> Any:
    if isinstance(window, list):
        weekly(window)
    elif window not in (None, OUTSIDE_KRX):
        raise ValueError(WINDOW_FORM)
    return window


def _krx_hours(hours: str) -> str:
    outside_krx(hours)
    return hours


def _label(name: str) -> str:
    if name.startswith("com.docker."):
        raise ValueError("`com.docker.` labels are Docker's own")
    if name == SIMULATOR_LABEL:
        raise ValueError(f"`{SIMULATOR_LABEL}` is the simulator's own label")
    return name


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
HostDirectory = Annotated[str, AfterValidator(_host_directory)]
User = Annotated[str, AfterValidator(_user)]
TokenFile = Annotated[str, AfterValidator(_token_file)]
Project = Annotated[
    str,
    _matching(
        "[a-z0-9][a-z0-9_-]*", "a compose project name: lower case letters, digits, `_`, `-`"
    ),
]
ContainerName = Annotated[
    str, _matching("[A-Za-z0-9][A-Za-z0-9_.-]*", "a container's name, for example `kis-gateway`")
]
ServiceName = Annotated[
    str, _matching("[A-Za-z0-9][A-Za-z0-9_.-]*", "a service's name, for example `kis-gateway`")
]
ImageName = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9][\w.\-:/@]*", "an image reference, for example `registry.example/kis:1.4`"
    ),
]
Text = Annotated[str, BeforeValidator(_text)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]
BatchSizes = Annotated[list[int | str], BeforeValidator(_batch_sizes)]
RolloutWindow = Annotated[Literal["outside-krx"] | list[str] | None, BeforeValidator(_window)]
KrxHours = Annotated[str, AfterValidator(_krx_hours)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Label = Annotated[str, AfterValidator(_label)]
Word = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00]+$")]
Command = Annotated[list[Word], Field(min_length=1)]


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
    it, that machine's Docker exports `gateway_image`. Of a tar for several platforms, each host is
    sent its own.
    """
    build_context: Path | None = None
    """For `build`: a directory with a Dockerfile on the deploying machine."""
    user: User = "10001:10001"
    """`uid:gid` that the container runs as; it owns the token directory and the secrets."""
    bind_address: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
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
    health_path: Annotated[str, AfterValidator(_health_path)] | None = "/health"
    """Path, with its query, that a healthy gateway answers with 2xx; `None` for a program without
    HTTP.
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
    stop_grace_period: Annotated[str, Field(pattern=r"^([0-9]+(h|m|s|ms))+$")] = "10s"
    """Time for the gateway to stop before it is killed, as in compose."""
    labels: dict[Label, Text] = {}
    """Additional labels of the container."""
    token_dir: HostDirectory = "/docker_data/kis_tokens"
    """Token directory on the host, mounted at `gateway_token_mount`."""
    token_mount: Annotated[str, AfterValidator(_mount)] = "/app/tokens"
    """Directory in the container in which the gateway keeps its token file."""
    token_file: TokenFile | None = "kis_token.json"
    """Name of the token file in that directory, which may begin with a dot; a pattern for several
    files (`token_real_*.json`); a name with a Korean date (`KIS{date:%Y%m%d}`); or `None` for every
    file, also in subdirectories.
    """
    tokens_expected: Annotated[int, Field(ge=1, le=20, strict=True)] = 1
    """Number of valid tokens that a healthy gateway has, such as 2 for a real and a paper one."""
    token_env: Annotated[tuple[Name, ...], BeforeValidator(_names)] = ("KIS_TOKEN_FILE_PATH",)
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
    """Path of the token file inside the adopted container; without it, as that container's own
    variables of `gateway_token_env` say, or `/tmp/kis_token_gateway.json`.
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
    """When `deploy`, `restart`, `rollback`, `down` and `verify` may change or restart anything:
    `"outside-krx"`, or a list of days and times in Korean time such as
    `["Mon-Fri 20:30-23:00", "Sat,Sun"]`; `None`: always.
    """
    rollout_krx_hours: KrxHours = "07:00-20:00"
    """For `rollout_window = "outside-krx"`: the hours of KRX's trading days in which the window is
    closed, in Korean time.
    """
    rollout_after: Annotated[Command | None, Field(repr=False)] = None
    """A command on the deploying machine, as a list of strings, that gets a JSON document on its
    standard input when `deploy`, `restart`, `rollback` or `down` ends; see docs/operations.md. It
    runs without a shell, for at most 30 s, and its failure fails no deploy.
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


def validate_fleet(fleet: Mapping[str, Mapping[str, Any]]) -> dict[str, Settings]:
    """The settings of every host, or one error that lists everything wrong with any of them.

    `fleet` maps each inventory name to its host data; names without one of our prefixes (such as
    `ssh_hostname`) are pyinfra's and are only read to find two names of one machine. Touches no
    host; reads the secrets, environment, login, build and image files on the controller.

    Raises:
        SettingsError: with all problems of all hosts.
    """
    valid: dict[str, Settings] = {}
    problems: list[Problem] = []
    for host, data in fleet.items():
        settings, found = _validate(data)
        problems += [(host, *problem) for problem in found]
        if not found:
            valid[host] = settings
    problems += _collisions(fleet, valid) + _differing_rollouts(valid)
    if problems:
        raise SettingsError(problems)
    return valid


def _validate(data: Mapping[str, Any]) -> tuple[Settings, list[tuple[str, str]]]:
    """One host's settings, with defaults for what is wrong, and (name, what is wrong) pairs."""
    problems = [(name, hint) for name in data if (hint := _suggestion(name))]
    ours = {name: value for name, value in data.items() if name in KNOWN_NAMES}
    wrong: set[str] = set()
    try:
        settings = Settings.model_validate(ours)
    except ValidationError as error:
        problems += [(_field(e["loc"]), _message(e)) for e in error.errors()]
        wrong = {str(e["loc"][0]) for e in error.errors()}
        # Valid settings still get the checks below, so that one error lists all problems.
        right = {name: value for name, value in ours.items() if name not in wrong}
        settings = Settings.model_validate(right)
    placed = [each for each in _place_problems(settings) if wrong.isdisjoint(each[0])]
    wrong |= {names[0] for names, _ in placed}
    checked = _relations(settings) + _file_problems(settings)
    placed += [each for each in checked if wrong.isdisjoint(each[0])]
    problems += [(names[0], what) for names, what in placed]
    return settings, problems


REMOVED = {
    "rollout_lock_ttl": "was removed: there is no lock that could expire (of two deploys at once, "
    "the second is refused); delete it",
}


def _suggestion(name: str) -> str:
    """What is wrong with a name of the host data; empty if it is a setting, or clearly none."""
    if name in REMOVED:
        return REMOVED[name]
    if name in KNOWN_NAMES:
        return ""
    near = difflib.get_close_matches(name, KNOWN_NAMES, n=1, cutoff=0.8)
    if name.startswith(PREFIXES):
        hint = f"did you mean {near[0]}?" if near else "see docs/settings.md"
        return f"is not a setting; {hint}"
    return f"looks like {near[0]}, misspelt" if near and not name.startswith("_") else ""


def _field(location: tuple[int | str, ...]) -> str:
    """The place of a wrong value. A wrong dictionary key may be a secret: it is not repeated."""
    is_named = len(location) == 2 and isinstance(location[1], str)
    return f"{location[0]}.{location[1]}" if is_named else str(location[0])


def _message(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    return str(error["msg"]).removeprefix("Value error, ")


def _relations(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    """Settings that are valid alone but not together; the first name is the one to change."""
    problems: list[tuple[tuple[str, ...], str]] = []
    reference = ImageReference.parse(settings.image or "none")
    if settings.secrets_file is not None and settings.secrets_command is not None:
        problems.append(
            (
                ("gateway_secrets_command", "gateway_secrets_file"),
                "cannot be set beside gateway_secrets_file: delete one of them",
            )
        )
    if (settings.image_source == "build") != (settings.build_context is not None):
        problems.append(
            (
                ("gateway_build_context", "gateway_image_source"),
                "is needed for gateway_image_source='build', and only there",
            )
        )
    if settings.image_source != "registry" and settings.registry_auth_file is not None:
        problems.append(
            (
                ("gateway_registry_auth_file", "gateway_image_source"),
                "is only for gateway_image_source='registry'",
            )
        )
    if settings.image_source != "archive" and settings.image_archive is not None:
        problems.append(
            (
                ("gateway_image_archive", "gateway_image_source"),
                "is only for gateway_image_source='archive'",
            )
        )
    if settings.image_source == "build" and (reference.tag or reference.digest):
        problems.append(
            (
                ("gateway_image", "gateway_image_source"),
                "must have no tag for gateway_image_source='build': the tag is the context's hash",
            )
        )
    if settings.network_mode == "host":
        problems += [
            (
                (f"gateway_{field}", "gateway_network_mode"),
                "has no effect with gateway_network_mode = 'host': the gateway itself listens, on "
                "gateway_container_port",
            )
            for field in ("port", "bind_address")
            if field in settings.model_fields_set
        ]
    if settings.is_open and not settings.open_to_network and not settings.is_in_place:
        where = "network_mode" if settings.network_mode == "host" else "bind_address"
        problems.append(
            (
                (f"gateway_{where}",),
                "lets other machines trade through the gateway, without authentication; if that is "
                "intended, set gateway_open_to_network = True and restrict the port by a firewall",
            )
        )
    problems += [
        (
            ("gateway_token_env", "gateway_token_file"),
            f"{name} cannot name a file whose name is not fixed: a variable for the directory ends "
            "with _DIR; another one may be in gateway_environment",
        )
        for name in settings.token_env
        if "token_env" in settings.model_fields_set and name not in settings.token_variables
    ]
    problems += [
        (("gateway_token_env",), f"may not be {name}, which has another meaning")
        for name in settings.token_env
        if name in RESERVED_ENVIRONMENT | DEFAULT_ENVIRONMENT
    ]
    problems += [
        (("gateway_environment",), f"may not set {name}: it follows from {source}")
        for name, source in settings.reserved.items()
        if name in settings.environment
    ]
    if settings.rollout_min_healthy_time >= settings.rollout_healthy_deadline:
        problems.append(
            (
                ("rollout_healthy_deadline", "rollout_min_healthy_time"),
                "must be longer than rollout_min_healthy_time",
            )
        )
    if "rollout_krx_hours" in settings.model_fields_set and settings.rollout_window != OUTSIDE_KRX:
        problems.append(
            (
                ("rollout_krx_hours", "rollout_window"),
                f'is only for rollout_window = "{OUTSIDE_KRX}"',
            )
        )
    if settings.adopt_container == f"{settings.project}-{SERVICE}-1":
        problems.append(
            (
                ("gateway_adopt_container", "gateway_project"),
                "is also the name of the new container: choose another gateway_project",
            )
        )
    if _nested(settings.token_dir, settings.app_dir):
        problems.append(
            (
                ("gateway_token_dir", "gateway_app_dir"),
                "and gateway_app_dir must not contain each other",
            )
        )
    return problems


def _place_problems(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    """Settings that are missing, or have no effect, by where the gateway is."""
    problems: list[tuple[tuple[str, ...], str]]
    if not settings.is_in_place:
        problems = [
            ((name,), "is missing")
            for name in REQUIRED
            if name.removeprefix("gateway_") not in settings.model_fields_set
        ]
        if settings.service:
            problems.append((("gateway_service",), "is only for a gateway in gateway_compose_file"))
        return problems
    problems = [
        (
            (alias(field), "gateway_compose_file"),
            "has no effect with gateway_compose_file, your own compose file: delete it here",
        )
        for field in NOT_IN_PLACE
        if field in settings.model_fields_set
    ]
    if not settings.service:
        problems.append((("gateway_service",), "is missing: the service in gateway_compose_file"))
    return problems


def _file_problems(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with the files on the controller that the settings name; as `_relations`."""
    problems: list[tuple[tuple[str, ...], str]] = []
    env_file = [(("gateway_env_file",), problem) for problem in _env_file_problems(settings)]
    if settings.has_secrets_file or not env_file:
        problems += _credentials_problems(settings)
    problems += env_file
    problems += [
        (("gateway_compose_override",), problem) for problem in _override_problems(settings)
    ]
    if settings.image_source == "registry" and settings.image and settings.registry_auth_file:
        try:
            read_login(settings.image, settings.registry_auth_file)
        except ValueError as error:
            problems.append((("gateway_registry_auth_file",), str(error)))
    if settings.build_context and not (settings.build_context / "Dockerfile").is_file():
        problems.append((("gateway_build_context",), "has no Dockerfile"))
    if settings.image_source == "archive" and settings.image:
        try:
            find_image(settings.image, settings.image_archive)
        except ValueError as error:
            name = "gateway_image_archive" if settings.image_archive else "gateway_image"
            problems.append(((name,), str(error)))
    return problems


def _override_problems(settings: Settings) -> list[str]:
    if settings.compose_override is None:
        return []
    try:
        content = settings.override_content or b""
    except (OSError, ValueError) as error:
        return [f"cannot be read: {reason(error)}"]
    found = problems_in(content, SERVICE, settings.token_mount)
    return [f"{settings.compose_override}: {problem}" for problem in found]


def _credentials_problems(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    try:
        settings.credentials  # noqa: B018 - is cached
    except KeyError as error:
        if settings.has_secrets_file:
            return [(("gateway_app_key_field",), str(error.args[0]))]
        sources = [alias(field) for field in ("secrets_command", "env_file", "environment")]
        if not settings.variables:
            what = (
                "is missing: set it (or gateway_secrets_command), or set the app key as a variable "
                "of gateway_env_file or gateway_environment"
            )
            return [(("gateway_secrets_file", *sources), what)]
        what = f"{error.args[0]}; set it there, or set gateway_secrets_file"
        return [(("gateway_app_key_field", "gateway_secrets_file", *sources), what)]
    except ValueError as error:
        source = "secrets_file" if settings.secrets_file is not None else "secrets_command"
        return [((alias(source),), str(error))]
    return []


def _env_file_problems(settings: Settings) -> list[str]:
    try:
        names = settings.env_names
    except EnvFileError as error:
        return [f"{settings.env_file}, {error}"]
    except (OSError, ValueError) as error:
        return [f"cannot be read: {reason(error)}"]
    sources = dict.fromkeys(settings.environment, "gateway_environment sets it, too")
    sources |= {name: f"it follows from {what}" for name, what in settings.reserved.items()}
    return [
        f"{settings.env_file}, line {line}: may not set {name}: {sources[name]}"
        for name, line in names.items()
        if name in sources
    ]


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


def _collisions(
    fleet: Mapping[str, Mapping[str, Any]], valid: Mapping[str, Settings]
) -> list[Problem]:
    """Two names of one machine that have the same port, directory, project or container."""
    problems = []
    machines: dict[tuple[str, str], list[str]] = {}
    for name in valid:
        machines.setdefault(_machine(name, fleet[name]), []).append(name)
    pairs = (pair for names in machines.values() for pair in itertools.combinations(names, 2))
    for one, two in pairs:
        first, second = valid[one], valid[two]
        taken = [
            alias(field)
            for field in ("project", "app_dir", "token_dir", "adopt_container")
            if getattr(first, field)
            and getattr(first, field) == getattr(second, field)
            and not (field == "project" and (first.is_in_place or second.is_in_place))
        ]
        if first.is_in_place and _place_of(first) == _place_of(second):
            taken.append("gateway_service")
        if first.published_port == second.published_port and _overlap(first, second):
            host_mode = second.network_mode == "host"
            taken.append("gateway_container_port" if host_mode else "gateway_port")
        problems += [(two, name, f"is the same as {one}'s, on the same machine") for name in taken]
        problems += [
            (two, alias(field), f"and {one}'s {alias(other)} contain each other")
            for field in ("token_dir", "app_dir")
            for other in ("token_dir", "app_dir")
            if getattr(second, field) != getattr(first, other)
            and _nested(getattr(second, field), getattr(first, other))
        ]
    return problems


def _place_of(settings: Settings) -> tuple[str | None, str | None]:
    return settings.compose_file, settings.service


def _nested(one: str, other: str) -> bool:
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _differing_rollouts(valid: Mapping[str, Settings]) -> list[Problem]:
    """Rollout settings that differ between hosts, compared with the first host's."""
    if not valid:
        return []
    name, first = next(iter(valid.items()))
    return [
        (other, field, f"differs from {name}'s; it must be the same for the whole inventory")
        for other, settings in valid.items()
        for field in (
            *("rollout_batches", "rollout_revert", "rollout_share_token", "rollout_after"),
            *("rollout_window", "rollout_krx_hours"),
        )
        if getattr(settings, field) != getattr(first, field)
    ]


def _machine(name: str, data: Mapping[str, Any]) -> tuple[str, str]:
    return data.get("ssh_hostname") or name, str(data.get("ssh_port") or 22)


def _overlap(first: Settings, second: Settings) -> bool:
    # In host mode a gateway may listen on every address, IPv6 included.
    if "host" in (first.network_mode, second.network_mode):
        return True
    one, other = ip_address(first.bind_address), ip_address(second.bind_address)
    is_anywhere = one.is_unspecified or other.is_unspecified
    return one == other or (one.version == other.version and is_anywhere)

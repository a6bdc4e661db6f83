"""The reading of a host, typed: the answer of `kis_gateway_deploy/host/read.py`.

A host's answer is untrusted: it is bounded, of known types, its control characters escaped.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)


def escaped(text: str) -> str:
    """The text with control characters, which a terminal would obey, escaped: `\\x1b`."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]", _code, text)


def _escaped(value: object) -> object:
    return escaped(value) if isinstance(value, str) else value


def _code(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()


TEXT_LIMIT = 4096


def _cut(value: object) -> object:
    """An image's label or a file's name may be long: that must not hide the rest of a reading."""
    return value[:TEXT_LIMIT] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(lambda value: _cut(_escaped(value)))]
Id = Annotated[str, StringConstraints(pattern="^[0-9a-f]{12}$")]
Moment = Annotated[int, Field(ge=0, lt=10**11)]
"""Epoch seconds."""


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)


class HostPath(_Read):
    """A file or directory: mode in octal as `stat` prints it, owner as `uid:gid`, kind in words."""

    mode: Annotated[str, StringConstraints(pattern="^[0-7]{1,4}$")]
    owner: Text
    kind: Text


class Binding(_Read):
    """An address and port of the host, as `docker inspect` shows them."""

    address: Annotated[Text, Field(alias="HostIp")] = ""
    port: Annotated[Text, Field(alias="HostPort")] = ""


class Container(_Read):
    """A container as `docker inspect` shows it; `health` is None without a healthcheck."""

    id: Text
    name: Text = ""
    image: Text
    image_name: Text
    compose_file: Text = ""
    is_simulator: bool = False
    status: Text
    restarts: int
    health: Text | None
    ports: dict[Text, list[Binding] | None] | None
    restart_policy: Text = "unless-stopped"
    auto_remove: bool = False

    @property
    def is_up(self) -> bool:
        """Whether it may listen; in a crash loop it does so from time to time."""
        return self.status in {"running", "paused", "restarting"}

    def published(self) -> set[tuple[str, int]]:
        """The addresses and ports of the host that lead to this container, while it is up."""
        if not self.is_up:
            return set()
        bindings = [binding for each in (self.ports or {}).values() for binding in each or []]
        numbers = [(each.address, each.port) for each in bindings if each.port.isdecimal()]
        return {(address or "0.0.0.0", int(port)) for address, port in numbers}  # noqa: S104

    @property
    def serves(self) -> bool:
        """Whether it runs, and the engine says that it is healthy or has no health check."""
        return self.status == "running" and self.health in {"healthy", None}


class Stranger(_Read):
    """A container of this deployment's compose project that this package did not create, or one
    that it did create, in another project."""

    name: Text
    compose_file: Text
    project: Text


class StoredRelease(_Read):
    """A release on the host: the fingerprint of its app key, and how its gateway keeps the token
    (see `make_manifest`)."""

    key: Id
    token_file: Text | None = None
    tokens_expected: Annotated[int, Field(ge=1, le=20)] = 1
    token_at_start: bool = True


class TokenUser(_Read):
    """Another container that mounts the token directory; `key` is None if it is unknown."""

    name: Text
    compose_file: Text
    user: Text
    key: Id | None


class InPlace(_Read):
    """The operator's compose project that the gateway is a service of.

    `files`: the operator's compose files; `override`: where this package's own file is or can be,
    None if compose would not read one. `keeps_token`: whether the container has the token's volume
    and variables; `has_lines`: whether the operator's own files have them; `is_written`: whether
    the override is as desired, or not needed. `differs`: what the operator's own `docker compose
    up` would change of the service (`files`, `image`, `definition`), or empty. `user`: of the
    container, empty if unknown; `error`: compose's words.
    """

    is_there: bool = False
    files: tuple[Text, ...] = ()
    override: Text | None = None
    keeps_token: bool = False
    has_lines: bool = False
    is_written: bool = False
    differs: Literal["", "files", "image", "definition"] = ""
    user: Text = ""
    network_mode: Text = ""
    error: Text = ""


class Health(_Read):
    """A client's result: the HTTP status, or why there was no answer."""

    status: int | None = None
    error: Text = ""

    @property
    def is_good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    def __str__(self) -> str:
        return f"HTTP {self.status}" if self.status else self.error


class TokenProbe(_Read):
    """What `gateway_probe` was answered. `is_accepted`: by KIS; None if that cannot be told.

    `code`: KIS's code for a refused token; `said`: the HTTP status, with KIS's message.
    """

    is_accepted: bool | None = None
    code: Text = ""
    said: Text = ""

    @property
    def refusal(self) -> str:
        """That KIS refuses the token, and what to do; empty if it does not."""
        if self.is_accepted is not False:
            return ""
        return f"KIS does not accept this token any more ({self.code}): run `make renew`"


class Change(_Read):
    """The last change on a host: its generation, who made it, and when (epoch seconds).

    `phase`: `begun` or `ended`; `outcome`: None before its end; `to`: the requested release.
    """

    generation: Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]
    by: Text = ""
    began: Annotated[float, Field(ge=0, lt=10**11)]
    action: Text = ""
    to: Id | None = None
    phase: Text = ""
    outcome: Text | None = None

    def __str__(self) -> str:
        return f"{self.action} by {self.by}"


class Event(_Read):
    """One line of a host's history: `began` in epoch milliseconds by the host's clock.

    `forced`: outside of `rollout_window`.
    """

    model_config = ConfigDict(populate_by_name=True, frozen=True)

    began: Annotated[int, Field(ge=0, lt=10**14)]
    seconds: Annotated[float, Field(ge=0, lt=10**9)]
    by: Text
    action: Text
    from_: Text = Field(alias="from")
    to: Text
    image: Text
    outcome: Text
    issuances: int
    forced: bool = False


def _whole_events(lines: Any) -> list[Event]:
    """The valid events. A full disk or a power failure can leave an incomplete line."""
    found = []
    for line in lines if isinstance(lines, list | tuple) else []:
        with suppress(ValidationError):
            found.append(Event.model_validate(line))
    return found


def _whole_change(value: Any) -> Change | None:
    try:
        return Change.model_validate(value)
    except ValidationError:
        return None


class Reading(_Read):
    """One host at one moment. None and empty mean: it does not exist. Times are epoch seconds."""

    uid: int
    clock: Moment
    architecture: Text
    # The architectures of images that the host runs, as Docker names them; empty if unknown.
    runs: tuple[Text, ...] = ()
    os: tuple[Text, Text] = ("", "")
    apt: bool = False
    docker_cli: bool = False
    podman: bool = False
    dockerd: bool = False
    compose: bool = False
    # `up`, `down` (nothing listens on `engine_address`) or `unusable` (`engine_error` says why).
    engine: Literal["up", "down", "unusable"] = "down"
    engine_address: Text = "unix:///var/run/docker.sock"
    engine_error: Text = ""
    user_namespaces: bool = False
    disk_free_kb: int
    listening: frozenset[tuple[Text, int]] = frozenset()
    token_dir: HostPath | None = None
    # The uids of the directory's entries, and whether a release on the host uses the directory.
    token_dir_owners: frozenset[int] = frozenset()
    token_dir_is_ours: bool = False
    # The newest token files, at most 20, by name.
    token_files: Annotated[dict[Text, HostPath], Field(max_length=20)] = {}
    token_written: Moment | None = None
    token_expires: Moment | None = None
    # The expiry in the file's own field; None if it is missing or ambiguous.
    token_file_says: Moment | None = None
    # Where `token_expires` is from, and when each token of the file expires (at most 20, sorted).
    token_source: Annotated[Text, StringConstraints(max_length=64)] = "not known"
    token_expiries: Annotated[tuple[Moment, ...], Field(max_length=20)] = ()
    # `token`, `damaged` or `unknown`, see `Evidence` in `host/tokens.py`; "" without a file.
    token_state: Literal["", "token", "damaged", "unknown"] = ""
    token_key: Id | None = None
    # The token directory that the running container has mounted: `same`, `other` or `deleted`.
    token_mount: Literal["same", "other", "deleted"] | None = None
    # When the tokens in the running container's mount and in the adopted container expire.
    mounted_token_expires: Moment | None = None
    adopted_token_expires: Moment | None = None
    # By the fingerprint of the app key: when parked tokens expire, and when KIS was last asked, if
    # the gateway has stored that.
    parked: dict[Id, Moment] = {}
    attempted: dict[Id, Moment] = {}
    refused: Moment | None = None
    # The last change, and whether a switch is under way now.
    state: Annotated[Change | None, BeforeValidator(_whole_change)] = None
    switching: bool = False
    current: Id | None = None
    previous: Id | None = None
    # The compose file of the release that runs and the hashes of its files, if it is not the
    # desired one.
    current_compose: Annotated[str, StringConstraints(max_length=1 << 17)] = ""
    current_files: dict[Text, Text] = {}
    releases: dict[Id, StoredRelease] = {}
    # With a history: the image reference of each release on the host.
    release_images: dict[Id, Text] = {}
    # What is wrong with the desired release on the host; empty if nothing is.
    release_damage: Text = "is not on the host"
    history: Annotated[tuple[Event, ...], BeforeValidator(_whole_events)] = ()
    images: dict[Text, Text] = {}
    # The architecture of each of these images that no container uses.
    image_architectures: dict[Text, Text] = {}
    # If an image must be sent: the layer digests of each image on the host, lowest first. Empty if
    # the engine needs all layers.
    layers: tuple[tuple[Text, ...], ...] = ()
    containers: tuple[Container, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    # Names of containers that are another gateway with the same app directory.
    residents: tuple[Text, ...] = ()
    token_users: tuple[TokenUser, ...] = ()
    # Addresses and ports of the host that lead to other containers, with the containers' names.
    others: tuple[tuple[Text, int, Text], ...] = ()
    # The container to adopt, and the path of its token file.
    adopted_id: Text | None = None
    adopted_path: Text = ""
    # The last container that this deployment adopted: its name, and its id if it was replaced.
    adopted_before: Text | None = None
    replaced_id: Text | None = None
    # Containers that share the gateway's network: they lose it if it is re-created.
    sidecars: tuple[Text, ...] = ()
    in_place: InPlace | None = None
    # What `gateway_health_path` answers through the published address; None if nothing was asked.
    client_sees: Health | None = None
    token_probe: TokenProbe | None = None
    # When the reading arrived, by the controller's clock; None if unknown.
    arrived: float | None = None

    @property
    def gateways(self) -> list[Container]:
        return [
            container
            for container in self.containers
            if not container.is_simulator and container.id != self.adopted_id
        ]

    @property
    def container(self) -> Container | None:
        """Of several, as an interrupted re-creation leaves them, one that serves."""
        return max(self.gateways, key=lambda container: container.serves, default=None)

    @property
    def adopted(self) -> Container | None:
        """A gateway that was started by other means, running or stopped, and is to be replaced."""
        return next((c for c in self.containers if c.id == self.adopted_id), None)

    @property
    def simulator(self) -> Container | None:
        return next((container for container in self.containers if container.is_simulator), None)


class _Answer(_Read):
    result: Reading | None = None
    error: Text = ""


def parse_reading(text: str, arrived: float | None = None) -> Reading:
    """The reading in a host's JSON answer. `arrived`: this machine's time, epoch seconds.

    Raises:
        ValueError: the host says that it failed, or its answer has an unknown form.
    """
    try:
        answer = _Answer.model_validate_json(text)
    except ValidationError as error:
        where = {".".join(map(str, each["loc"])) or each["type"] for each in error.errors()}
        shown = str(_escaped(", ".join(sorted(where))))
        raise ValueError(f"the host's answer has an unknown form: {shown}"[:300]) from None
    if answer.result is None:
        raise ValueError(answer.error or "the host's answer is empty")
    return answer.result.model_copy(update={"arrived": arrived})

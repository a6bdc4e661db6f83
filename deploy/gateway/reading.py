"""What one reading of a host found: the output of `templates/read_host.sh`, typed."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)


class HostPath(_Read):
    """A file or directory: mode in octal as `stat` prints it, owner as `uid:gid`, kind in words."""

    mode: str
    owner: str
    kind: str


class ReleaseFile(_Read):
    mode: str
    owner: str
    sha256: str


class Container(_Read):
    """A container as `docker inspect` shows it; `health` is None without a healthcheck."""

    id: str
    name: str = ""
    image: str
    image_name: str
    labels: dict[str, str]
    status: str
    restarts: int
    health: str | None
    ports: dict[str, list[dict[str, str]] | None] | None
    restart_policy: str = "unless-stopped"
    auto_remove: bool = False

    @property
    def compose_file(self) -> str:
        return self.labels.get("com.docker.compose.project.config_files", "")

    @property
    def is_up(self) -> bool:
        """Whether it may listen; a crash loop does so now and then."""
        return self.status in {"running", "paused", "restarting"}

    def published(self) -> set[tuple[str, int]]:
        """The addresses and ports of the host that lead to this container, while it is up."""
        if not self.is_up:
            return set()
        bindings = [binding for each in (self.ports or {}).values() for binding in each or []]
        return {(b.get("HostIp") or "0.0.0.0", int(b.get("HostPort") or 0)) for b in bindings}  # noqa: S104

    @property
    def is_simulator(self) -> bool:
        return "kis-simulator" in self.labels

    @property
    def serves(self) -> bool:
        """Whether it runs and the engine finds it healthy; without a health check it counts so."""
        return self.status == "running" and self.health in {"healthy", None}


class Lock(_Read):
    """Who holds the deploy lock of a host: a rollout's id, a user, a machine, a process there.

    `since` is in epoch seconds by the host's clock.
    """

    id: str
    by: str
    at: str
    pid: int
    since: int


class Event(_Read):
    """One line of a host's history: `began` in epoch milliseconds by the host's clock."""

    model_config = ConfigDict(populate_by_name=True, frozen=True)

    began: int
    seconds: float
    by: str
    action: str
    from_: str = Field(alias="from")
    to: str
    image: str
    outcome: str
    issuances: int


class Reading(_Read):
    """One host at one moment. None and empty mean: not there. Times are epoch seconds."""

    uid: int
    clock: int
    architecture: str
    os: tuple[str, str] = ("", "")
    apt: bool = False
    docker_cli: bool = False
    dockerd: bool = False
    compose: bool = False
    engine: bool = False
    disk_free_kb: int
    listening: frozenset[tuple[str, int]] = frozenset()
    token_dir: HostPath | None = None
    token_file: HostPath | None = None
    token_written: int | None = None
    token_expires: int | None = None
    # `token`, `damaged` or `unknown`, as `templates/token.sh` tells them apart; "" without a file.
    token_state: str = ""
    token_key: str | None = None
    # By the fingerprint of the app key that they are of: when tokens that lie aside end, and when
    # KIS was last asked, as far as the gateway remembers that.
    aside: dict[str, int] = {}
    attempted: dict[str, int] = {}
    adopted_token_expires: int | None = None
    refused: int | None = None
    lock: Lock | None = None
    current: str | None = None
    previous: str | None = None
    current_compose: str = ""
    current_files: dict[str, str] = {}
    # The fingerprint of each release's app key; empty for one that does not say.
    releases: dict[str, str] = {}
    history: tuple[Event, ...] = ()
    release_files: dict[str, ReleaseFile] = {}
    images: dict[str, str] = {}
    # Where a host lacks an image that it is to be sent: of each image that it has, the digests of
    # its layers, from the lowest on. Empty where its engine has to get all layers.
    layers: tuple[tuple[str, ...], ...] = ()
    containers: tuple[Container, ...] = ()
    adopted_id: str | None = None
    # By the controller's clock, when the reading had arrived; None where nobody says.
    arrived: float | None = None

    @property
    def gateways(self) -> list[Container]:
        return [
            container
            for container in self.containers
            if not container.is_simulator and container.id != self.adopted_id
        ]

    @property
    def adopted(self) -> Container | None:
        """A gateway that was started by other means and still is, if it is to be replaced."""
        return next((c for c in self.containers if c.id == self.adopted_id and c.is_up), None)

    @property
    def simulator(self) -> Container | None:
        return next((container for container in self.containers if container.is_simulator), None)


def is_id(text: str) -> bool:
    """Whether it has the form of a release's id, which is that of an app key's fingerprint, too.

    Both become parts of paths on a host. Anything else counts as absent.
    """
    return re.fullmatch("[0-9a-f]{12}", text) is not None


def parse_reading(lines: Iterable[str], arrived: float | None = None) -> Reading:
    """`read_host.sh`'s lines, `name value` each, as a `Reading`.

    A line with a name of its own is passed over: some hosts greet whoever logs in. `arrived`: this
    machine's time, epoch seconds.

    Raises:
        ValueError: a line of ours is not in its form (the message holds it), or is missing.
    """
    found: dict[str, object] = {}
    listening: set[tuple[str, int]] = set()
    paths: dict[str, tuple[str, str]] = {}
    hashes: dict[str, str] = {}
    images: dict[str, str] = {}
    image_of: dict[str, str] = {}
    layers: list[tuple[str, ...]] = []
    containers: list[Container] = []
    current_files: dict[str, str] = {}
    releases: dict[str, str] = {}
    aside: dict[str, int] = {}
    attempted: dict[str, int] = {}
    history: list[Event] = []
    for line in lines:
        name, _, value = line.partition(" ")
        try:
            match name:
                case "listening":
                    listening.add(_socket(value))
                case "release_file":
                    mode, owner, file = value.split(" ", 2)
                    paths[file] = mode, owner
                case "release_hash":
                    sha256, file = value.split("  ", 1)
                    hashes[file] = sha256
                case "image":
                    reference, image_id = value.split(" ")
                    images[reference] = image_id
                case "image_of":
                    container_id, reference = value.split(" ")
                    image_of[reference] = container_id
                case "layers":
                    layers.append(tuple(value.split()))
                case "current_compose":
                    found[name] = base64.b64decode(value).decode()
                case "current_file":
                    sha256, file = value.split("  ", 1)
                    current_files[file] = sha256
                case "release":
                    release_id, _, key = value.partition(" ")
                    if is_id(release_id):
                        releases[release_id] = key if is_id(key) else ""
                case "current" | "previous" | "token_key":
                    if is_id(value):
                        found[name] = value
                case "aside":
                    key, _, ends = value.rpartition(" ")
                    if is_id(key):
                        aside[key] = int(ends)
                case "attempted":
                    moment, _, key = value.partition(" ")
                    if is_id(key):
                        attempted[key] = int(moment)
                # Of these two a full disk or a loss of power may have left half a line.
                case "history":
                    with suppress(ValueError):
                        history.append(Event.model_validate_json(value))
                case "lock":
                    with suppress(ValueError):
                        found[name] = Lock.model_validate_json(value)
                case "refused":  # one line for each container
                    found[name] = max(int(value), int(str(found.get(name, 0))))
                case "container":
                    containers.append(Container.model_validate(json.loads(value)))
                case "token_dir" | "token_file":
                    mode, owner, kind = value.split(" ", 2)
                    found[name] = HostPath(mode=mode, owner=owner, kind=kind)
                case "adopted":
                    found["adopted_id"] = value
                case "os":
                    distribution, _, version = value.partition(" ")
                    found[name] = (distribution, version)
                case "":
                    pass
                case _:
                    found[name] = value
        except ValueError as error:
            # Of the compose file not a word: its environment may hold what nobody should see.
            shown = name if name == "current_compose" else line
            raise ValueError(f"unexpected line from the host: {shown!r}") from error
    by_id = {container.id: container.image for container in containers}
    images |= {reference: by_id[each] for reference, each in image_of.items() if each in by_id}
    release_files = {
        file: ReleaseFile(mode=mode, owner=owner, sha256=hashes.get(file, ""))
        for file, (mode, owner) in paths.items()
    }
    # What runs from the wanted release needs no hashes of its own.
    if found.get("current") and not current_files:
        current_files = {name: file.sha256 for name, file in release_files.items()}
    try:
        return Reading.model_validate(
            found
            | {
                "arrived": arrived,
                "listening": frozenset(listening),
                "release_files": release_files,
                "images": images,
                "layers": tuple(layers),
                "containers": tuple(containers),
                "current_files": current_files,
                "releases": releases,
                "aside": aside,
                "attempted": attempted,
                "history": tuple(history),
            }
        )
    except ValidationError as error:
        missing = ", ".join(str(e["loc"][0]) for e in error.errors())
        raise ValueError(f"the host's answer is not complete: {missing}") from error


def _socket(value: str) -> tuple[str, int]:
    """`0100007F:1F90` of /proc/net/tcp as ("127.0.0.1", 8080); words are little-endian there."""
    address, port = value.split(":")
    words = bytes.fromhex(address)
    swapped = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    if len(swapped) == 4:
        return str(IPv4Address(swapped)), int(port, 16)
    ipv6 = IPv6Address(swapped)
    return str(ipv6.ipv4_mapped or ipv6), int(port, 16)

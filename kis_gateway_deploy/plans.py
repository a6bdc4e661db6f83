"""Desired against actual: what a deploy would do on one host, and why. Pure."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from kis_gateway_deploy.host.containers import authority
from kis_gateway_deploy.issuance import WORTH_KEEPING, gateway_of, mounted_token_left
from kis_gateway_deploy.reading import Container, HostPath, InPlace, Reading, TokenUser
from kis_gateway_deploy.release import Image, Release, simulator_image
from kis_gateway_deploy.settings import SERVICE, Settings

KIB_PER_MIB = 1024
# An image made from the distribution's packages takes some 400 MB with its build.
DISK_FOR_AN_IMAGE_MIB = 1024
DISK_FOR_A_RELEASE_MIB = 64
CLOCK_MAY_DIFFER = 60  # seconds; a reading takes one or two on its way
NEEDS_ROOT = (
    "the deploy needs root: set `_sudo` to True in the host's inventory data, or connect as root"
)
NOTHING_RUNS = "no release runs here: deploy first (make deploy)"
SIMULATOR_PORTS = (9443, 29443)
DEBIANS = ("debian", "raspbian")  # Raspberry Pi OS of 32 bits is the latter, of 64 bits the former
DEFAULT_ENGINE = "unix:///var/run/docker.sock"
# pip installed the binary for this machine.
COMPOSE_BINARY_RUNS_ON = f"{platform.system()} {platform.machine()}"
ANYWHERE = "0.0.0.0"  # noqa: S104 - compared, never bound


Does = Literal["bootstrap", "engine", "image", "simulator", "tokens", "release", "switch", "down"]

EFFECTS: dict[Does, str] = {
    "bootstrap": "python3 is installed, and the host is read after that",
    "engine": "Docker is installed or started",
    "image": "the image is fetched; nothing that runs is touched",
    "simulator": "the KIS simulator is started",
    "tokens": "the token directory is put in order; the gateway runs on",
    "release": "the release is put on the host; nothing that runs is touched",
    "switch": "the container is re-created",
    "down": "the container is removed; token and releases stay",
}
"""What a step does to what runs."""


class Step(NamedTuple):
    """One thing to do on a host, and why; `image`: the one that an `image` step fetches."""

    does: Does
    reason: str
    image: Image | None = None


@dataclass(frozen=True)
class Plan:
    """What a verb does on one host: the same steps are shown and executed.

    `refusals` say why the host cannot be deployed to; with one of them nothing is done anywhere.
    `findings` say what has drifted and no step changes; `warnings` what an operator should know.
    After a `bootstrap` step the host is read again, so that more steps are known then. An `engine`
    step installs `packages`, and brings the compose binary if `put_compose_plugin`.
    """

    steps: tuple[Step, ...] = ()
    refusals: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    packages: tuple[str, ...] = ()
    put_compose_plugin: bool = False

    def does(self, *what: Does) -> bool:
        """Whether one of the steps does one of these."""
        return any(step.does in what for step in self.steps)

    def may(self, *what: Does) -> bool:
        """The same, or a host that cannot be read yet may turn out to need that."""
        return self.does("bootstrap", *what)

    @property
    def images(self) -> list[Image]:
        """Those that the host lacks."""
        return [step.image for step in self.steps if step.image]

    @property
    def has_news(self) -> bool:
        """Whether there is anything to say before the host is left alone, or touched."""
        return bool(self.steps or self.refusals or self.findings or self.warnings)


def make_plan(settings: Settings, release: Release, reading: Reading) -> Plan:
    """Compares one reading of a host with what its settings ask for."""
    steps: list[Step] = []
    packages = missing_packages(reading)
    put_compose_plugin = not reading.compose and not _packages_with_compose(reading)
    if packages or put_compose_plugin or reading.engine == "down":
        steps.append(Step("engine", "Docker Engine or compose is missing or not running"))
    desired_images = release.images if settings.image_source != "host" else []
    desired_images = desired_images + ([simulator_image()] if settings.simulator else [])
    steps += [
        Step("image", f"the image {image.reference} is not on the host", image)
        for image in desired_images
        if image.reference not in reading.images
    ]
    if settings.simulator and not _runs(reading.simulator, simulator_image()):
        steps.append(Step("simulator", "the KIS simulator does not run"))
    switch = why_switch(settings, release, reading)
    tokens = _why_tokens(settings, reading)
    # A switch puts the directory in order itself, when no gateway runs that could ask KIS at once,
    # or that has another user still.
    by_switch = bool(switch or reading.release_damage) and reading.token_dir is not None
    steps += [Step("switch" if by_switch else "tokens", reason) for reason in tokens]
    if reading.release_damage:
        steps.append(Step("release", f"release {release.id}: {reading.release_damage}"))
        switch = switch or f"the container is made from release {release.id} again"
    if switch:
        steps.append(Step("switch", switch))
    plan = Plan(tuple(steps), packages=packages, put_compose_plugin=put_compose_plugin)
    return replace(
        plan,
        refusals=refusals(settings, release, reading, plan.does("engine"), plan.does("image")),
        findings=[] if plan.does("switch") else findings(settings, release, reading),
        warnings=warnings(settings, release, reading),
    )


def _why_tokens(settings: Settings, reading: Reading) -> list[str]:
    """What is wrong with the token directory or the token file, that can be put in order."""
    found = []
    directory = reading.token_dir
    if directory is None:
        found.append(f"{settings.token_dir} is missing")
    elif (directory.mode, directory.owner) != ("700", settings.user):
        found.append(f"{settings.token_dir}: its owner or mode is not right")
    else:
        # Gateways in the field write 0644; behind a directory of 0700 only the owner matters.
        found += [
            f"{settings.token_dir}/{name}: its owner or mode is not right"
            for name, file in reading.token_files.items()
            if not _can_be_used(file, settings.user)
        ]
    if reading.token_state == "damaged":
        kinds = {file.kind for file in reading.token_files.values()}
        is_file = all(kind.startswith("regular") for kind in kinds)
        what = "damaged" if is_file else f"a {next(iter(kinds))}"
        found.append(f"{settings.token_path} is {what}: it is set aside")
    return found


def plan_without_python(settings: Settings) -> Plan:
    """The plan of a host that lacks python3, so that nothing else is known of it."""
    if settings.install_docker:
        return Plan((Step("bootstrap", "python3 is missing"),))
    why = "python3 is missing here and gateway_install_docker is off: install it, or turn that on"
    return Plan(refusals=[why])


def _can_be_used(token: HostPath, user: str) -> bool:
    """Whether the container's user can read and write its token; a directory is not judged here."""
    is_file = token.kind.startswith("regular")
    return not is_file or (token.owner == user and int(token.mode, 8) & 0o600 == 0o600)


def findings(settings: Settings, release: Release, reading: Reading) -> list[str]:
    """What has drifted on a host whose release runs, and what no step of a deploy changes."""
    found = []
    for gateway in reading.gateways:
        if gateway.restarts:
            times = "once" if gateway.restarts == 1 else f"{gateway.restarts} times"
            found.append(
                f"the container restarted {times} since it was created: see "
                f"`docker logs {gateway.name.lstrip('/')}`"
            )
    if reading.client_sees and not reading.client_sees.is_good:
        found.append(f"a client that asks {settings.health_path} gets: {reading.client_sees}")
    if reading.token_key not in {None, release.key_fingerprint}:
        found.append(
            f"the token in {settings.token_path} is of another app key (fingerprint "
            f"{reading.token_key}, not {release.key_fingerprint}): restart the gateway "
            "(make restart)"
        )
    if settings.expects_token and (lack := _lacks_token(reading)):
        found.append(f"{settings.token_path}: {lack}")
    return found


def _is_unhealthy_but_answers(settings: Settings, reading: Reading, gateway: Container) -> bool:
    """Whether the image's own health check says unhealthy while a client is answered well."""
    answers = reading.client_sees is not None and reading.client_sees.is_good
    return gateway.health == "unhealthy" and answers and settings.healthcheck is None


def _lacks_token(reading: Reading) -> str:
    if not reading.token_state:
        return "there is no token file, so the next start of the gateway costs an issuance"
    if reading.token_expires is not None and reading.token_expires <= reading.clock:
        return "the token has expired, so the next start of the gateway costs an issuance"
    return ""


def warnings(settings: Settings, release: Release, reading: Reading) -> list[str]:
    """What is right to go on with, but not as it should be."""
    found = []
    if settings.is_open:
        found.append(
            f"other machines may trade through port {settings.published_port} on "
            f"{_where(settings)} of this host, without authentication: restrict it by a firewall"
        )
    if reading.token_state == "unknown":
        found.append(
            f"{settings.token_path} has a form that is not known here: it is left alone, and how "
            "long its token is valid cannot be told"
        )
    found += [
        f"the container {user.name} has the token directory mounted, too, with the same app key"
        for user in reading.token_users
        if _shares(user, settings, release)
    ]
    found += [
        f"Docker says that the container {gateway.name.lstrip('/')} is unhealthy, though it "
        f"answers {settings.health_path}: see the HEALTHCHECK of the image {gateway.image_name}"
        for gateway in reading.gateways
        if _is_unhealthy_but_answers(settings, reading, gateway)
    ]
    name = settings.adopt_container
    is_known = name in {container.name.lstrip("/") for container in reading.containers}
    if name and not is_known and reading.replaced_id is None:
        found.append(f"gateway_adopt_container: there is no container {name} on this host")
    off = 0 if reading.arrived is None else reading.arrived - reading.clock
    if abs(off) > CLOCK_MAY_DIFFER:
        found.append(
            f"the host's clock is {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} this "
            "machine's: a gateway takes a token for valid, or for expired, by its host's clock. "
            "Let NTP set both (timedatectl set-ntp true)"
        )
    return found


def _where(settings: Settings) -> str:
    """The addresses on which an open gateway is published, in words."""
    if settings.network_mode == "host":
        return "every address"
    everywhere = {ANYWHERE: "every IPv4 address", "::": "every IPv6 address"}
    return everywhere.get(settings.bind_address, settings.bind_address)


def _shares(user: TokenUser, settings: Settings, release: Release) -> bool:
    """Whether another container with the token directory can do no harm there."""
    return user.key == release.key_fingerprint and user.user == settings.user


def missing_packages(reading: Reading) -> tuple[str, ...]:
    """The distribution's packages that the host lacks; none where an engine is there already."""
    packages: tuple[str, ...] = ()
    if reading.engine == "down" and not reading.dockerd:
        packages += ("docker.io",)
    if not reading.docker_cli and reading.os[0] in DEBIANS:
        packages += ("docker-cli",) if _debian_version(reading) >= 13 else ()
    if not reading.compose:
        packages += _packages_with_compose(reading)
    return packages


def _packages_with_compose(reading: Reading) -> tuple[str, ...]:
    """Where compose v2 is packaged: Debian from 13 on, Ubuntu from 22.04 on."""
    distribution, version = reading.os
    if distribution in DEBIANS and _debian_version(reading) >= 13:
        return ("docker-compose",)
    if distribution == "ubuntu" and version >= "22.04":
        return ("docker-compose-v2",)
    return ()


def _debian_version(reading: Reading) -> int:
    version = reading.os[1].split(".")[0]
    return int(version) if version.isdigit() else 99  # testing and unstable name no version


def refusals(
    settings: Settings,
    release: Release,
    reading: Reading,
    install_engine: bool,
    fetch_image: bool,
) -> list[str]:
    """Why this host cannot be deployed to, each with what to do about it."""
    if reading.uid != 0:
        return [NEEDS_ROOT]  # without it nothing else can be told
    if problem := _engine_problem(reading):
        return [problem]
    found = _why_not_in_place(settings, reading)
    if settings.image_source == "host" and release.image.reference not in reading.images:
        found.append(
            f"the image {release.image.reference} is not on this host: build or load it there, or "
            "set another gateway_image_source"
        )
    if reading.sidecars and reading.gateways:
        found += _sidecars(settings, release, reading)
    if install_engine and not settings.install_docker:
        found.append(
            "Docker Engine with compose v2 does not run here and gateway_install_docker is off: "
            "install it, or turn that on"
        )
    elif install_engine and not reading.apt and not reading.dockerd:
        found.append(
            "Docker is missing and this distribution has no apt-get: install Docker Engine and "
            "compose v2 as docs.docker.com says for it, then deploy again"
        )
    elif (
        not reading.compose
        and not _packages_with_compose(reading)
        and f"Linux {reading.architecture}" != COMPOSE_BINARY_RUNS_ON
    ):
        found.append(
            f"compose v2 is missing, this distribution does not package it, and the binary at "
            f"hand is for {COMPOSE_BINARY_RUNS_ON}, not for Linux {reading.architecture}: install "
            "the compose plugin on the host (docs.docker.com), or deploy from a Linux machine of "
            "its architecture"
        )
    mib = DISK_FOR_AN_IMAGE_MIB if fetch_image or install_engine else DISK_FOR_A_RELEASE_MIB
    if reading.disk_free_kb < mib * KIB_PER_MIB:
        found.append(
            f"only {reading.disk_free_kb // KIB_PER_MIB} MiB of disk are free for Docker's data, "
            f"{mib} are needed: make room (`docker system df` shows what takes it)"
        )
    for setting, address, port in _held_ports(settings, reading):
        holders = sorted(
            {name for ip, held, name in reading.others if held == port and _meets(ip, address)}
        )
        who = f"the container {holders[0]}" if holders else "something else"
        hint = (
            f"stop it (docker stop {holders[0]})"
            if holders
            else f"end that (`ss -ltnp sport = {port}` shows it)"
        )
        adopt = (
            f", adopt it (gateway_adopt_container = {holders[0]!r})"
            if holders and setting != "gateway_simulator"
            else ""
        )
        found.append(f"port {port} is held by {who}: {hint}{adopt}, or change {setting}")
    found += _under_way(reading)
    if lack := _adopts_without_token(settings, release, reading):
        found.append(lack)
    found += _strangers_here(settings, reading)
    found += [
        f"the container {user.name} ({user.compose_file or 'no compose file'}) has the token "
        f"directory {settings.token_dir} mounted, with another app key or user: one would use the "
        "other's token. Choose another gateway_token_dir, or adopt that container "
        "(gateway_adopt_container)"
        for user in reading.token_users
        if not _shares(user, settings, release)
    ]
    for container in reading.containers:
        if container.is_up and container.id == reading.adopted_id and container.auto_remove:
            found.append(
                f"the container {settings.adopt_container} was started with --rm: once stopped, it "
                "could not be started again if the switch failed. Stop it yourself, after market "
                "hours, or deploy without gateway_adopt_container"
            )
    found += [wrong for each in release.images if (wrong := _wrong_architecture(each, reading))]
    others = reading.token_dir_owners - {0, settings.uid}
    if others and not reading.token_dir_is_ours and not settings.adopt_container:
        whose = ", ".join(map(str, sorted(others)))
        found.append(
            f"{settings.token_dir} has files of other users (uid {whose}), which would become the "
            "gateway user's own: choose another gateway_token_dir, or move these files"
        )
    if reading.token_dir and reading.token_dir.kind != "directory":
        found.append(f"{settings.token_dir} is a {reading.token_dir.kind}, not a directory")
    return found


def _sidecars(settings: Settings, release: Release, reading: Reading) -> list[str]:
    if not why_recreate(settings, release, reading):
        return []
    names = " and ".join(reading.sidecars)
    return [
        f"{names} uses the gateway's network (network_mode), and would keep no network but lo "
        "after the gateway is re-created: stop it (docker stop), deploy, then start it with "
        "docker compose up -d"
    ]


def _why_not_in_place(settings: Settings, reading: Reading) -> list[str]:
    """Why the operator's own compose project cannot be left as it is, except for the override."""
    place = reading.in_place
    if place is None:
        return []
    compose_file, service = settings.compose_file, settings.service_name
    if not place.is_there:
        return [f"there is no file {compose_file} on this host (gateway_compose_file)"]
    if place.error:
        return [f"docker compose cannot read {compose_file}: {place.error}"]
    found = []
    if len(reading.gateways) > 1:
        found.append(f"{service} has {len(reading.gateways)} containers; one can be deployed")
    if place.differs:
        what = {
            "files": f"made from other files than {', '.join(place.files)}",
            "image": "made from an older image of that name",
            "definition": "not as its compose file says now: a variable may have been set in your "
            "shell only (put it into .env), or the file was changed since",
        }
        found.append(
            f"the container of {service} is {what[place.differs]}. Your own docker compose up -d "
            f"{service} would change it as well: run that first, then deploy"
        )
    if not place.is_written and not place.has_lines and place.override is None:
        found.append(_no_override(settings, place))
    for gateway in reading.gateways:
        if place.user and place.user != settings.user:
            found.append(
                f"the container {gateway.name.lstrip('/')} runs as {place.user}, so set "
                f"gateway_user = {place.user!r}"
            )
        in_host_mode = settings.network_mode == "host"
        if (place.network_mode == "host") != in_host_mode:
            mode = "host" if place.network_mode == "host" else "bridge"
            found.append(f"the container's network mode is {mode}: set gateway_network_mode")
        ports = gateway.published()
        client = settings.client_address, settings.published_port
        if settings.health_path and not in_host_mode and not _reaches(client, ports):
            shown = ", ".join(authority(*each) for each in sorted(ports)) or "no port"
            found.append(
                f"the container publishes {shown}, not {authority(*client)}: set gateway_port "
                "and gateway_bind_address, or gateway_health_path = None"
            )
    return found


def _reaches(client: tuple[str, int], published: set[tuple[str, int]]) -> bool:
    address, port = client
    everywhere = "::" if ":" in address else ANYWHERE
    return not published or bool({client, (everywhere, port)} & published)


def _no_override(settings: Settings, place: InPlace) -> str:
    """That compose would read no file of this package, and what to do."""
    files = ":".join(Path(file).name for file in place.files)
    variables = "".join(f" {name}: {value};" for name, value in settings.token_variables.items())
    return (
        f"compose reads {files} in {Path(settings.compose_file or '').parent}, and would merge "
        f"no override of this package. Either set COMPOSE_FILE={files}:kis-gateway.override.yml in "
        f"the .env there, or add to the service {settings.service_name} the volume "
        f"{settings.token_dir}:{settings.token_mount}"
        + (f" and the environment{variables[:-1]}" if variables else "")
        + ", run docker compose up -d, and deploy again"
    )


def _wrong_architecture(image: Image, reading: Reading) -> str:
    on_host = reading.image_architectures.get(image.reference, "")
    found = (on_host,) if on_host else image.saved.architectures if image.saved else ()
    if not found or not reading.runs or set(found) & set(reading.runs):
        return ""
    return (
        f"the image {image.reference} is for {' and '.join(found)}, and this host runs "
        f"{' and '.join(reading.runs)}: build it for that (docker build --platform "
        f"linux/{reading.runs[0]}){_other_platforms(image)}"
    )


def _other_platforms(image: Image) -> str:
    """What else helps if only the controller's own variant of an image is known."""
    if image.saved is None or image.saved.tar:
        return ""
    return (
        "; if this machine's engine has it for several platforms, save them (docker save) and set "
        "gateway_image_archive"
    )


def _under_way(reading: Reading) -> list[str]:
    if not reading.switching:
        return []
    who = f" ({reading.state}, since {_age(reading)})" if reading.state else ""
    return [f"a switch is under way here{who}: wait for its end, then try again"]


def _age(reading: Reading) -> str:
    return f"{max(0, reading.clock - int(reading.state.began))} s" if reading.state else "now"


def _adopts_without_token(settings: Settings, release: Release, reading: Reading) -> str:
    """That the adopted container's token was not found, which would cost an issuance."""
    is_moved_out = bool(reading.in_place and reading.gateways and not reading.in_place.keeps_token)
    if settings.adopt_without_token or not (reading.adopted or is_moved_out):
        return ""
    if settings.token_store == "external" or not settings.token_at_start:
        return ""
    gateway = gateway_of(reading, release.key_fingerprint)
    container = reading.adopted or reading.gateways[0]
    if reading.adopted_token_expires is not None or gateway.has_token or gateway.loops:
        return ""
    return (
        f"no token was found in the container {container.name.lstrip('/')} at "
        f"{reading.adopted_path}: say where it is (gateway_adopt_token_path); to go on without "
        "it, which costs an issuance, set gateway_adopt_without_token = True"
    )


def refusals_to_run(settings: Settings, reading: Reading) -> list[str]:
    """Why no release that is on this host may be started, restarted or taken down."""
    if reading.uid != 0:
        return [NEEDS_ROOT]
    if not reading.current or reading.engine != "up":
        return [NOTHING_RUNS]
    return _strangers_here(settings, reading) + _under_way(reading)


def plan_to_remove(plan: Plan, settings: Settings, reading: Reading | None) -> Plan:
    """To remove the container, by the plan to run what is there; no step if there is none.

    A switch under way is refused before that: it has no container for a moment.
    """
    step = Step("down", "the container and its network are removed")
    if reading is None or reading.engine != "up":
        return replace(plan, steps=(step,))
    refusals = [why for why in plan.refusals if why != NOTHING_RUNS] + _under_way(reading)
    if settings.is_in_place:
        theirs = f"docker compose down {settings.service_name} in its project"
        refusals.append(f"the gateway is a service of your own compose file: {theirs} removes it")
    steps = (step,) if reading.gateways or refusals else ()
    return replace(plan, steps=steps, refusals=list(dict.fromkeys(refusals)))


def _strangers_here(settings: Settings, reading: Reading) -> list[str]:
    return [
        f"the container {stranger.name} (of {stranger.compose_file or 'no compose file'}) is the "
        f"service {SERVICE} of a compose project {settings.project}, too, and not of this "
        "deployment: choose another gateway_project; to replace that container and keep its token, "
        f"set gateway_adopt_container to {stranger.name!r} as well"
        for stranger in reading.strangers
    ]


def _engine_problem(reading: Reading) -> str:
    """What is wrong with the engine that no installation changes; empty if nothing is."""
    if reading.podman:  # its socket may answer as Docker's does
        return (
            "`docker` is Podman here, which this package does not know: install Docker Engine "
            "(docs.docker.com) in its place, or choose another host"
        )
    is_default = reading.engine_address == DEFAULT_ENGINE
    if not is_default and reading.engine != "up":
        return (
            f"the Docker engine that root's DOCKER_HOST or docker context names "
            f"({reading.engine_address or 'unknown'}) cannot be asked: {reading.engine_error}. "
            "Correct that (docker context use default), or start that engine"
        )
    if reading.engine == "unusable":
        return (
            f"the Docker engine does not answer as it should: {reading.engine_error}. Its own log "
            "says more (journalctl -u docker)"
        )
    if reading.user_namespaces:
        return (
            "Docker remaps users here (userns-remap), so the container's user could not read its "
            "token directory: turn that off in /etc/docker/daemon.json, or choose another host"
        )
    return ""


def _held_ports(settings: Settings, reading: Reading) -> list[tuple[str, str, int]]:
    """Setting, address and port of what this deploy would publish and a stranger listens on."""
    held: list[tuple[str, str, int]] = []
    if settings.is_in_place:
        return held  # the operator's compose file says them
    in_host_mode = settings.network_mode == "host"
    desired = ANYWHERE if in_host_mode else settings.bind_address
    gateways = reading.gateways + ([reading.adopted] if reading.adopted else [])
    ours = {binding for gateway in gateways for binding in gateway.published()}
    # In host mode the container's own process listens: that it is up is all there is to tell.
    hidden = any(gateway.is_up and not gateway.ports for gateway in gateways)
    if not hidden and _strangers(desired, settings.published_port, ours, reading):
        name = "gateway_container_port" if in_host_mode else "gateway_port"
        held.append((name, desired, settings.published_port))
    if settings.simulator:
        ours = reading.simulator.published() if reading.simulator else set()
        held += [
            ("gateway_simulator", "127.0.0.1", port)
            for port in SIMULATOR_PORTS
            if _strangers("127.0.0.1", port, ours, reading)
        ]
    return held


def _strangers(desired: str, port: int, ours: set[tuple[str, int]], reading: Reading) -> bool:
    """Whether a listener that is not ours is in the way of `desired`:`port`."""
    in_the_way = {
        (address, listening_port)
        for address, listening_port in reading.listening
        if listening_port == port and _meets(address, desired)
    }
    # An engine that publishes on every address may listen there for IPv6 as well.
    published = ours | {("::", port) for address, port in ours if address == ANYWHERE}
    return bool(in_the_way - published)


def _meets(listens: str, desired: str) -> bool:
    """Whether a listener is in the way of one on `desired`; `::` may listen on IPv4 as well."""
    if listens in {desired, "::"}:
        return True
    anywhere = "::" if ":" in desired else ANYWHERE
    return (":" in listens) == (":" in desired) and anywhere in {listens, desired}


def why_switch(settings: Settings, release: Release, reading: Reading) -> str:
    """Why the release is not what runs; empty where it is."""
    if why := why_recreate(settings, release, reading):
        return why
    gateway = reading.gateways[0]
    # The gate has heard the gateway itself by then: the engine's own probe may come later.
    is_fresh = gateway.status == "running" and gateway.health == "starting" and not gateway.restarts
    is_fine = is_fresh or _is_unhealthy_but_answers(settings, reading, gateway)
    if not gateway.serves and not is_fine:
        return f"the container is {gateway.status}, its health is {gateway.health}"
    return ""


def why_recreate(settings: Settings, release: Release, reading: Reading) -> str:
    """Why there is no container that was made from the release; empty where there is."""
    if reading.adopted:
        return f"the container {settings.adopt_container} is to be replaced, its token is kept"
    if not reading.gateways:
        return "no gateway container is there"
    if len(reading.gateways) > 1:
        return "more than one gateway container is there"
    gateway = reading.gateways[0]
    if old := old_directory(settings, reading):
        if mounted_token_left(reading, release.key_fingerprint) > WORTH_KEEPING:
            return f"{old}, whose token is brought over"
        lost = ": its token is lost, and" if reading.token_mount == "deleted" else NO_TOKEN_THERE
        return f"{old}{lost} re-creating the container costs an issuance"
    if reading.in_place and (why := _why_in_place(settings, reading.in_place)):
        return why
    if reading.current != release.id:
        return f"release {reading.current or 'none'} runs, not {release.id}"
    if reading.in_place:
        return _cut_off(reading)
    directory = f"{settings.app_dir}/releases/{release.id}"
    desired = ",".join(f"{directory}/{name}" for name in release.compose_files)
    if gateway.compose_file != desired:  # by hand, with another file or none
        return f"the container was made from {gateway.compose_file or 'no file'}, not {desired}"
    if gateway.image != reading.images.get(release.image.reference):
        return f"the container does not run what {release.image.reference} names now"
    if gateway.restart_policy == "no":
        return "the container would not come back after a reboot: a switch of it was cut off"
    if reading.state and reading.state.phase == "begun" and not reading.switching:
        return f"a switch ({reading.state}) was cut off"
    return ""


def _why_in_place(settings: Settings, place: InPlace) -> str:
    if not place.keeps_token:
        return f"the container of {settings.service_name} has no volume or variable for its token"
    if not place.is_written:
        return f"{place.override} is not as this package writes it"
    return ""


def _cut_off(reading: Reading) -> str:
    if reading.state and reading.state.phase == "begun" and not reading.switching:
        return f"a switch ({reading.state}) was cut off"
    return ""


NO_TOKEN_THERE = ", which holds no token that is known to last:"


def old_directory(settings: Settings, reading: Reading) -> str:
    """Which other token directory than today's the container has mounted; empty if none."""
    if reading.token_mount == "other":
        return f"the container has not today's {settings.token_dir} mounted but an older one"
    if reading.token_mount == "deleted":
        return f"{settings.token_dir} was removed while the container ran"
    return ""


def _runs(container: Container | None, image: Image) -> bool:
    return (
        container is not None
        and container.status == "running"
        and container.image_name == image.reference
    )

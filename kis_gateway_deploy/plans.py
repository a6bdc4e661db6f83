"""Desired against actual: what a deploy would do on one host, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Literal, NamedTuple

from kis_gateway_deploy.packages import missing_packages, packages_with_compose
from kis_gateway_deploy.reading import HostPath, Reading
from kis_gateway_deploy.reasons import is_unhealthy_but_answers, runs_image, why_switch
from kis_gateway_deploy.refusals import (
    ANYWHERE,
    NOTHING_RUNS,
    refusals,
    shares_directory,
    strangers_here,
    under_way,
)
from kis_gateway_deploy.release import Image, Release, simulator_image
from kis_gateway_deploy.settings import Settings

CLOCK_MAY_DIFFER = 60  # seconds; a reading takes one or two on its way
Does = Literal["bootstrap", "engine", "image", "simulator", "tokens", "release", "switch", "down"]
EFFECTS: dict[Does, str] = {
    "bootstrap": "python3 is installed, and the host is read after that",
    "engine": "Docker is installed or started",
    "image": "the image is fetched; nothing that runs is touched",
    "simulator": "the KIS simulator is started",
    "tokens": "the token directory is put in order; nothing that runs is touched",
    "release": "the release is put on the host; nothing that runs is touched",
    "switch": "the container is re-created",
    "down": "the container is removed; token and releases stay",
}
"""What a step does to what runs."""
CREATES = "the container is created"
"""What a switch does if there is no container yet."""


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
    put_compose_plugin = not reading.compose and not packages_with_compose(reading)
    if packages or put_compose_plugin or reading.engine == "down":
        steps.append(Step("engine", "Docker Engine or compose is missing or not running"))
    desired_images = release.images if settings.image_source != "host" else []
    desired_images = desired_images + ([simulator_image()] if settings.simulator else [])
    steps += [
        Step("image", f"the image {image.reference} is not on the host", image)
        for image in desired_images
        if image.reference not in reading.images
    ]
    if settings.simulator and not runs_image(reading.simulator, simulator_image()):
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
        warnings=warnings(settings, release, reading) + _what_the_probe_says(settings, reading),
    )


def _what_the_probe_says(settings: Settings, reading: Reading) -> list[str]:
    """An answer from which it cannot be told whether KIS accepts the token: it fails nothing."""
    found = reading.token_probe
    if settings.probe is None or found is None or found.is_accepted is not None:
        return []
    return [f"the probe {settings.probe.path} was answered: {found.said}"]


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
    if reading.token_probe and (refusal := reading.token_probe.refusal):
        found.append(refusal)
    if settings.expects_token and (lack := _lacks_token(reading)):
        found.append(f"{settings.token_path}: {lack}")
    return found


def _lacks_token(reading: Reading) -> str:
    if not reading.token_state:
        return "there is no token file, so the next start of the gateway costs an issuance"
    if reading.token_expires is not None and reading.token_expires <= reading.clock:
        return "the token has expired, so the next start of the gateway costs an issuance"
    return ""


def warnings(settings: Settings, release: Release, reading: Reading) -> list[str]:
    """What is right to go on with, but not as it should be."""
    found = []
    found += [
        f"other machines may trade through port {port} on {where} of this host, without "
        "authentication: restrict it by a firewall"
        for where, port in _open_ports(settings, reading)
    ]
    if reading.token_state == "unknown":
        found.append(
            f"{settings.token_path} has a form that is not known here: it is left alone, and how "
            "long its token is valid cannot be told"
        )
    found += [
        f"the container {user.name} has the token directory mounted, too, with the same app key"
        for user in reading.token_users
        if shares_directory(user, settings, release)
    ]
    found += [
        f"Docker says that the container {gateway.name.lstrip('/')} is unhealthy, though it "
        f"answers {settings.health_path}: see the HEALTHCHECK of the image {gateway.image_name}"
        for gateway in reading.gateways
        if is_unhealthy_but_answers(settings, reading, gateway)
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


def _open_ports(settings: Settings, reading: Reading) -> list[tuple[str, int]]:
    """Where other machines reach the gateway: addresses of the host in words, and the port.

    In place the operator's compose file says that.
    """
    if settings.is_open and settings.network_mode == "host":
        return [("every address", settings.published_port)]
    ports = {(settings.bind_address, settings.published_port)} if settings.is_open else set()
    if settings.is_in_place:
        ports = {each for gateway in reading.gateways for each in gateway.published()}
    everywhere = {ANYWHERE: "every IPv4 address", "::": "every IPv6 address"}
    return [
        (everywhere.get(address, address), port)
        for address, port in sorted(ports)
        if not _is_loopback(address)
    ]


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:  # the host says so
        return False


def plan_to_remove(plan: Plan, settings: Settings, reading: Reading | None) -> Plan:
    """To remove the container, by the plan to run what is there; no step if there is none.

    A switch under way is refused before that: it has no container for a moment.
    """
    step = Step("down", "the container and its network are removed")
    if reading is None or reading.engine != "up":
        return replace(plan, steps=(step,))
    refusals = [why for why in plan.refusals if why != NOTHING_RUNS]
    refusals += [*strangers_here(settings, reading), *under_way(reading)]
    if settings.is_in_place:
        theirs = f"docker compose down {settings.service_name} in its project"
        refusals.append(f"the gateway is a service of your own compose file: {theirs} removes it")
    steps = (step,) if reading.gateways or refusals else ()
    return replace(plan, steps=steps, refusals=list(dict.fromkeys(refusals)))

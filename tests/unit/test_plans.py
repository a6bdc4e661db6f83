from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from kis_gateway_deploy.plans import (
    EFFECTS,
    Does,
    Plan,
    Step,
    make_plan,
    plan_to_remove,
    plan_without_python,
)
from kis_gateway_deploy.reading import Container, HostPath
from kis_gateway_deploy.reasons import why_recreate
from kis_gateway_deploy.refusals import NOTHING_RUNS, refusals_to_run
from kis_gateway_deploy.release import COMPOSE_FILE, File, Image, Release, simulator_image
from kis_gateway_deploy.saved_image import SavedImage
from tests.unit.builders import (
    ARM64,
    FRESH,
    MIB_IN_KB,
    NO_TOKEN,
    container,
    reading,
    release,
    settings,
)

WANTED = settings()
# The other architecture than this machine's.
OTHER_MACHINE = "x86_64" if platform.machine() == "aarch64" else "aarch64"
OTHER_ARCHITECTURE = {"architecture": OTHER_MACHINE}
ANYWHERE = "0.0.0.0"  # noqa: S104 - never bound


def plan(**changes: Any) -> Plan:
    return make_plan(WANTED, release(), reading(**changes))


def reasons(made: Plan) -> list[str]:
    return [step.reason for step in made.steps]


def steps(*of: tuple[Does, str]) -> tuple[Step, ...]:
    """Steps that fetch no image."""
    return tuple(Step(does, reason) for does, reason in of)


def refusal(plan: Plan) -> str:
    [only] = plan.refusals
    return only


def test_the_plan_of_an_up_to_date_host_is_empty() -> None:
    assert plan() == Plan()


@pytest.mark.parametrize(
    ("os", "packages", "put_compose_plugin"),
    [
        (("debian", "12"), ("docker.io",), True),
        (("debian", "13"), ("docker.io", "docker-cli", "docker-compose"), False),
        (("debian", "14"), ("docker.io", "docker-cli", "docker-compose"), False),
        (("debian", ""), ("docker.io", "docker-cli", "docker-compose"), False),
        (("ubuntu", "20.04"), ("docker.io",), True),
        (("ubuntu", "22.04"), ("docker.io", "docker-compose-v2"), False),
        (("ubuntu", "24.04"), ("docker.io", "docker-compose-v2"), False),
        (("linuxmint", "22"), ("docker.io",), True),
    ],
)
def test_a_fresh_machine_gets_everything(
    os: tuple[str, str], packages: tuple[str, ...], put_compose_plugin: bool
) -> None:
    made = plan(**FRESH, os=os)
    image = release().image
    assert made == Plan(
        (
            Step("engine", "Docker Engine or compose is missing or not running"),
            Step("image", "the image registry.example/kis:1.4 is not on the host", image),
            Step("tokens", "/docker_data/kis_tokens is missing"),
            Step("release", f"release {release().id}: is not on the host"),
            Step("switch", "no gateway container is there"),
        ),
        packages=packages,
        put_compose_plugin=put_compose_plugin,
    )


@pytest.mark.parametrize(
    ("os", "packages", "put_compose_plugin"),
    [
        (("debian", "12"), (), True),
        (("debian", "13"), ("docker-compose",), False),
        (("ubuntu", "22.04"), ("docker-compose-v2",), False),
        (("fedora", "43"), (), True),
    ],
)
def test_an_engine_without_compose_gets_compose_only(
    os: tuple[str, str], packages: tuple[str, ...], put_compose_plugin: bool
) -> None:
    made = plan(os=os, compose=False)
    assert made == Plan(
        steps(("engine", "Docker Engine or compose is missing or not running")),
        packages=packages,
        put_compose_plugin=put_compose_plugin,
    )


def test_an_engine_that_is_stopped_is_started_and_not_installed() -> None:
    made = plan(engine="down", images={}, containers=(), listening=frozenset())
    assert made.does("engine")
    assert (made.packages, made.put_compose_plugin) == ((), False)
    assert made.refusals == []


def path(mode: str = "700", owner: str = "10001:10001", kind: str = "directory") -> HostPath:
    return HostPath(mode=mode, owner=owner, kind=kind)


def files(token_file: HostPath) -> dict[str, Any]:
    return {"token_files": {"kis_token.json": token_file}}


MISSING = "/docker_data/kis_tokens is missing"
NOT_RIGHT = "/docker_data/kis_tokens: its owner or mode is not right"
FILE_NOT_RIGHT = "/docker_data/kis_tokens/kis_token.json: its owner or mode is not right"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token_dir": path(mode="755")}, NOT_RIGHT),
        ({"token_dir": path(owner="0:0")}, NOT_RIGHT),
        ({"token_dir": path(owner="10001:0")}, NOT_RIGHT),
        (files(path("600", "0:0", "regular file")), FILE_NOT_RIGHT),
        (files(path("400", kind="regular file")), FILE_NOT_RIGHT),
    ],
)
def test_only_the_token_directory_is_prepared(changes: dict[str, Any], reason: str) -> None:
    assert plan(**changes) == Plan(steps(("tokens", reason)))


TOKEN = "/docker_data/kis_tokens/kis_token.json"
COSTS = "so the next start of the gateway costs an issuance"
NO_FILE = f"{TOKEN}: there is no token file, {COSTS}"


def test_only_a_missing_token_directory_is_created() -> None:
    changes = NO_TOKEN | {"token_dir": None, "token_mount": None}
    made = plan(**changes)
    assert made == Plan(steps(("tokens", MISSING)), findings=[NO_FILE])


def test_the_switch_changes_the_owner_of_the_token_directory() -> None:
    down: dict[str, Any] = {"containers": (), "listening": frozenset()}
    made = plan(token_dir=path(owner="0:0"), **down)
    assert {step.does for step in made.steps} == {"switch"}
    assert NOT_RIGHT in reasons(made)
    assert plan(token_dir=None, **NO_TOKEN, **down).does("tokens")


@pytest.mark.parametrize(
    "token_file", [path("644", kind="regular file"), path("600", kind="regular empty file")]
)
def test_a_token_file_that_the_gateway_can_write_is_left_alone(token_file: HostPath) -> None:
    assert plan(**files(token_file)) == Plan()


def test_no_token_file_is_created() -> None:
    assert plan(**NO_TOKEN) == Plan(findings=[NO_FILE])


def test_a_missing_image_of_a_running_container_is_fetched_and_switched_to() -> None:
    image = release().image
    assert plan(images={}) == Plan(
        (
            Step("image", "the image registry.example/kis:1.4 is not on the host", image),
            Step("switch", "the container does not run what registry.example/kis:1.4 names now"),
        )
    )


@pytest.mark.parametrize("damage", ["is not on the host", "secrets.json was changed on the host"])
def test_a_damaged_release_is_put_on_the_host_again(damage: str) -> None:
    made = plan(release_damage=damage)
    assert made == Plan(
        steps(
            ("release", f"release {release().id}: {damage}"),
            ("switch", f"the container is made from release {release().id} again"),
        )
    )


BEGUN = {
    "generation": "0123456789abcdef",
    "by": "kim@desk",
    "began": 1795470000 - 12,
    "action": "up",
    "phase": "begun",
}


def test_an_interrupted_switch_is_detected() -> None:
    assert reasons(plan(state=BEGUN)) == ["a switch (up by kim@desk) was cut off"]
    assert plan(state=BEGUN | {"phase": "ended"}) == Plan()


def test_a_host_with_a_switch_under_way_is_refused() -> None:
    made = plan(state=BEGUN, switching=True)
    message = "a switch is under way here (up by kim@desk, since 12 s): wait for its end, then try"
    assert [refusal.startswith(message) for refusal in made.refusals] == [True]
    assert refusals_to_run(WANTED, reading(state=BEGUN, switching=True)) == made.refusals
    assert plan(switching=True).refusals == [
        "a switch is under way here: wait for its end, then try again"
    ]


UNHEALTHY = (container(name="/kis-kis-gateway-1", health="unhealthy"),)


def test_a_wrong_health_check_of_the_image_is_only_a_warning() -> None:
    made = plan(containers=UNHEALTHY)
    assert made == Plan(warnings=made.warnings)
    assert "kis-kis-gateway-1 is unhealthy, though it answers /health" in made.warnings[0]
    bad: dict[str, Any] = {"client_sees": {"status": 503}}
    assert plan(containers=UNHEALTHY, **bad).does("switch")
    checked = settings(healthcheck={"test": ["CMD", "true"]})
    assert make_plan(checked, release(), reading(containers=UNHEALTHY)).does("switch")


OF_ANOTHER_RELEASE = f"/opt/kis-gateway/releases/0/{COMPOSE_FILE}"
NO_LONGER_MOUNTED = (
    "the container still has an older /docker_data/kis_tokens mounted, whose token is brought over"
)
MOVED = {"token_mount": "other"}
REMOVED = (
    "/docker_data/kis_tokens was removed while the container ran: its token is lost, and "
    "re-creating the container costs an issuance"
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"containers": (), "listening": frozenset()}, "no gateway container is there"),
        ({"containers": (container(), container(id="f00d"))}, "more than one gateway container"),
        (
            {"containers": (container(compose_file=OF_ANOTHER_RELEASE),)},
            "made from /opt/kis-gateway/rel",
        ),
        ({"containers": (container(compose_file=""),)}, "made from no file, not /opt/kis-gateway/"),
        (MOVED | {"mounted_token_expires": 1795470000 + 3600}, NO_LONGER_MOUNTED),
        (MOVED, "holds no token that is known to last: re-creating the container costs an issu"),
        (MOVED | {"mounted_token_expires": 1795470000 + 60}, "holds no token that is known"),
        ({"token_mount": "deleted"}, REMOVED),
        ({"current": None}, f"release none runs, not {release().id}"),
        ({"current": "0123456789ab"}, f"release 0123456789ab runs, not {release().id}"),
        ({"images": {"registry.example/kis:1.4": "sha256:2222"}}, "1.4 names now"),
        (
            {"containers": (container(health="unhealthy"),), "client_sees": {"error": "timed out"}},
            "its health is unhealthy",
        ),
        ({"containers": (container(health="starting", restarts=1),)}, "its health is starting"),
        (
            {"containers": (container(status="exited"),), "listening": frozenset()},
            "the container is exited",
        ),
        (
            {"containers": (container(status="restarting"),), "listening": frozenset()},
            "the container is restarting",
        ),
    ],
)
def test_only_a_switch_is_planned(changes: dict[str, Any], reason: str) -> None:
    made = plan(**changes)
    [only] = made.steps
    assert made == Plan((only,))
    assert only.does == "switch"
    assert reason in only.reason


def test_a_gateway_without_a_healthcheck_serves_while_it_runs() -> None:
    assert plan(containers=(container(health=None),)) == Plan()


def test_a_removed_token_directory_is_created_again_before_the_switch() -> None:
    made = plan(**NO_TOKEN, token_dir=None, token_mount="deleted")
    assert made == Plan(steps(("tokens", MISSING), ("switch", REMOVED)))


def test_a_stopped_container_has_no_mounted_directory() -> None:
    exited: dict[str, Any] = {"containers": (container(status="exited"),), "client_sees": None}
    [reason] = reasons(plan(**exited, token_mount=None, listening=frozenset()))
    assert reason.startswith("the container is exited")


def simulator(**changes: Any) -> Container:
    return container(
        id="51a0",
        image="sha256:3333",
        image_name=simulator_image().reference,
        compose_file="",
        is_simulator=True,
        health=None,
        **changes,
    )


@pytest.mark.parametrize(
    ("containers", "starts"),
    [
        ((container(), simulator()), False),
        ((container(),), True),
        ((container(), simulator(status="exited")), True),
        ((container(), simulator().model_copy(update={"image_name": "kis-simulator:old"})), True),
    ],
    ids=["it runs", "it is not there", "it stopped", "an old one runs"],
)
def test_only_the_simulator_is_started(containers: tuple[Container, ...], starts: bool) -> None:
    images = {release().image.reference: "sha256:1111", simulator_image().reference: "sha256:3333"}
    actual = reading(images=images, containers=containers)
    made = make_plan(settings(simulator=True), release(), actual)
    assert made == Plan(steps(("simulator", "the KIS simulator does not run")) if starts else ())


def test_the_simulator_image_is_fetched_only_if_the_simulator_is_enabled() -> None:
    assert simulator_image() not in plan(**FRESH).images
    made = make_plan(settings(simulator=True), release(), reading(**FRESH))
    assert made.images == [release().image, simulator_image()]
    assert made.does("simulator")


def test_a_simulator_that_is_not_enabled_is_left_alone() -> None:
    assert plan(containers=(container(), simulator())) == Plan()


PROBLEMS: dict[str, Any] = {"os": ("arch", ""), "apt": False, "disk_free_kb": 0}


PODMAN = ["`docker` is Podman", "docs.docker.com"]
NO_ANSWER = "HTTP 500: the daemon is shutting down"
OF_A_CONTEXT = ["DOCKER_HOST or docker context", "docker context use default"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"podman": True}, PODMAN),
        ({"podman": True, "engine": "down", "dockerd": False}, PODMAN),
        ({"podman": True, "engine": "unusable", "engine_error": NO_ANSWER}, PODMAN),
        (
            {"engine": "unusable", "engine_error": NO_ANSWER},
            ["the Docker engine does not answer as it should", NO_ANSWER, "journalctl -u docker"],
        ),
        (
            {
                "engine": "unusable",
                "engine_address": "tcp://10.0.0.9:2376",
                "engine_error": "docker uses tcp://10.0.0.9:2376, which is not a unix socket",
            },
            [*OF_A_CONTEXT, "(tcp://10.0.0.9:2376)", "which is not a unix socket"],
        ),
        (
            {
                "engine": "down",
                "engine_address": "unix:///run/user/0/docker.sock",
                "engine_error": "nobody listens",
            },
            [*OF_A_CONTEXT, "(unix:///run/user/0/docker.sock)", ": nobody listens."],
        ),
        (
            {"engine": "unusable", "engine_address": "", "engine_error": "no docker context far"},
            [*OF_A_CONTEXT, "(unknown)", "no docker context far"],
        ),
        (
            {"user_namespaces": True},
            ["userns-remap", "/etc/docker/daemon.json", "its token directory"],
        ),
    ],
    ids=[
        *("podman answers for docker", "podman without an engine", "podman that fails"),
        *("an engine that fails", "another machine", "a stopped engine of a context"),
        *("a missing context", "user namespaces"),
    ],
)
def test_an_engine_that_an_installation_cannot_repair_is_refused(
    changes: dict[str, Any], words: list[str]
) -> None:
    what = refusal(plan(**changes))
    for word in words:
        assert word in what
    # No other problem of such a host is reported.
    assert refusal(plan(**FRESH | PROBLEMS | {"engine": "up"} | changes)) == what


def test_a_working_engine_of_another_context_is_used() -> None:
    assert plan(engine_address="unix:///run/user/0/docker.sock") == Plan()


def test_an_engine_that_fails_is_not_installed_again() -> None:
    made = plan(engine="unusable", engine_error=NO_ANSWER, dockerd=False)
    assert (made.does("engine"), made.packages) == (False, ())


@pytest.mark.parametrize(
    "missing",
    [
        FRESH,
        {"compose": False},
        {"engine": "down", "images": {}, "containers": (), "listening": frozenset()},
    ],
    ids=["everything", "compose", "a running engine"],
)
def test_docker_is_not_installed_if_installing_is_off(missing: dict[str, Any]) -> None:
    made = make_plan(settings(install_docker=False), release(), reading(**missing))
    assert "gateway_install_docker is off" in refusal(made)


def test_installing_may_be_off_if_nothing_is_missing() -> None:
    assert make_plan(settings(install_docker=False), release(), reading()) == Plan()


def test_a_distribution_without_apt_is_told_what_to_install() -> None:
    made = plan(**FRESH, os=("fedora", "43"), apt=False)
    assert "docs.docker.com" in refusal(made)


@pytest.mark.parametrize(
    "missing",
    [{}, {"compose": False}, {"engine": "down", "images": {}, "containers": ()}],
    ids=["nothing", "compose", "a running engine"],
)
def test_apt_is_not_needed_if_docker_is_installed(missing: dict[str, Any]) -> None:
    made = plan(**missing, os=("fedora", "43"), apt=False, listening=frozenset())
    assert (made.refusals, made.packages) == ([], ())


def test_a_compose_binary_of_another_architecture_is_refused() -> None:
    made = plan(**OTHER_ARCHITECTURE, os=("debian", "12"), compose=False)
    assert f"not for Linux {OTHER_MACHINE}: install the compose plugin" in refusal(made)


def test_a_compose_binary_of_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the name of the processor alone is no proof."""
    without = {"os": ("debian", "12"), "compose": False}
    assert plan(**without).refusals == []
    of_a_mac = f"Darwin {platform.machine()}"
    monkeypatch.setattr("kis_gateway_deploy.refusals.COMPOSE_BINARY_RUNS_ON", of_a_mac)
    assert f"the binary at hand is for {of_a_mac}" in refusal(plan(**without))


@pytest.mark.parametrize(
    ("os", "packages"),
    [
        (("debian", "13"), ("docker.io", "docker-cli", "docker-compose")),
        (("ubuntu", "22.04"), ("docker.io", "docker-compose-v2")),
        (("ubuntu", "24.04"), ("docker.io", "docker-compose-v2")),
    ],
)
def test_a_fresh_arm64_host_gets_everything_from_its_distribution(
    os: tuple[str, str], packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kis_gateway_deploy.refusals.COMPOSE_BINARY_RUNS_ON", "Linux x86_64")
    made = plan(**FRESH, **ARM64, os=os)
    assert (made.refusals, made.packages) == ([], packages)
    assert not made.put_compose_plugin


@pytest.mark.parametrize(
    ("controller", "refused"), [("Linux aarch64", 0), ("Linux x86_64", 1), ("Darwin arm64", 1)]
)
def test_an_arm64_host_gets_compose_from_a_controller_of_its_kind(
    controller: str, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kis_gateway_deploy.refusals.COMPOSE_BINARY_RUNS_ON", controller)
    made = plan(**FRESH, **ARM64, os=("debian", "12"))
    assert (len(made.refusals), made.put_compose_plugin) == (refused, True)


def test_raspberry_pi_os_of_32_bits_has_debians_packages() -> None:
    made = plan(**FRESH, architecture="armv7l", runs=("arm",), os=("raspbian", "13"))
    assert made.packages == ("docker.io", "docker-cli", "docker-compose")
    assert made.refusals == []


@pytest.mark.parametrize(
    "changes",
    [{"compose": False, "os": ("debian", "13")}, {"os": ("debian", "12")}],
    ids=["compose is packaged", "compose is installed"],
)
def test_another_architecture_is_accepted_if_no_binary_is_needed(changes: dict[str, Any]) -> None:
    assert plan(**OTHER_ARCHITECTURE, **changes).refusals == []


@pytest.mark.parametrize(
    ("changes", "needed_mib"),
    [({}, 64), ({"images": {}}, 1024), ({"compose": False}, 1024)],
    ids=["a release", "an image", "packages"],
)
def test_a_full_disk_is_refused(changes: dict[str, Any], needed_mib: int) -> None:
    needed_kb = needed_mib * MIB_IN_KB
    assert plan(**changes, disk_free_kb=needed_kb).refusals == []
    what = refusal(plan(**changes, disk_free_kb=needed_kb - 1))
    assert f"only {needed_mib - 1} MiB" in what
    assert f"{needed_mib} are needed" in what


HOST_MODE = {"network_mode": "host", "container_port": 9000}
ON_8081 = {"port": 8081, "container_port": 8080}


def held(plan: Plan) -> list[tuple[str, int]]:
    """The setting that each refusal names, and its port; there are no other refusals."""
    found = [REFUSED_PORT.fullmatch(what) for what in plan.refusals]
    assert all(found)
    return [(match["setting"], int(match["port"])) for match in found if match]


REFUSED_PORT = re.compile(
    r"port (?P<port>\d+) is held by something else: end that "
    r"\(`ss -ltnp sport = (?P=port)` shows it; [^)]+\), or change (?P<setting>\w+)"
)


@pytest.mark.parametrize(
    ("wanted", "listening", "setting"),
    [
        ({}, ("127.0.0.1", 8080), "gateway_port"),
        ({}, (ANYWHERE, 8080), "gateway_port"),
        ({}, ("::", 8080), "gateway_port"),
        ({}, ("10.0.0.5", 8080), None),
        ({}, ("::1", 8080), None),
        ({}, ("127.0.0.1", 8081), None),
        ({"bind_address": ANYWHERE}, ("10.0.0.5", 8080), "gateway_port"),
        ({"bind_address": ANYWHERE}, (ANYWHERE, 8080), "gateway_port"),
        ({"bind_address": ANYWHERE}, ("::", 8080), "gateway_port"),
        ({"bind_address": ANYWHERE}, ("::1", 8080), None),
        ({"bind_address": ANYWHERE}, ("2001:db8::1", 8080), None),
        ({"bind_address": "10.0.0.5"}, ("127.0.0.1", 8080), None),
        ({"bind_address": "10.0.0.5"}, ("10.0.0.5", 8080), "gateway_port"),
        ({"bind_address": "::1"}, ("::1", 8080), "gateway_port"),
        ({"bind_address": "::1"}, ("::", 8080), "gateway_port"),
        ({"bind_address": "::1"}, (ANYWHERE, 8080), None),
        ({"bind_address": "::1"}, ("127.0.0.1", 8080), None),
        ({"bind_address": "::1"}, ("fd00::2", 8080), None),
        ({"bind_address": "::"}, ("fd00::2", 8080), "gateway_port"),
        ({"bind_address": "::"}, ("::", 8080), "gateway_port"),
        ({"bind_address": "::"}, ("127.0.0.1", 8080), None),
        ({"bind_address": "::"}, (ANYWHERE, 8080), None),
        (ON_8081, ("127.0.0.1", 8080), None),
        (ON_8081, ("127.0.0.1", 8081), "gateway_port"),
        (HOST_MODE, ("127.0.0.1", 9000), "gateway_container_port"),
        (HOST_MODE, ("10.0.0.5", 9000), "gateway_container_port"),
        (HOST_MODE, ("::", 9000), "gateway_container_port"),
        (HOST_MODE, ("::1", 9000), None),
        (HOST_MODE, ("127.0.0.1", 8080), None),
    ],
)
def test_a_port_that_another_program_holds_is_refused(
    wanted: dict[str, Any], listening: tuple[str, int], setting: str | None
) -> None:
    actual = reading(containers=(), listening=frozenset({listening}))
    made = make_plan(settings(**wanted), release(), actual)
    assert held(made) == ([(setting, listening[1])] if setting else [])


def publishing(*bindings: tuple[str, int]) -> dict[str, list[dict[str, str]]]:
    """A container's ports as Docker prints them."""
    return {"8080/tcp": [{"HostIp": ip, "HostPort": str(port)} for ip, port in bindings]}


OURS = ("127.0.0.1", 8080)
ON_IPV6 = publishing(("127.0.0.1", 8080), ("::1", 8080))


@pytest.mark.parametrize(
    ("wanted", "gateway", "others", "is_held"),
    [
        ({}, container(), [], False),
        ({}, container(health="unhealthy"), [], False),
        ({}, container(status="restarting"), [], False),
        ({}, container(status="paused"), [], False),
        ({}, container(status="exited"), [], True),
        ({}, container(status="created"), [], True),
        ({}, container(status="dead"), [], True),
        ({}, container(ports={}), [], False),
        ({}, container(ports=None), [], False),
        ({}, container(ports={}, status="restarting"), [], False),
        ({}, container(ports={}, status="exited"), [], True),
        ({}, container(ports=publishing(("127.0.0.1", 9999))), [], True),
        ({}, container(ports=publishing(("10.0.0.5", 8080))), [], True),
        ({}, container(ports=publishing(("127.0.0.1", 9999), OURS)), [], False),
        ({}, container(), [("10.0.0.5", 8080), ("::1", 8080)], False),
        ({}, container(), [(ANYWHERE, 8080)], True),
        ({}, container(), [("::", 8080)], True),
        ({"bind_address": ANYWHERE}, container(), [], False),
        ({"bind_address": ANYWHERE}, container(), [("10.0.0.5", 8080)], True),
        ({"bind_address": ANYWHERE}, container(), [("::1", 8080)], False),
        ({"bind_address": "::1"}, container(), [], False),
        ({"bind_address": "::1"}, container(), [("::1", 8080)], True),
        ({"bind_address": "::1"}, container(ports=ON_IPV6), [("::1", 8080)], False),
        ({"bind_address": "::"}, container(ports=ON_IPV6), [("::1", 8080)], False),
        ({"bind_address": "::"}, container(ports=ON_IPV6), [("::1", 8080), ("::", 8080)], True),
        ({"network_mode": "host"}, container(), [], False),
        ({"network_mode": "host"}, container(), [("10.0.0.5", 8080)], True),
        ({"port": 8081}, container(), [("127.0.0.1", 8081)], True),
        ({}, simulator(), [], True),
    ],
)
def test_a_port_that_our_own_gateway_holds_is_accepted(
    wanted: dict[str, Any],
    gateway: Container,
    others: list[tuple[str, int]],
    is_held: bool,
) -> None:
    actual = reading(containers=(gateway,), listening=frozenset({OURS, *others}))
    assert bool(held(make_plan(settings(**wanted), release(), actual))) is is_held


@pytest.mark.parametrize("ip", ["", ANYWHERE])
@pytest.mark.parametrize("wanted", ["127.0.0.1", ANYWHERE])
def test_our_own_gateway_may_hold_every_address(ip: str, wanted: str) -> None:
    gateway = container(ports=publishing((ip, 8080)))
    listening = frozenset({(ANYWHERE, 8080), ("::", 8080)})
    actual = reading(containers=(gateway,), listening=listening)
    assert held(make_plan(settings(bind_address=wanted), release(), actual)) == []


@pytest.mark.parametrize(
    ("address", "who"),
    [("127.0.0.1", "the container one:"), ("::1", "the container six:")],
)
def test_the_holder_of_a_port_is_the_one_on_the_same_address(address: str, who: str) -> None:
    others = (("127.0.0.1", 8080, "one"), ("::1", 8080, "six"))
    listening = frozenset({("127.0.0.1", 8080), ("::1", 8080)})
    actual = reading(containers=(), listening=listening, others=others)
    made = make_plan(settings(bind_address=address), release(), actual)
    assert f"port 8080 is held by {who}" in refusal(made)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"bind_address": ANYWHERE}, "port 8080 on every IPv4 address of"),
        ({"bind_address": "::"}, "port 8080 on every IPv6 address of"),
        ({"bind_address": "fd00::2"}, "port 8080 on fd00::2 of"),
        (HOST_MODE, "port 9000 on every address of"),
    ],
)
def test_an_open_gateway_is_a_warning(changes: dict[str, Any], where: str) -> None:
    made = make_plan(settings(**changes), release(), reading())
    assert any(where in each for each in made.warnings)


OUR_SIMULATOR = simulator(
    ports=publishing(("127.0.0.1", 9443), ("127.0.0.1", 29443), ("172.17.0.1", 9443))
)


@pytest.mark.parametrize(
    ("containers", "listening", "ports"),
    [
        ([], [("127.0.0.1", 9443)], [9443]),
        ([], [(ANYWHERE, 29443)], [29443]),
        ([], [("::", 9443), ("127.0.0.1", 29443)], [9443, 29443]),
        ([], [("10.0.0.5", 9443), ("::1", 29443)], []),
        ([OUR_SIMULATOR], [("127.0.0.1", 9443), ("127.0.0.1", 29443)], []),
        ([OUR_SIMULATOR], [("127.0.0.1", 9443), (ANYWHERE, 29443)], [29443]),
        ([OUR_SIMULATOR.model_copy(update={"status": "exited"})], [("127.0.0.1", 9443)], [9443]),
        ([container(ports=publishing(("127.0.0.1", 9443)))], [("127.0.0.1", 9443)], [9443]),
    ],
)
def test_the_ports_of_the_simulator_are_checked_separately(
    containers: list[Container], listening: list[tuple[str, int]], ports: list[int]
) -> None:
    actual = reading(containers=tuple(containers), listening=frozenset(listening))
    made = make_plan(settings(simulator=True), release(), actual)
    assert held(made) == [("gateway_simulator", port) for port in ports]
    assert held(make_plan(settings(), release(), actual)) == []


@pytest.mark.parametrize("kind", ["regular file", "symbolic link"])
def test_a_token_directory_that_is_no_directory_is_refused(kind: str) -> None:
    what = refusal(plan(token_dir=path(kind=kind)))
    assert what == f"/docker_data/kis_tokens is a {kind}, not a directory"


DAMAGED: dict[str, Any] = {
    "token_state": "damaged",
    "token_expires": None,
    "token_file_says": None,
}
UNKNOWN = DAMAGED | {"token_state": "unknown"}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("regular file", "damaged"),
        ("regular empty file", "damaged"),
        ("directory", "a directory"),
        ("symbolic link", "a symbolic link"),
    ],
)
def test_a_damaged_token_is_set_aside_while_the_gateway_keeps_running(kind: str, what: str) -> None:
    made = plan(**DAMAGED, **files(path("600", kind=kind)))
    assert made == Plan(steps(("tokens", f"{TOKEN} is {what}: it is set aside")))


def test_a_damaged_token_is_set_aside_by_the_switch_if_no_gateway_runs() -> None:
    down: dict[str, Any] = {"containers": (), "listening": frozenset()}
    made = plan(**DAMAGED, **down, **files(path("600", kind="regular file")))
    assert {step.does for step in made.steps} == {"switch"}
    assert f"{TOKEN} is damaged: it is set aside" in reasons(made)


def test_a_token_of_unknown_form_is_left_alone_with_a_warning() -> None:
    made = plan(**UNKNOWN)
    [warning] = made.warnings
    assert warning.startswith(f"{TOKEN} has a form that is not known")
    assert "left alone" in warning
    assert made == Plan(warnings=[warning])


@pytest.mark.parametrize(
    ("off", "word"), [(0, ""), (59, ""), (-59, ""), (75, "75 s behind"), (-75, "75 s ahead of")]
)
def test_a_wrong_clock_is_a_warning(off: int, word: str) -> None:
    warnings = plan(arrived=1795470000.0 + off).warnings
    assert len(warnings) == bool(word)
    assert all(word in warning for warning in warnings)


def test_an_adopted_container_is_replaced_and_its_port_is_accepted() -> None:
    old = container(id="old", compose_file="")
    made = make_plan(
        settings(adopt_container="old-gateway"),
        release(),
        reading(containers=(old,), adopted_id="old"),
    )
    assert (made.refusals, made.does("switch")) == ([], True)
    assert reasons(made) == ["the container old-gateway is to be replaced, its token is kept"]


def test_a_container_that_cannot_be_started_again_is_not_adopted() -> None:
    old = container(id="old", name="/old-gateway", compose_file="", auto_remove=True)
    actual = reading(containers=(old,), adopted_id="old")
    made = make_plan(settings(adopt_container="old-gateway"), release(), actual)
    assert "was started with --rm" in refusal(made)


@pytest.mark.parametrize("of_paper", ["running", "exited"])
@pytest.mark.parametrize("of_real", ["running", "exited"])
def test_another_gateway_of_the_app_directory_is_not_replaced(of_real: str, of_paper: str) -> None:
    paper = container(id="old", name="/paper", compose_file="", status=of_paper)
    real = container(name="/kis-kis-gateway-1", status=of_real)
    both = {"containers": (real, paper), "adopted_id": "old", "listening": frozenset()}
    wanted = settings(adopt_container="paper")
    what = refusal(make_plan(wanted, release(), reading(**both)))
    assert "the gateway kis-kis-gateway-1 uses /opt/kis-gateway, too" in what
    # The same container, adopted before, and started or made again by hand.
    assert make_plan(wanted, release(), reading(**both, adopted_before="paper")).refusals == []


def test_a_copy_that_was_never_started_does_not_refuse_its_adoption() -> None:
    """As after a reboot in the switch."""
    old = container(id="old", name="/paper", compose_file="")
    created = container(name="/kis-kis-gateway-1", status="created")
    actual = reading(containers=(created, old), adopted_id="old")
    assert make_plan(settings(adopt_container="paper"), release(), actual).refusals == []


def test_another_gateway_in_place_is_named() -> None:
    assert "the gateway real uses" in refusal(plan(residents=("real",)))


def stranger(name: str, compose_file: str, project: str = "kis") -> dict[str, str]:
    return {"name": name, "compose_file": compose_file, "project": project}


BY_HAND = "/root/old/docker-compose.yml"


@pytest.mark.parametrize("adopt_container", [None, "old-gateway"])
@pytest.mark.parametrize(
    ("compose_file", "shown"), [(BY_HAND, f"(of {BY_HAND})"), ("", "(of no compose file)")]
)
def test_a_container_of_the_same_compose_project_is_neither_replaced_nor_adopted(
    adopt_container: str | None, compose_file: str, shown: str
) -> None:
    actual = reading(**FRESH, strangers=(stranger("old-gateway", compose_file, "theirs"),))
    wanted = settings(adopt_container=adopt_container, project="theirs")
    what = refusal(make_plan(wanted, release(), actual))
    assert f"the container old-gateway {shown} is the service kis-gateway" in what
    assert "of a compose project theirs" in what
    assert "choose another gateway_project" in what
    assert "set gateway_adopt_container to 'old-gateway' as well" in what


def test_each_stranger_is_named() -> None:
    made = plan(strangers=(stranger("one", ""), stranger("two", BY_HAND)))
    assert [what.split()[2] for what in made.refusals] == ["one", "two"]


def test_our_own_container_is_accepted_even_if_it_is_named_for_adoption() -> None:
    deployed = reading(containers=(container(name="/old-gateway"),))
    assert make_plan(settings(adopt_container="old-gateway"), release(), deployed) == Plan()


def token_user(name: str = "two-kis-gateway-1", **changes: Any) -> dict[str, Any]:
    """Another container with the token directory, and with our app key and user."""
    own = {"compose_file": BY_HAND, "user": "10001:10001", "key": release().key_fingerprint}
    return {"name": name} | own | changes


@pytest.mark.parametrize(
    "changes", [{"key": "f5e4d3c2b1a0"}, {"key": None}, {"user": "0:0"}, {"user": "10001:0"}]
)
@pytest.mark.parametrize(
    ("compose_file", "shown"), [(BY_HAND, f"({BY_HAND})"), ("", "(no compose file)")]
)
def test_a_token_directory_is_not_shared_with_another_app_key_or_user(
    changes: dict[str, Any], compose_file: str, shown: str
) -> None:
    user = token_user(compose_file=compose_file, **changes)
    made = plan(token_users=(user,))
    what = refusal(made)
    assert "gateway_adopt_container" not in what  # it would replace the gateway that is here
    alone = refusal(plan(**FRESH, token_users=(user,)))
    assert "or adopt that container (gateway_adopt_container)" in alone
    assert f"the container two-kis-gateway-1 {shown} has the token directory" in what
    assert "/docker_data/kis_tokens" in what
    assert "another app key or user" in what
    assert "Choose another gateway_token_dir" in what
    assert made.warnings == []


def test_a_token_directory_shared_with_the_same_app_key_and_user_is_a_warning() -> None:
    made = plan(token_users=(token_user(),))
    [warning] = made.warnings
    assert "the container two-kis-gateway-1 has the token directory mounted, too" in warning
    assert "the same app key" in warning
    assert made == Plan(warnings=[warning])


def test_each_container_that_uses_the_token_directory_is_checked_separately() -> None:
    made = plan(token_users=(token_user("good"), token_user("bad", key=None)))
    assert refusal(made).startswith("the container bad ")
    [warning] = made.warnings
    assert warning.startswith("the container good ")


def test_the_user_of_the_settings_counts_for_the_token_directory() -> None:
    wanted = settings(user="1000:1000")
    actual = reading(token_users=(token_user(user="1000:1000"),))
    made = make_plan(wanted, release(), actual)
    assert (made.refusals, len(made.warnings)) == ([], 1)


@pytest.mark.parametrize("policy", ["no", "unless-stopped"])
def test_a_switch_that_was_interrupted_in_its_gate_is_detected(policy: str) -> None:
    made = plan(containers=(container(restart_policy=policy),))
    assert made.does("switch") == (policy == "no")
    assert all("after a reboot" in reason for reason in reasons(made))


def test_all_refusals_of_a_host_are_reported_together() -> None:
    made = plan(
        **FRESH | PROBLEMS | {"token_dir": path(kind="regular file"), "listening": {OURS}},
        strangers=(stranger("old-gateway", ""),),
        token_users=(token_user(key=None),),
    )
    words = [
        *("apt-get", "MiB of disk", "port 8080", "gateway_project", "gateway_token_dir"),
        "not a directory",
    ]
    assert len(made.refusals) == len(words)
    for word, what in zip(words, made.refusals, strict=True):
        assert word in what


# Drift that no step of a deploy repairs


OTHER_KEY = "f5e4d3c2b1a0"
CLOCK = reading().clock
EXPIRED = {"token_expires": CLOCK, "token_file_says": CLOCK}
RESTARTED = {"containers": (container(name="/kis-kis-gateway-1", restarts=3),)}
ABOUT_THE_TOKEN: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"token_key": OTHER_KEY},
        [TOKEN, "another app key", f"not {release().key_fingerprint}", "(make restart)"],
    ),
    (NO_TOKEN, [NO_FILE]),
    (EXPIRED, [f"{TOKEN}: the token has expired, {COSTS}"]),
]
ABOUT_THE_GATEWAY: list[tuple[dict[str, Any], list[str]]] = [
    (RESTARTED, ["the container restarted 3 times", "`docker logs kis-kis-gateway-1`"]),
    ({"client_sees": {"status": 503}}, ["a client that asks /health gets: HTTP 503"]),
    ({"client_sees": {"status": 301}}, ["gets: HTTP 301"]),
    ({"client_sees": {"error": "timed out"}}, ["a client that asks /health gets: timed out"]),
]


@pytest.mark.parametrize(("changes", "words"), ABOUT_THE_TOKEN + ABOUT_THE_GATEWAY)
def test_drift_is_reported_and_not_repaired(changes: dict[str, Any], words: list[str]) -> None:
    made = plan(**changes)
    [only] = made.findings
    assert made == Plan(findings=[only])
    assert (made.steps, made.has_news) == ((), True)
    for word in words:
        assert word in only


@pytest.mark.parametrize(
    "changes",
    [
        {"client_sees": {"status": 204}},
        {"client_sees": None},
        {"token_key": release().key_fingerprint},
        {"token_expires": CLOCK + 1, "token_file_says": CLOCK + 1},
        {"token_file_says": None},
    ],
)
def test_a_host_that_has_not_drifted(changes: dict[str, Any]) -> None:
    assert plan(**changes) == Plan()
    assert not plan(**changes).has_news


def test_the_health_path_of_the_settings_is_shown() -> None:
    actual = reading(client_sees={"status": 404})
    [only] = make_plan(settings(health_path="/ready?deep=1"), release(), actual).findings
    assert "a client that asks /ready?deep=1 gets: HTTP 404" in only


@pytest.mark.parametrize("changes", [NO_TOKEN, EXPIRED])
def test_a_gateway_that_asks_at_its_first_request_may_be_without_a_token(
    changes: dict[str, Any],
) -> None:
    lazy = settings(token_at_start=False)
    assert make_plan(lazy, release(), reading(**changes)) == Plan()


@pytest.mark.parametrize("changes", [changes for changes, _ in ABOUT_THE_GATEWAY])
def test_other_drift_of_a_gateway_that_asks_at_its_first_request_is_reported(
    changes: dict[str, Any],
) -> None:
    lazy = settings(token_at_start=False)
    assert len(make_plan(lazy, release(), reading(**changes)).findings) == 1


DRIFTED = NO_TOKEN | RESTARTED | {"client_sees": {"status": 503}}


def test_all_drift_is_reported_together() -> None:
    assert len(plan(**DRIFTED).findings) == 3
    made = plan(**DRIFTED, token_dir=path(mode="755"))
    assert (reasons(made), len(made.findings)) == ([NOT_RIGHT], 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"current": "0123456789ab"},
        {"release_damage": "is not on the host"},
        {"token_mount": "other"},
    ],
    ids=["another release runs", "the release is missing", "an older directory is mounted"],
)
def test_no_drift_is_reported_before_a_switch(changes: dict[str, Any]) -> None:
    made = plan(**DRIFTED, **changes)
    assert (made.does("switch"), made.findings) == (True, [])


# A host without python3, which cannot be read


def test_python_is_installed_first() -> None:
    made = plan_without_python(settings())
    assert made == Plan(steps(("bootstrap", "python3 is missing")))
    assert made.may("engine")
    assert not made.does("engine")
    assert not plan().may("engine")


def test_a_host_without_python_is_refused_if_installing_is_off() -> None:
    made = plan_without_python(settings(install_docker=False))
    what = refusal(made)
    assert made == Plan(refusals=[what])
    assert "python3 is missing" in what
    assert "gateway_install_docker is off" in what


def test_each_step_has_an_effect_in_words() -> None:
    assert set(EFFECTS) == set(get_args(Does))


# Verbs that run releases which are on the host: restart, rollback, down


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"current": None}, "no release runs here"),
        ({"engine": "down"}, "no release runs here"),
        ({"engine": "unusable"}, "no release runs here"),
        ({"residents": ("real",)}, "the gateway real uses"),
        (
            {"strangers": (stranger("theirs", "/srv/compose.yaml"),)},
            "the container theirs (of /srv/compose.yaml) is the service kis-gateway",
        ),
        (
            {"strangers": (stranger("old-kis-gateway-1", BY_HAND, "old"),)},
            "is this deployment's, and its compose project is old: set gateway_project to 'old'",
        ),
    ],
)
def test_restart_rollback_and_down_are_refused(changes: dict[str, Any], words: str) -> None:
    [only] = refusals_to_run(settings(), reading(**changes))
    assert words in only


def test_a_running_gateway_may_be_restarted() -> None:
    assert refusals_to_run(settings(), reading()) == []


@pytest.mark.parametrize(
    ("owners", "changes", "actual", "is_refused"),
    [
        ({0, 10001}, {}, {}, False),
        ({1000}, {}, {}, True),
        ({1000}, {}, {"token_dir_is_ours": True}, False),  # gateway_user was changed
        ({1000}, {"adopt_container": "old"}, {}, False),
    ],
)
def test_a_directory_with_other_users_files_is_refused(
    owners: set[int], changes: dict[str, Any], actual: dict[str, Any], is_refused: bool
) -> None:
    found = reading(token_dir_owners=frozenset(owners), **actual)
    refusals = make_plan(settings(**changes), release(), found).refusals
    assert [
        refusal for refusal in refusals if "has files of other users (uid 1000)" in refusal
    ] == (refusals if is_refused else [])


@pytest.mark.parametrize(
    ("runs", "architecture", "is_refused"),
    [
        (("amd64", "386"), "amd64", False),
        (("amd64", "386"), "386", False),
        (("amd64", "386"), "arm64", True),
        ((), "arm64", False),
        (("arm64", "arm"), "", False),
    ],
)
@pytest.mark.parametrize("is_on_host", [True, False])
def test_an_image_of_another_architecture_is_refused(
    runs: tuple[str, ...], architecture: str, is_refused: bool, is_on_host: bool
) -> None:
    image = Image("kis:1", saved=SavedImage("sha256:1", None, (architecture,) * bool(architecture)))
    made = Release(image, release().files, release().manifest)
    known = {"kis:1": architecture} if is_on_host else {}
    found = make_plan(settings(), made, reading(runs=runs, image_architectures=known)).refusals
    assert any("is for arm64, and this host runs amd64 and 386" in each for each in found) == (
        is_refused
    )


@pytest.mark.parametrize(
    ("tar", "runs", "words"),
    [
        (Path("image.tar"), ARM64["runs"], ""),
        (Path("image.tar"), ("s390x",), "is for amd64 and arm64, and this host runs s390x"),
        (None, ("s390x",), "(docker build --platform linux/s390x); if this machine's engine has"),
    ],
)
def test_an_image_for_several_platforms_needs_one_that_the_host_runs(
    tar: Path | None, runs: tuple[str, ...], words: str
) -> None:
    image = Image("kis:1", saved=SavedImage("sha256:1", tar, ("amd64", "arm64")))
    made = Release(image, release().files, release().manifest)
    found = make_plan(settings(), made, reading(runs=runs)).refusals
    assert (len(found), words in "".join(found)) == (1 if words else 0, True)


def test_a_container_is_made_from_the_override_too() -> None:
    files = release().files | {"override.yml": File(b"services: {}", 0o600)}
    made = Release(release().image, files, release().manifest)
    directory = f"/opt/kis-gateway/releases/{made.id}"
    both = f"{directory}/docker-compose.yml,{directory}/override.yml"
    for compose_file, is_right in [(both, True), (both.partition(",")[0], False)]:
        found = reading(current=made.id, containers=(container(compose_file=compose_file),))
        assert (why_recreate(settings(), made, found) == "") is is_right


@pytest.mark.parametrize(
    ("actual", "refusals", "steps", "expected"),
    [
        ({}, [], 1, []),
        ({"current": None}, [NOTHING_RUNS], 1, []),  # a container that no release made
        ({"current": None, "containers": ()}, [NOTHING_RUNS], 0, []),
        ({"containers": ()}, [], 0, []),
        ({"containers": (), "engine": "down"}, [NOTHING_RUNS], 1, [NOTHING_RUNS]),
    ],
)
def test_down_removes_any_container_and_refuses_what_it_cannot_tell(
    actual: dict[str, Any], refusals: list[str], steps: int, expected: list[str]
) -> None:
    made = plan_to_remove(Plan(refusals=refusals), settings(), reading(**actual))
    assert (len(made.steps), made.refusals) == (steps, expected)


def test_down_in_a_switch_is_refused_though_there_is_no_container() -> None:
    between = reading(containers=(), switching=True, current=None)
    made = plan_to_remove(Plan(refusals=[NOTHING_RUNS]), settings(), between)
    assert made.refusals == ["a switch is under way here: wait for its end, then try again"]

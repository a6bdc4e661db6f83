from __future__ import annotations

import pytest

from deploy.gateway.reading import HostPath, Reading, ReleaseFile, parse_reading

# As a Debian 12 host printed it, with the gateway and the simulator deployed.
TRANSCRIPT = """\
uid 0
clock 1795470000
architecture x86_64
os debian 12
apt yes
docker_cli yes
dockerd yes
compose yes
engine yes
disk_free_kb 82126460
listening 00000000:0016
listening 0100007F:1F90
listening 010011AC:24E3
listening 00000000000000000000000001000000:1F90
token_dir 700 10001:10001 directory
token_file 600 10001:10001 regular file
token_written 1795469000
token_state token
token_key 0a1b2c3d4e5f
token_expires 1795555400
lock {"id": "abc", "by": "ops", "at": "desk", "pid": 4711, "since": 1795469990}
current 5393e3d2b05a
previous 1ce61895f976
current_compose bmFtZTogImtpcyIK
current_file 3f0f0296fd69d1e7d6c04f6fc1cbcdccee8d3b3d9c37daf60dd31f49732f9ca3  docker-compose.yml
release 1ce61895f976 f5e4d3c2b1a0
release 5393e3d2b05a 0a1b2c3d4e5f
release 01d000000000 
aside f5e4d3c2b1a0 1795480000
attempted 1795469000 0a1b2c3d4e5f
history {"began": 1795469000123, "seconds": 7.250, "by": "ops", "action": "switch", "from": "1ce61895f976", "to": "5393e3d2b05a", "image": "kis-gateway:5a5cacd3b0d1", "outcome": "switched", "issuances": 0}
release_file 600 0:0 docker-compose.yml
release_hash 3f0f0296fd69d1e7d6c04f6fc1cbcdccee8d3b3d9c37daf60dd31f49732f9ca3  docker-compose.yml
release_file 400 10001:10001 secrets.json
release_hash fe43709b4788efd52ab2416b8c40f2746189f08710a537a40ef6f8f7f49ed67d  secrets.json
layers sha256:base sha256:library
layers
image kis-gateway:5a5cacd3b0d1 sha256:2869251e6e8634af738d110b7bfa3668fa61a9df94e6aff438735547b5e93cc2
container {"id": "a72a10bbe9be", "image": "sha256:2869251e6e8634af738d110b7bfa3668fa61a9df94e6aff438735547b5e93cc2",    "image_name": "kis-gateway:5a5cacd3b0d1", "labels": {"com.docker.compose.oneoff":"False","com.docker.compose.project":"kis","com.docker.compose.project.config_files":"/opt/kis-gateway/releases/5393e3d2b05a/docker-compose.yml","com.docker.compose.service":"kis-gateway"},    "status": "running", "restarts": 0,    "health": "healthy",    "ports": {"8080/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}}

container {"id": "ca7fe107899d", "image": "sha256:4358bfc626d1",    "image_name": "kis-simulator:d6b758ed9861", "labels": {"kis-simulator":""},    "status": "running", "restarts": 0,    "health": null,    "ports": {"9443/tcp":[{"HostIp":"127.0.0.1","HostPort":"9443"},{"HostIp":"172.17.0.1","HostPort":"9443"}]}}
""".splitlines()  # noqa: E501 - as it came

LEAST = ["uid 1000", "clock 1795470000", "architecture aarch64", "disk_free_kb 1"]


def test_a_deployed_host_is_read_in_full() -> None:
    read = parse_reading(TRANSCRIPT)
    assert (read.uid, read.architecture, read.os) == (0, "x86_64", ("debian", "12"))
    assert (read.apt, read.docker_cli, read.dockerd) == (True, True, True)
    assert (read.compose, read.engine) == (True, True)
    assert read.disk_free_kb == 82126460
    assert read.token_dir == HostPath(mode="700", owner="10001:10001", kind="directory")
    assert read.token_file == HostPath(mode="600", owner="10001:10001", kind="regular file")
    assert read.current == "5393e3d2b05a"
    assert list(read.release_files) == ["docker-compose.yml", "secrets.json"]
    assert read.release_files["secrets.json"] == ReleaseFile(
        mode="400",
        owner="10001:10001",
        sha256="fe43709b4788efd52ab2416b8c40f2746189f08710a537a40ef6f8f7f49ed67d",
    )
    assert list(read.images) == ["kis-gateway:5a5cacd3b0d1"]
    assert read.layers == (("sha256:base", "sha256:library"), ())


def test_the_containers_of_a_deployed_host_are_told_apart() -> None:
    read = parse_reading(TRANSCRIPT)
    [gateway] = read.gateways
    assert gateway.serves
    assert gateway.image == read.images["kis-gateway:5a5cacd3b0d1"]
    assert gateway.compose_file == "/opt/kis-gateway/releases/5393e3d2b05a/docker-compose.yml"
    assert gateway.published() == {("127.0.0.1", 8080)}
    assert read.simulator is not None
    assert read.simulator.image_name == "kis-simulator:d6b758ed9861"
    assert read.simulator.published() == {("127.0.0.1", 9443), ("172.17.0.1", 9443)}


def test_what_a_rollout_left_behind_is_read() -> None:
    read = parse_reading(TRANSCRIPT)
    assert (read.token_written, read.token_expires) == (1795469000, 1795555400)
    assert read.lock is not None
    assert (read.lock.id, read.lock.by, read.lock.at, read.lock.pid) == ("abc", "ops", "desk", 4711)
    assert (read.current, read.previous) == ("5393e3d2b05a", "1ce61895f976")
    assert read.releases == {
        "1ce61895f976": "f5e4d3c2b1a0",
        "5393e3d2b05a": "0a1b2c3d4e5f",
        "01d000000000": "",
    }
    assert read.aside == {"f5e4d3c2b1a0": 1795480000}
    assert read.attempted == {"0a1b2c3d4e5f": 1795469000}
    assert read.current_compose == 'name: "kis"\n'
    assert set(read.current_files) == {"docker-compose.yml"}
    [event] = read.history
    assert (event.from_, event.to, event.outcome) == ("1ce61895f976", "5393e3d2b05a", "switched")
    assert (event.seconds, event.issuances) == (7.25, 0)


def test_a_host_with_nothing_on_it_is_read() -> None:
    assert parse_reading(LEAST) == Reading(
        uid=1000, clock=1795470000, architecture="aarch64", disk_free_kb=1
    )


@pytest.mark.parametrize(
    ("socket", "address"),
    [
        ("0100007F:1F90", "127.0.0.1"),
        ("00000000:1F90", "0.0.0.0"),  # noqa: S104 - read, not bound
        ("0500000A:1F90", "10.0.0.5"),
        ("00000000000000000000000000000000:1F90", "::"),
        ("00000000000000000000000001000000:1F90", "::1"),
        ("B80D0120000000000000000001000000:1F90", "2001:db8::1"),
        ("0000000000000000FFFF00000100007F:1F90", "127.0.0.1"),
    ],
)
def test_a_socket_of_the_kernel_is_an_address_and_a_port(socket: str, address: str) -> None:
    assert parse_reading([*LEAST, f"listening {socket}"]).listening == {(address, 8080)}


@pytest.mark.parametrize(
    ("line", "os"),
    [
        ("os debian 12", ("debian", "12")),
        ("os debian ", ("debian", "")),
        ("os debian", ("debian", "")),
        ("os opensuse-leap 15.6", ("opensuse-leap", "15.6")),
    ],
)
def test_a_distribution_may_name_no_version(line: str, os: tuple[str, str]) -> None:
    assert parse_reading([*LEAST, line]).os == os


@pytest.mark.parametrize("name", ["token_dir", "token_file"])
@pytest.mark.parametrize("kind", ["directory", "regular empty file", "symbolic link"])
def test_a_kind_may_have_blanks(name: str, kind: str) -> None:
    read = parse_reading([*LEAST, f"{name} 1777 0:0 {kind}"])
    assert getattr(read, name) == HostPath(mode="1777", owner="0:0", kind=kind)


def test_a_file_of_a_release_may_have_blanks_in_its_name() -> None:
    lines = [*LEAST, "release_file 600 0:0 my notes", "release_hash ab  my notes"]
    [(name, file)] = parse_reading(lines).release_files.items()
    assert (name, file.sha256) == ("my notes", "ab")


@pytest.mark.parametrize(
    ("line", "serves"),
    [
        ('"status": "running", "health": "healthy"', True),
        ('"status": "running", "health": null', True),
        ('"status": "running", "health": "starting"', False),
        ('"status": "running", "health": "unhealthy"', False),
        ('"status": "restarting", "health": null', False),
        ('"status": "exited", "health": "healthy"', False),
    ],
)
def test_a_container_serves_while_it_runs_and_is_not_sick(line: str, serves: bool) -> None:
    rest = '"id": "a", "image": "b", "image_name": "c", "labels": {}, "restarts": 0, "ports": null'
    [gateway] = parse_reading([*LEAST, f"container {{{line}, {rest}}}"]).gateways
    assert gateway.serves is serves
    assert gateway.published() == set()
    assert gateway.compose_file == ""


@pytest.mark.parametrize(
    ("bindings", "published"),
    [
        ("null", set()),
        ("[]", set()),
        ('[{"HostIp":"","HostPort":"8080"}]', {("0.0.0.0", 8080)}),  # noqa: S104 - read, not bound
        ('[{"HostIp":"::","HostPort":"8080"}]', {("::", 8080)}),
        (
            '[{"HostIp":"127.0.0.1","HostPort":"80"},{"HostIp":"10.0.0.5","HostPort":"81"}]',
            {("127.0.0.1", 80), ("10.0.0.5", 81)},
        ),
    ],
    ids=["exposed only", "no binding", "every address", "every IPv6 address", "two"],
)
def test_what_a_container_publishes_are_its_bindings(
    bindings: str, published: set[tuple[str, int]]
) -> None:
    line = next(line for line in TRANSCRIPT if line.startswith("container"))
    bound = line.replace('[{"HostIp":"127.0.0.1","HostPort":"8080"}]', bindings)
    assert bound != line
    [gateway] = parse_reading([*LEAST, bound]).gateways
    assert gateway.published() == published


def test_a_container_that_went_while_it_was_read_is_an_empty_line() -> None:
    assert parse_reading([*LEAST, ""]).containers == ()


@pytest.mark.parametrize(
    "line",
    [
        "listening here",
        "listening 0100007F",
        "listening XYZ:1F90",
        "listening 01:1F90",
        "release_file 600 0:0",
        "release_hash ab",
        "image registry.example/kis:1.4",
        "token_dir 700",
        "container",
        "container {",
        "container []",
        'container {"id": "a"}',
    ],
)
def test_a_line_that_the_script_does_not_print_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="unexpected line") as caught:
        parse_reading([*TRANSCRIPT, line])
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize("missing", ["uid", "clock", "architecture", "disk_free_kb"])
def test_an_answer_that_breaks_off_says_what_is_missing(missing: str) -> None:
    with pytest.raises(ValueError, match=f"not complete: {missing}$"):
        parse_reading(line for line in LEAST if not line.startswith(missing))


@pytest.mark.parametrize("planted", ["../../tokens/evil", "0a1b2c3d4e5fx", "0A1B2C3D4E5F", "-", ""])
def test_what_is_no_id_counts_as_absent(planted: str) -> None:
    lines = [line for line in TRANSCRIPT if line.split(" ")[0] not in {"current", "previous"}]
    forged = [
        f"{name} {planted}" for name in ("current", "previous", "token_key", "release", "aside")
    ]
    forged[-1] += " 1800000000"
    read = parse_reading([*lines, *forged, f"attempted 1800000000 {planted}"])
    honest = parse_reading(lines)
    assert (read.current, read.previous) == (None, None)
    assert (read.token_key, read.releases) == (honest.token_key, honest.releases)
    assert (read.aside, read.attempted) == (honest.aside, honest.attempted)

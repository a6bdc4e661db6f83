from __future__ import annotations

import json
from typing import Any

import pytest

from kis_gateway_deploy.reading import HostPath, Reading, parse_reading

GATEWAY = {
    "id": "a72a10bbe9be",
    "name": "/kis-kis-gateway-1",
    "image": "sha256:2869",
    "image_name": "kis-gateway:5a5cacd3b0d1",
    "compose_file": "/opt/kis-gateway/releases/5393e3d2b05a/docker-compose.yml",
    "is_simulator": False,
    "status": "running",
    "restarts": 0,
    "restart_policy": "unless-stopped",
    "auto_remove": False,
    "health": "healthy",
    "ports": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
}
SIMULATOR = GATEWAY | {
    "id": "ca7fe107899d",
    "name": "/kis-simulator",
    "is_simulator": True,
    "health": None,
    "ports": {
        "9443/tcp": [{"HostIp": "", "HostPort": "9443"}, {"HostIp": "::", "HostPort": "9443"}],
        "9444/tcp": None,
    },
}
EVENT = {
    "began": 1795469000123,
    "seconds": 7.25,
    "by": "ops",
    "action": "switch",
    "from": "1ce61895f976",
    "to": "5393e3d2b05a",
    "image": "kis-gateway:5a5cacd3b0d1",
    "outcome": "switched",
    "issuances": 0,
}
LEAST = {"uid": 1000, "clock": 1795470000, "architecture": "aarch64", "disk_free_kb": 1}
# The answer of a host with the gateway and the simulator, asked about another release.
DEPLOYED = LEAST | {
    "uid": 0,
    "os": ["debian", "12"],
    "engine": "up",
    "listening": [["0.0.0.0", 22], ["127.0.0.1", 8080], ["::1", 8080]],  # noqa: S104
    "token_dir": {"mode": "700", "owner": "10001:10001", "kind": "directory"},
    "token_files": {
        "kis_token.json": {"mode": "600", "owner": "10001:10001", "kind": "regular file"}
    },
    "token_written": 1795469000,
    "token_expires": 1795555400,
    "token_file_says": None,
    "token_state": "token",
    "token_key": "0a1b2c3d4e5f",
    "token_mount": "same",
    "parked": {"f5e4d3c2b1a0": 1795480000},
    "attempted": {"0a1b2c3d4e5f": 1795469000},
    "state": {
        "generation": "0123456789abcdef",
        "by": "ops@desk",
        "began": 1795469990.5,
        "action": "up",
        "to": "5393e3d2b05a",
        "phase": "ended",
        "outcome": "switched",
    },
    "switching": False,
    "current": "5393e3d2b05a",
    "previous": "1ce61895f976",
    "current_compose": "name: kis\n",
    "current_files": {"docker-compose.yml": "3f0f"},
    "releases": {
        "1ce61895f976": {
            "key": "f5e4d3c2b1a0",
            "token_file": "kis_token.json",
            "tokens_expected": 2,
            "token_at_start": False,
        }
    },
    "release_damage": "secrets.json is missing",
    "others": [["127.0.0.1", 6379, "redis"]],
    "history": [EVENT, None, {"began": 1}],
    "images": {"kis-gateway:5a5cacd3b0d1": "sha256:2869"},
    "layers": [["sha256:base", "sha256:library"], []],
    "containers": [GATEWAY, SIMULATOR],
    "client_sees": {"status": 200},
}


def parse(**changes: Any) -> Reading:
    return parse_reading(json.dumps({"result": DEPLOYED | changes}))


@pytest.mark.parametrize("mode", ["", "9", "rw-------", "0x1"])
def test_a_mode_that_is_not_octal_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="token_dir"):
        parse(token_dir={"mode": mode, "owner": "0:0", "kind": "directory"})


def test_a_deployed_host_is_read_completely() -> None:
    read = parse()
    assert (read.uid, read.architecture, read.os) == (0, "aarch64", ("debian", "12"))
    assert read.engine == "up"
    assert read.listening == {("0.0.0.0", 22), ("127.0.0.1", 8080), ("::1", 8080)}  # noqa: S104
    assert read.token_dir == HostPath(mode="700", owner="10001:10001", kind="directory")
    assert (read.token_written, read.token_expires) == (1795469000, 1795555400)
    assert read.state is not None
    assert (read.state.by, read.state.outcome) == ("ops@desk", "switched")
    assert (read.current, read.previous) == ("5393e3d2b05a", "1ce61895f976")
    stored = read.releases["1ce61895f976"]
    assert (stored.key, stored.tokens_expected) == ("f5e4d3c2b1a0", 2)
    assert read.release_damage == "secrets.json is missing"
    assert read.others == (("127.0.0.1", 6379, "redis"),)
    assert read.layers == (("sha256:base", "sha256:library"), ())
    assert read.client_sees
    assert read.client_sees.is_good


def test_gateway_and_simulator_of_a_deployed_host_are_distinguished() -> None:
    read = parse()
    [gateway] = read.gateways
    assert gateway.serves
    assert gateway.published() == {("127.0.0.1", 8080)}
    assert read.simulator is not None
    assert read.simulator.published() == {("0.0.0.0", 9443), ("::", 9443)}  # noqa: S104


def test_a_container_to_be_adopted_is_not_a_gateway_of_ours() -> None:
    read = parse(adopted_id="a72a10bbe9be")
    assert read.gateways == []
    assert read.adopted is not None
    stopped = parse(adopted_id="a72a10bbe9be", containers=[GATEWAY | {"status": "exited"}])
    assert stopped.adopted is not None


def test_incomplete_records_are_ignored() -> None:
    read = parse(state={"generation": "abc"})
    assert [event.outcome for event in read.history] == ["switched"]
    assert read.state is None


def test_a_host_with_nothing_on_it() -> None:
    read = parse_reading(json.dumps({"result": LEAST}), arrived=7.5)
    assert (read.engine, read.current, read.token_dir, read.gateways) == ("down", None, None, [])
    assert (read.adopted, read.simulator, read.client_sees) == (None, None, None)
    assert read.arrived == 7.5


def test_control_characters_of_a_host_are_escaped() -> None:
    read = parse(engine_error="\x1b]0;pwned\x07 \u202etxt\n")
    assert read.engine_error == r"\x1b]0;pwned\x07 \u202etxt\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clock", -1),
        ("clock", 10**30),
        ("clock", "now"),
        ("current", "../../tokens/evil"),
        ("current", "0A1B2C3D4E5F"),
        ("current", "0a1b2c3d4e5f\n"),
        ("previous", ""),
        ("token_key", "0a1b2c3d4e5f previous"),
        ("token_state", "fine"),
        ("token_expires", 1e300),
        ("parked", {"../x": 1}),
        ("releases", {"../x": {"key": "0a1b2c3d4e5f"}}),
        ("releases", {"0a1b2c3d4e5f": {"key": "../x"}}),
        ("releases", {"0a1b2c3d4e5f": {"key": "0a1b2c3d4e5f", "tokens_expected": 0}}),
        ("engine", True),
        ("listening", [["127.0.0.1"]]),
        ("containers", [{}]),
        ("containers", [GATEWAY | {"ports": {"8080/tcp": [{"HostPort": 8080}]}}]),
        ("current_compose", "x" * (2 << 20)),
    ],
)
def test_an_unknown_form_is_a_one_line_error(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"unknown form.*{field}") as caught:
        parse(**{field: value})
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"result": []}',
        '{"result": {}}',
        "[" * 100_000,
        '{"result": ' * 9999,
    ],
)
def test_an_invalid_answer_is_a_one_line_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown form|is empty"):
        parse_reading(text)


def test_the_error_of_the_host_program_is_passed_on() -> None:
    with pytest.raises(ValueError, match=r"^OSError: no space left\\x1b$"):
        parse_reading(json.dumps({"error": "OSError: no space left\x1b"}))


@pytest.mark.parametrize(
    ("sees", "shown"),
    [({"status": 503}, "HTTP 503"), ({"error": "timed out"}, "timed out"), ({}, "")],
)
def test_a_bad_answer_to_a_client_is_shown(sees: dict[str, Any], shown: str) -> None:
    read = parse(client_sees=sees)
    assert read.client_sees is not None
    assert not read.client_sees.is_good
    assert str(read.client_sees) == shown

"""The parts of a reading that do not use the engine."""

from __future__ import annotations

import http.server
import json
import os
import socket
import tempfile
import threading
import time
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kis_gateway_deploy.host import client, containers, read, releases
from kis_gateway_deploy.host.deployment import manifest_of_container
from kis_gateway_deploy.host.donor import token
from kis_gateway_deploy.host.engine import EngineError
from kis_gateway_deploy.host.main import line_of
from kis_gateway_deploy.host.probe import _said
from kis_gateway_deploy.host.token_files import TokenFiles
from kis_gateway_deploy.reading import Reading, parse_reading
from kis_gateway_deploy.release import make_manifest
from tests.unit.builders import jwt, settings
from tests.unit.test_hostile_answers import JSON
from tests.unit.test_reading import LEAST

KEY, OTHER = "0a1b2c3d4e5f", "f5e4d3c2b1a0"
REQUEST: dict[str, Any] = {
    "in_place": None,
    "project": "kis",
    "service": "kis-gateway",
    "app_dir": "/opt/kis-gateway",
}


def labels(**changes: str) -> dict[str, str]:
    names = {
        "project": "kis",
        "service": "kis-gateway",
        "oneoff": "False",
        "project.config_files": "/opt/kis-gateway/releases/0a1b2c3d4e5f/docker-compose.yml",
    }
    files = {"project.config_files": changes.pop("files")} if "files" in changes else {}
    return {f"com.docker.compose.{name}": v for name, v in (names | changes | files).items()}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "ours"),
        (
            {
                "files": "/opt/kis-gateway/releases/0a1b2c3d4e5f/docker-compose.yml,"
                "/opt/kis-gateway/.image.yml"
            },
            "ours",
        ),
        ({"files": "/opt/kis-gateway/edited/docker-compose.yml"}, "ours"),
        ({"oneoff": "True"}, ""),
        ({"project": "other"}, "stranger"),
        ({"project": "other", "files": "/srv/trading/compose.yaml"}, ""),
        ({"project": "other", "files": "/opt/kis-gateway/two/releases/a/docker-compose.yml"}, ""),
        ({"service": "redis"}, ""),
        ({"files": "/srv/trading/compose.yaml"}, "stranger"),
        ({"files": "/opt/kis-gateway-2/docker-compose.yml"}, "stranger"),
        ({"files": "/opt/kis-gateway/a.yml,/srv/override.yml"}, "stranger"),
        ({"files": ""}, "stranger"),
    ],
)
def test_a_container_is_ours_if_its_compose_file_is_ours(
    changes: dict[str, str], kind: str
) -> None:
    assert containers.kind_of(labels(**changes), REQUEST) == kind


PLACE = {"compose_file": "/srv/trading/compose.yaml", "service": "kis-real", "variables": {}}
IN_TRADING = {"project": "trading", "project.working_dir": "/srv/trading"}


@pytest.mark.parametrize(
    ("changes", "place", "uses"),
    [
        ({"project": "other"}, None, True),
        ({"service": "redis"}, None, False),  # of the operator's override
        ({"oneoff": "True"}, None, False),
        ({"files": "/srv/trading/compose.yaml"}, None, False),
        ({"service": "kis-real"} | IN_TRADING, PLACE, True),
        ({"service": "kis-paper"} | IN_TRADING, PLACE, False),
    ],
)
def test_which_container_is_the_gateway_of_an_app_directory(
    changes: dict[str, str], place: dict[str, Any] | None, uses: bool
) -> None:
    assert containers.uses(labels(**changes), "/opt/kis-gateway", place) is uses


def test_podman_in_place_of_docker_is_detected(tmp_path: Path) -> None:
    script, link, real = (tmp_path / name for name in ("script", "link", "docker"))
    script.write_text('#!/bin/sh\nexec /usr/bin/podman "$@"\n')
    (tmp_path / "podman").write_bytes(b"\x7fELF")
    link.symlink_to(tmp_path / "podman")
    real.write_bytes(b"\x7fELF podman is a word in it")
    assert [read._is_podman(str(path)) for path in (script, link, real)] == [True, True, False]
    assert not read._is_podman("")


def test_listening_sockets_are_read_from_the_kernel() -> None:
    with socket.socket() as ipv4, socket.socket(socket.AF_INET6) as ipv6:
        for each, address in ((ipv4, "127.0.0.1"), (ipv6, "::1")):
            each.bind((address, 0))
            each.listen()
        assert ipv4.getsockname()[:2] in set(read._listening("/proc/net/tcp"))
        assert ipv6.getsockname()[:2] in set(read._listening("/proc/net/tcp6"))


def test_an_ipv4_mapped_ipv6_address_is_read_as_ipv4(tmp_path: Path) -> None:
    table = tmp_path / "tcp6"
    mapped = "0: 0000000000000000FFFF00000100007F:1F90 0:0 0A"
    other = "0: B80D012000000000FFFF000001000000:1F90 0:0 0A"
    table.write_text(f"header\n{mapped}\n{other}\nshort\n")
    assert list(read._listening(str(table))) == [
        ("127.0.0.1", 8080),
        ("2001:db8::ffff:0:1", 8080),
    ]


@pytest.fixture
def host(tmp_path: Path) -> dict[str, Any]:
    """A request with directories that exist."""
    for name in ("app", "tokens"):
        (tmp_path / name).mkdir()
    app_dir, token_dir = str(tmp_path / "app"), str(tmp_path / "tokens")
    nothing = {
        "images": [],
        "about": "",
        "with_layers": False,
        "adopt": None,
        "adopt_path": None,
        "health": None,
    }
    return (
        REQUEST
        | nothing
        | {"app_dir": app_dir, "token_dir": token_dir, "token_file": "t.json", "release": KEY}
        | {"history": 5, "key": KEY, "mounted": False}
    )


def file(expires_in: float, **fields: object) -> str:
    return json.dumps({"access_token": "t", "expires_at": time.time() + expires_in} | fields)


def read_tokens(host: dict[str, Any]) -> dict[str, Any]:
    found = read._token_directory(host)
    return found | read._kept_tokens(host, found)


def test_the_app_key_of_the_token_and_the_parked_tokens_are_read(host: dict[str, Any]) -> None:
    app_dir, token_dir = Path(host["app_dir"]), Path(host["token_dir"])
    (token_dir / "t.json").write_text(file(3600))
    (app_dir / "tokens").mkdir()
    (app_dir / "tokens/whose").write_text(f"{KEY} {token_dir}/t.json\n")
    (app_dir / f"tokens/{OTHER}").write_text(file(60))
    (app_dir / f"tokens/{OTHER}-20261126").write_text(file(60))
    (token_dir / "t.json.key").write_text(OTHER)
    (token_dir / f"t.json.of-{KEY}").write_text(file(60))
    found = read_tokens(host)
    assert (found["token_key"], list(found["parked"])) == (KEY, [OTHER])
    (token_dir / "t.json").unlink()
    assert read_tokens(host)["token_key"] is None


def test_the_expiry_of_each_token_is_read_up_to_20(host: dict[str, Any]) -> None:
    ends = range(1800000000, 1800000030)
    tokens = {f"PS{end}": jwt(exp=end) for end in ends}
    (Path(host["token_dir"]) / "t.json").write_text(json.dumps(tokens))
    found = read._token_directory(host)
    assert (found["token_expires"], found["token_source"]) == (ends[-1], "JWT exp")
    assert found["token_expiries"] == tuple(ends[-20:])
    Reading.model_validate(LEAST | found)
    with pytest.raises(ValidationError):
        Reading.model_validate(LEAST | {"token_expiries": list(ends)})


def test_an_attempt_file_counts_only_if_it_is_valid(host: dict[str, Any]) -> None:
    path = Path(host["token_dir"]) / "t.json.attempt"
    good = {"attempted_at": 1795469000.5, "app_key_fingerprint": KEY}
    path.write_text(json.dumps(good))
    assert read_tokens(host)["attempted"] == {KEY: 1795469000}
    wrong: list[object] = [good | {"attempted_at": 1e300}, good | {"app_key_fingerprint": "../x"}]
    for bad in [*wrong, [], 7]:
        path.write_text(json.dumps(bad))
        assert "attempted" not in read_tokens(host)


def test_a_donor_gives_the_token_of_the_key_that_expires_last(host: dict[str, Any]) -> None:
    app_dir, token_dir = Path(host["app_dir"]), Path(host["token_dir"])

    def given() -> str | None:
        encoded = token(host)["token"]
        return b64decode(encoded).decode() if encoded else None

    assert given() is None
    (app_dir / "tokens").mkdir()
    sooner, later = file(60), file(3600)
    (token_dir / "t.json").write_text(sooner)
    assert given() == sooner
    (app_dir / f"tokens/{KEY}").write_text(later)
    assert given() == later
    (app_dir / f"tokens/{KEY}").write_text(file(-60))
    (app_dir / "tokens/whose").write_text(f"{OTHER} {token_dir}/t.json")
    assert given() is None
    (app_dir / "tokens/whose").unlink()
    (token_dir / "t.json").write_text(file(60, app_key_fingerprint=OTHER))
    assert given() is None


def test_a_donor_does_not_follow_links(host: dict[str, Any], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(file(3600))
    (Path(host["token_dir"]) / "t.json").symlink_to(secret)
    assert token(host) == {"token": None}


COMPOSE = b"name: kis\n"


def put_release(app_dir: Path, name: str, key: str, **changes: Any) -> Path:
    directory = app_dir / "releases" / name
    directory.mkdir(parents=True)
    (directory / "docker-compose.yml").write_bytes(COMPOSE)
    (directory / "docker-compose.yml").chmod(0o600)
    owner = [0o600, os.getuid(), os.getgid()]
    files = {"docker-compose.yml": {"sha256": sha256(COMPOSE).hexdigest(), "owner": owner}}
    manifest = make_manifest(settings(), "kis:1.4") | {"key": key, "files": files} | changes
    (directory / "release.json").write_text(json.dumps(manifest))
    return directory


def test_the_app_directory_is_read(host: dict[str, Any]) -> None:
    app_dir = Path(host["app_dir"])
    empty = read._app_directory(host)
    assert (empty["releases"], empty["current"], empty["switching"]) == ({}, None, False)
    assert empty["release_damage"] == "is not on the host"
    put_release(app_dir, KEY, KEY)
    put_release(app_dir, OTHER, OTHER)
    (app_dir / "releases" / ".staging.x").mkdir()
    (app_dir / "current").symlink_to(f"releases/{OTHER}")
    (app_dir / "previous").symlink_to("releases/../../tokens/evil")
    (app_dir / "history.jsonl").write_bytes(b'{"began": \xff\n{"began": 1}\n')
    found = read._app_directory(host)
    assert (found["current"], found["previous"]) == (OTHER, None)
    assert {name: each["key"] for name, each in found["releases"].items()} == {
        KEY: KEY,
        OTHER: OTHER,
    }
    assert found["releases"][KEY]["tokens_expected"] == 1
    assert found["release_damage"] == ""
    assert found["current_compose"] == COMPOSE.decode()
    assert list(found["current_files"]) == ["docker-compose.yml"]
    assert found["history"] == [None, {"began": 1}]
    assert found["release_images"] == {KEY: "kis:1.4", OTHER: "kis:1.4"}
    assert "release_images" not in read._app_directory(host | {"history": 0})
    (app_dir / "current").unlink()
    (app_dir / "current").symlink_to(f"releases/{KEY}")
    assert "current_compose" not in read._app_directory(host)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("content", "docker-compose.yml was changed on the host"),
        ("mode", "docker-compose.yml has another owner or mode"),
        ("file", "docker-compose.yml is missing"),
        ("manifest", "release.json is missing"),
        ("name", "release.json is missing"),
    ],
)
def test_a_release_is_intact_if_its_files_match_its_manifest(
    host: dict[str, Any], name: str, damage: str
) -> None:
    directory = put_release(Path(host["app_dir"]), KEY, KEY)
    file = directory / "docker-compose.yml"
    (directory / "image").write_text("sha256:1")  # not in the manifest
    assert read._app_directory(host)["release_damage"] == ""
    if name == "content":
        file.write_text("name: evil\n")
    elif name == "mode":
        file.chmod(0o644)
    elif name == "file":
        file.unlink()
    elif name == "manifest":
        (directory / "release.json").write_text("{")
    else:
        manifest = json.loads((directory / "release.json").read_text())
        del manifest["port"]
        (directory / "release.json").write_text(json.dumps(manifest))
    assert read._app_directory(host)["release_damage"] == damage


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, None),
        ({"in_place": PLACE}, PLACE),
        # After a rollback to the operator's own container.
        ({"in_place": None, "baseline_of": PLACE}, PLACE),
    ],
)
def test_where_the_current_gateway_is_in_place(
    changes: dict[str, Any], place: dict[str, Any] | None, tmp_path: Path
) -> None:
    assert releases.current_place(str(tmp_path)) is None
    put_release(tmp_path, KEY, KEY, **changes)
    (tmp_path / "current").symlink_to(f"releases/{KEY}")
    assert releases.current_place(str(tmp_path)) == place


def test_every_manifest_has_the_names_that_a_host_uses() -> None:
    made = make_manifest(settings(), "kis:1.4").keys() | {"files"}
    assert made == releases.MANIFEST_NAMES


def test_the_change_under_way_and_its_author_are_read(host: dict[str, Any]) -> None:
    app_dir = host["app_dir"]
    state = {"generation": "0123456789abcdef", "by": "kim@desk", "began": 7, "secret": "no"}
    releases.store_state(
        app_dir, state | {"adopted": {"id": "c0ffee", "name": "old", "replaced": True}}
    )
    held = releases.lock(f"{app_dir}/.switch.lock", 0)
    assert held is not None
    assert releases.lock(f"{app_dir}/.switch.lock", 0) is None
    found = read._app_directory(host)
    assert (found["switching"], found["replaced_id"]) == (True, "c0ffee")
    assert found["adopted_before"] == "old"
    assert (found["state"]["by"], "secret" in found["state"]) == ("kim@desk", False)
    os.close(held)
    assert read._app_directory(host)["switching"] is False


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "unix:///var/run/docker.sock"),
        ({"DOCKER_HOST": "tcp://x:1"}, "tcp://x:1"),
        ({"DOCKER_CONTEXT": "default"}, "unix:///var/run/docker.sock"),
        ({"DOCKER_CONTEXT": "mine"}, "unix:///run/mine.sock"),
    ],
)
def test_the_engine_is_the_one_that_docker_uses(
    environment: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | {"DOCKER_CONFIG": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    # The path that `docker context create` uses.
    meta = tmp_path / "contexts/meta" / sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    endpoints = {"docker": {"Host": "unix:///run/mine.sock"}}
    (meta / "meta.json").write_text(json.dumps({"Name": "mine", "Endpoints": endpoints}))
    assert containers.engine_address() == address


def test_a_missing_docker_context_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text('{"currentContext": "desktop"}')
    with pytest.raises(EngineError, match="the docker context desktop does not exist on this host"):
        containers.engine_address()
    with pytest.raises(EngineError, match="not a unix socket"):
        containers.socket_path("ssh://somewhere")


class Answers(http.server.BaseHTTPRequestHandler):
    asked_hosts: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked_hosts.append(self.headers["Host"])
        self.send_response(int(self.path.rpartition("/")[2]))
        self.end_headers()
        self.wfile.write(b"x" * 100_000)

    def log_message(self, *_: object) -> None:
        pass


def test_a_client_sees_the_status_or_the_error() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert client.ask_health("127.0.0.1", port, "/200") == {"status": 200}
        assert client.ask_health("127.0.0.1", port, "/503") == {"status": 503}
        server.shutdown()
    assert "refused" in client.ask_health("127.0.0.1", port, "/200")["error"]


class IPv6Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


def test_a_client_asks_an_ipv6_address() -> None:
    with IPv6Server(("::1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert client.ask_health("::1", port, "/200") == {"status": 200}
        assert Answers.asked_hosts[-1] == f"[::1]:{port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "shown"),
    [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("2001:db8::1", "[2001:db8::1]:80")],
)
def test_an_ipv6_address_is_in_brackets_before_a_port(address: str, shown: str) -> None:
    assert client.authority(address, 80) == shown


@pytest.mark.parametrize(
    ("published", "address"),
    [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("fd00::2", "fd00::2")],  # noqa: S104
)
def test_a_container_without_a_release_is_asked_where_it_is_published(
    published: str, address: str, tmp_path: Path
) -> None:
    (tmp_path / "app_key_fingerprint").write_text(KEY)
    names = labels(files=str(tmp_path / "docker-compose.yml"))
    variables = ["KIS_TOKEN_FILE_PATH=/app/tokens/t.json"]
    details = {
        "Config": {"Env": variables, "Labels": names, "Image": "kis:1"},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": published, "HostPort": "81"}]}},
        "Mounts": [{"Destination": "/app/tokens", "Source": "/tokens"}],
    }
    made = manifest_of_container(details)
    assert made is not None
    assert (made["address"], made["port"]) == (address, 81)


def test_a_client_waits_two_seconds_for_an_answer() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        assert client.ask_health("127.0.0.1", silent.getsockname()[1], "/") == {
            "error": "timed out"
        }
        assert 1 < time.monotonic() - began < 10


def test_a_directory_beneath_another_is_opened_without_following_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "root/app/tokens", tmp_path / "outside"
    inside.mkdir(parents=True)
    outside.mkdir()
    (inside / "t.json").write_text("{}")
    (outside / "t.json").write_text("of the host")
    (tmp_path / "root/linked").symlink_to(outside)
    root = str(tmp_path / "root")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with containers.directory_beneath(root, "/app/tokens") as found:
        assert found.read("t.json") == b"{}"
        assert found.read("none") is None
    for path in ("/linked", "linked/", "/app/../../outside"):
        with pytest.raises(OSError, match=r"link|directory"):
            containers.directory_beneath(root, path)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_the_owners_of_the_token_directorys_files_are_read(host: dict[str, Any]) -> None:
    token_dir = Path(host["token_dir"])
    assert read._token_directory(host)["token_dir_owners"] == []
    (token_dir / "a").touch()
    (token_dir / "b").touch()
    os.chown(token_dir / "b", 1234, 1234)
    assert read._token_directory(host)["token_dir_owners"] == [0, 1234]


def test_a_release_tells_that_the_token_directory_is_ours(host: dict[str, Any]) -> None:
    assert not read._app_directory(host)["token_dir_is_ours"]
    put_release(Path(host["app_dir"]), OTHER, KEY, token_dir=host["token_dir"])
    assert read._app_directory(host)["token_dir_is_ours"]


@pytest.mark.parametrize(
    ("environment", "form", "places"),
    [
        ([], "t.json", ["/app/tokens/t.json"]),
        (["KIS_TOKEN_FILE=/data/a.json"], "t.json", ["/data/a.json", "/app/tokens/t.json"]),
        (
            ["KIS_TOKEN_CACHE_DIR=/data", "KIS_TOKEN_FILE_PATH=/elsewhere"],
            "t.json",
            ["/data/t.json", "/app/tokens/t.json"],
        ),
        (["KIS_TOKEN_FILE=relative.json"], "t.json", ["/app/tokens/t.json"]),
        (["KIS_TOKEN_FILE=/data/a.json"], "*.json", ["/app/tokens"]),
        (["KIS_TOKEN_CACHE_DIR=/data"], None, ["/data", "/app/tokens"]),
    ],
)
def test_an_adopted_token_is_looked_for_where_its_own_variables_say(
    environment: list[str], form: str | None, places: list[str]
) -> None:
    request: dict[str, Any] = {"adopt_path": None, "token_mount": "/app/tokens"}
    request["token_env"] = ["KIS_TOKEN_FILE", "KIS_TOKEN_CACHE_DIR"]
    details = {"Config": {"Env": environment}}
    files = TokenFiles(form)
    expected = [*places, containers.DEFAULT_TOKEN_PATH] if files.is_one else places
    assert containers.adopted_places(details, request, files) == expected
    own = request | {"adopt_path": "/own"}
    assert containers.adopted_places(details, own, files) == ["/own"]


def test_the_mount_of_a_release_without_one_is_the_default(host: dict[str, Any]) -> None:
    app_dir = host["app_dir"]
    assert releases.token_target(app_dir, KEY) == "/app/tokens"
    put_release(Path(app_dir), OTHER, KEY, token_mount="/root/.cache")
    assert releases.token_target(app_dir, OTHER) == "/root/.cache"


def test_without_root_only_the_machine_is_read(
    host: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    found = read.read(host)
    assert found["uid"] == 1000
    assert "token_dir" not in found
    assert Reading.model_validate(found).uid == 1000


# What a container puts into its token directory, its log and its answers must not make its host
# unreadable: a deploy to the fleet would be refused, and so would `make down`.


def arrives(found: dict[str, Any]) -> Reading:
    return parse_reading(line_of({"result": LEAST | found}))


def test_a_token_file_of_1960_is_read(host: dict[str, Any]) -> None:
    path = Path(host["token_dir"]) / "t.json"
    path.write_text(file(3600))
    os.utime(path, (-315619200, -315619200))
    read = arrives(read_tokens(host))
    assert (read.token_written, read.token_state) == (None, "token")


@pytest.mark.parametrize("form", [None, "*.json", "KIS{date:%Y}"])
def test_a_token_file_whose_name_is_not_utf8_is_read(
    host: dict[str, Any], form: str | None
) -> None:
    name = b"KIS2026" if form and "date" in form else b"\xff\xfe.json"
    (Path(host["token_dir"]) / os.fsdecode(name)).write_text(file(3600))
    read = arrives(read_tokens(host | {"token_file": form}))
    assert read.token_state == "token"
    assert list(read.token_files) == [name.decode("utf-8", "replace").replace("\ufffd", "?")]


@pytest.mark.parametrize("said", ["\ud800", "a\udfffb", ["["] * 3, 7, {}, True])
def test_any_message_of_a_probe_is_read(said: object) -> None:
    shown = _said(403, {"msg_cd": "EGW00123", "msg1": said})
    read = arrives({"token_probe": {"is_accepted": False, "code": "EGW00123", "said": shown}})
    assert read.token_probe is not None
    assert read.token_probe.said.startswith("HTTP 403 EGW00123")


def test_a_message_that_is_nested_deep_is_left_out() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert _said(403, {"msg1": deep}) == "HTTP 403"


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        ("2026-11-24T09:00:00.5Z 403 EGW00133", 1795510800),
        ("2026-11-24T09:00:00.5Z x\x0c0001-01-01T00:00:00Z EGW00133", 1795510800),
        ("2026-11-24T09:00:00.5Z x\x1c9999-01-01T00:00:00Z EGW00133", 1795510800),
        ("0001-01-01T00:00:00.5Z EGW00133", None),  # cut: the line began before the limit
        ("9999-01-01T00:00:00.5Z EGW00133", None),
        ("EGW00133", None),
    ],
)
def test_the_time_of_a_refusal_is_the_engines(line: str, moment: int | None) -> None:
    class Engine:
        def logs(self, *_: object, **__: object) -> bytes:
            return line.encode()

    found = read._refused(Engine(), "c0ffee", 1795510900)  # type: ignore[arg-type]
    assert found == moment
    assert arrives({"refused": found}).refused == moment


def test_a_long_label_of_an_image_is_cut() -> None:
    stranger = {"name": "web", "compose_file": "/" + "x" * 10_000, "project": "\x1b" * 4000}
    [found] = arrives({"strangers": [stranger]}).strangers
    assert (len(found.compose_file), len(found.project)) == (4096, 4096)


FIELDS = ("access_token", "expires_at", "access_token_token_expired", "attempted_at", "exp")
CONTENTS = st.binary(max_size=40) | st.dictionaries(
    st.sampled_from([*FIELDS, "app_key_fingerprint"]), JSON | st.just(KEY)
).map(lambda fields: json.dumps(fields).encode())
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 47} & {*name})
MOMENTS = st.integers(-(2**31), 2**34) | st.just(0)


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    files=st.dictionaries(NAMES | st.sampled_from([b"t.json", b"t.json.attempt"]), CONTENTS),
    moment=MOMENTS,
    form=st.sampled_from([None, "t.json", "*"]),
)
def test_whatever_is_in_the_token_directory_the_host_is_read(
    files: dict[bytes, bytes], moment: int, form: str | None
) -> None:
    with tempfile.TemporaryDirectory() as path:
        for name, content in files.items():
            if name not in (b".", b".."):
                at = Path(path) / os.fsdecode(name)
                at.write_bytes(content)
                os.utime(at, (moment, moment))
        request = {"token_dir": path, "token_file": form, "app_dir": "/nonexistent"}
        arrives(read_tokens(request))

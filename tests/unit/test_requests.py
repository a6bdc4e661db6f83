"""Requests to hosts: they are complete, and secrets are only on standard input."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy import requests
from kis_gateway_deploy.release import (
    COMPOSE_FILE,
    MANIFEST,
    File,
    Image,
    Release,
    make_release,
    simulator_image,
)
from kis_gateway_deploy.remote import COMMAND, Script, question
from kis_gateway_deploy.saved_image import SavedImage
from tests.unit.builders import settings

SECRET = "s3cret-of-nobody"
AWKWARD_DIRECTORY = """/data/o'brien's "tokens" $(touch x) `x` ; 토큰 & *"""
SETTINGS = settings(token_dir=AWKWARD_DIRECTORY, app_dir="/opt/my gateway")
RELEASE = Release(
    Image("kis:1.4"),
    {
        COMPOSE_FILE: File(f"environment: {SECRET}".encode(), 0o600),
        "secrets.json": File(SECRET.encode(), 0o400, 10001, 10001),
    },
    {"key": "0a1b2c3d4e5f"},
)


def test_a_host_is_asked_about_its_deployment() -> None:
    asked = requests.read_request(SETTINGS, RELEASE, history=5)
    assert asked == {
        "project": "kis",
        "service": "kis-gateway",
        "in_place": None,
        "app_dir": "/opt/my gateway",
        "token_dir": AWKWARD_DIRECTORY,
        "token_file": "kis_token.json",
        "release": RELEASE.id,
        "images": ["kis:1.4"],
        "about": "",
        "with_layers": False,
        "adopt": None,
        "adopt_path": None,
        "token_env": ["KIS_TOKEN_FILE_PATH"],
        "token_mount": "/app/tokens",
        "health": {"address": "127.0.0.1", "port": 8080, "path": "/health"},
        "probe": None,
        "history": 5,
    }


def test_a_donor_gets_the_same_request_with_the_key_of_the_token() -> None:
    asked = requests.token_request(SETTINGS, RELEASE, RELEASE.key_fingerprint, True, "current")
    same = requests.read_request(SETTINGS, RELEASE, about="current")
    assert asked == same | {"key": "0a1b2c3d4e5f", "mounted": True}


def test_a_machine_without_a_deployment_is_asked_the_same_questions() -> None:
    assert requests.machine_request().keys() == requests.read_request(SETTINGS, RELEASE).keys()


def test_an_enabled_simulator_is_looked_for() -> None:
    images = requests.read_request(settings(simulator=True), RELEASE)["images"]
    assert images == ["kis:1.4", simulator_image().reference]


def test_layers_are_looked_for_if_the_controller_sends_the_image() -> None:
    sent = Release(Image("kis:4", saved=SavedImage("sha256:4", None)), RELEASE.files, {"key": "k"})
    assert requests.read_request(SETTINGS, sent)["with_layers"] is True


@pytest.mark.parametrize(
    ("changes", "health"),
    [
        ({"bind_address": "0.0.0.0", "port": 80}, ("127.0.0.1", 80, "/health")),  # noqa: S104
        ({"bind_address": "10.0.0.1", "health_path": "/h?x=1"}, ("10.0.0.1", 8080, "/h?x=1")),
        ({"bind_address": "::"}, ("::1", 8080, "/health")),
        ({"bind_address": "fd00::2"}, ("fd00::2", 8080, "/health")),
        ({"network_mode": "host", "container_port": 99}, ("127.0.0.1", 99, "/health")),
        ({"health_path": None}, None),
    ],
)
def test_health_is_requested_at_the_address_of_a_client(
    changes: dict[str, Any], health: tuple[str, int, str] | None
) -> None:
    asked = requests.read_request(settings(**changes), RELEASE)["health"]
    assert asked == (
        dict(zip(("address", "port", "path"), health, strict=True)) if health else None
    )


def test_a_release_is_sent_completely_with_its_manifest() -> None:
    sent = requests.prepare_request(SETTINGS, RELEASE, "seen", tokens=True)
    assert (sent["seen"], sent["release"]["id"]) == ("seen", RELEASE.id)
    assert sent["tokens"] == {
        "dir": AWKWARD_DIRECTORY,
        "file": "kis_token.json",
        "owner": [10001, 10001],
    }
    files = sent["release"]["files"]
    assert list(files) == [COMPOSE_FILE, "secrets.json", MANIFEST]
    assert base64.b64decode(files["secrets.json"]["content"]) == SECRET.encode()
    assert files["secrets.json"]["owner"] == [0o400, 10001, 10001]
    nothing = requests.prepare_request(SETTINGS, None, None, tokens=False)
    assert (nothing["tokens"], nothing["release"]) == (None, None)


@pytest.mark.parametrize(
    ("image", "how", "base"),
    [
        (Image("kis:1.4"), "pull", ""),
        (Image("kis:2", {"Dockerfile": File(b"FROM scratch\n", 0o644)}), "build", ""),
        (
            Image("kis:3", {"Dockerfile": File(b"ARG BASE_IMAGE=debian:trixie-slim\n", 0o644)}),
            "build",
            "debian:trixie-slim",
        ),
        (Image("kis:4", saved=SavedImage("sha256:4", None)), "load", ""),
    ],
)
def test_an_image_is_pulled_built_or_loaded(image: Image, how: str, base: str) -> None:
    asked = requests.fetch_request(image)
    assert (asked["reference"], asked["how"], asked["base"]) == (image.reference, how, base)
    assert bool(asked["make_base"]) == (how == "build")


def test_the_request_for_a_switch_has_the_times_of_the_gate() -> None:
    made = settings(rollout_min_healthy_time=0.25, adopt_container="old")
    asked = requests.switch_request(made, "up", "r", "seen", "new", "kim@desk", 1, 7, "dG9rZW4=")
    assert (asked["min_healthy"], asked["deadline"]) == (0.25, 120)
    assert (asked["adopt"], asked["budget"], asked["kis_wait"]) == ("old", 1, 7)
    assert (asked["seen"], asked["generation"], asked["by"]) == ("seen", "new", "kim@desk")
    assert asked["forced"] is False


def test_no_secret_is_in_a_command_or_a_repr(tmp_path: Path) -> None:
    secrets, env_file = tmp_path / "secrets.json", tmp_path / "kis.env"
    secrets.write_text(f'{{"kis-r-app-key": "{SECRET}"}}')
    env_file.write_text(f"A={SECRET}")
    made = settings(secrets_file=secrets, env_file=env_file, environment={"A": SECRET})
    release = make_release(made)
    asked = requests.prepare_request(made, release, None, tokens=True)
    sent = [base64.b64decode(file["content"]) for file in asked["release"]["files"].values()]
    assert sum(SECRET.encode() in content for content in sent) == 3
    _, stdin = question("prepare", asked)
    assert SECRET not in COMMAND + repr(stdin) + repr(release)
    assert SECRET not in json.dumps(requests.read_request(made, release))
    assert SECRET not in json.dumps(release.manifest)


@pytest.mark.parametrize("packages", [(), ("docker.io", "docker-cli")])
def test_a_bootstrap_is_the_script_with_its_packages(packages: tuple[str, ...]) -> None:
    script = requests.bootstrap_script(engine=True, packages=packages)
    assert script.startswith(" ".join(["set -- engine", *packages]) + "\n")
    checked = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "docker.io" not in repr(Script(script))


def test_the_compose_binary_exists_and_is_executable() -> None:
    binary = requests.compose_binary()
    assert binary.is_file()
    assert os.access(binary, os.X_OK)


def test_the_author_in_the_history_has_only_harmless_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUDO_USER", """o'brien"; $(id) 김""")
    assert requests.author().startswith("o_brien_____id__김@")


def test_a_user_without_a_name_is_named_by_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_USER", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert requests.author().startswith("uid-54321@")


NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("since", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("3d", 259_200),
        ("0s", 0),
        ("2026-11-24T08:59:30Z", 30),
        ("2026-11-24 17:00+09:00", 3600),
        ("2026-11-24T17:30", 1800),  # in the operator's zone
    ],
)
def test_since_is_a_duration_or_a_time(
    since: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    try:
        assert requests.seconds_ago(since, NOW) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "since",
    [
        *(
            "",
            "10",
            "10 m",
            "-5m",
            "1.5h",
            "5M",
            "m",
            "1w",
            "1234567s",
            "٣m",
            "yesterday",
            10,
            None,
        ),
        *("2026-11-24", "20261124T0900", "2026-W48-2", "2026-13-01T00:00", "0001-01-01T00:00"),
        *("09:00", "\x1b[31m", True, ["10m"]),
    ],
)
def test_any_other_since_is_refused(since: object) -> None:
    with pytest.raises(ValueError, match=r"^SINCE=.* is none of: 90s, 10m, 2h, 3d, or a time"):
        requests.seconds_ago(since, NOW)


def test_a_time_in_the_future_is_refused() -> None:
    with pytest.raises(ValueError, match="SINCE=2026-11-24T09:01Z is in the future"):
        requests.seconds_ago("2026-11-24T09:01Z", NOW)


def test_the_request_for_a_log() -> None:
    assert requests.logs_request(SETTINGS, 600, follow=False) == {
        "project": "kis",
        "service": "kis-gateway",
        "in_place": None,
        "app_dir": "/opt/my gateway",
        "adopt": None,
        "adopt_path": None,
        "token_env": ["KIS_TOKEN_FILE_PATH"],
        "token_mount": "/app/tokens",
        "token_dir": AWKWARD_DIRECTORY,
        "token_file": "kis_token.json",
        "ago": 600,
        "follow": 0,
    }
    assert requests.logs_request(SETTINGS, 600, follow=True)["follow"] == 24 * 3600

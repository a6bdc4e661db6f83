from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from deploy.gateway import commands
from deploy.gateway.commands import Command
from deploy.gateway.plan import Plan
from deploy.gateway.release import (
    COMPOSE_FILE,
    KEY_FILE,
    ROOT,
    File,
    Image,
    Release,
    default_healthcheck,
    make_release,
    simulator_image,
)
from deploy.gateway.rollout import Run
from deploy.gateway.saved_image import SavedImage
from tests.unit.builders import settings

SECRET = "s3cret-of-nobody"
AWKWARD_DIRECTORY = """/data/o'brien's "tokens" $(touch x) `x` \\ ; 토큰 & *"""
SETTINGS = settings(token_dir=AWKWARD_DIRECTORY, app_dir="/opt/my gateway")
RELEASE = Release(
    Image("kis:1.4"),
    {
        COMPOSE_FILE: File(f"environment: {SECRET}".encode(), 0o600),
        "secrets.json": File(SECRET.encode(), 0o400, 10001, 10001),
        KEY_FILE: File(b"0a1b2c3d4e5f\n", 0o600),
    },
)
BUILT = Image("kis:2", {"Dockerfile": File(b"ARG BASE_IMAGE=debian:trixie-slim\n", 0o644)})

RUN = Run("abc", "ops", "desk", 4711)
SWITCH = "".join(
    (ROOT / "templates" / name).read_text()
    for name in ("history.sh", "compose.sh", "token.sh", "adopt.sh", "gate.sh", "switch.sh")
)

COMMANDS = {
    "bootstrap": (commands.bootstrap(), ["bootstrap.sh"], []),
    "install_engine": (
        commands.install_engine(Plan(packages=("docker.io", "docker-cli"))),
        ["engine.sh"],
        ["docker.io", "docker-cli"],
    ),
    "install_engine, no packages": (commands.install_engine(Plan()), ["engine.sh"], []),
    "prepare_tokens": (
        commands.prepare_tokens(SETTINGS),
        ["token.sh", "tokens.sh"],
        [f"{AWKWARD_DIRECTORY}/kis_token.json", "10001:10001"],
    ),
    "fetch_image, pulled": (commands.fetch_image(RELEASE.image), ["pull_image.sh"], ["kis:1.4"]),
    "fetch_image, pulled with a login": (
        commands.fetch_image(Image("kis:1.4", login=SECRET)),
        ["pull_image.sh"],
        ["kis:1.4", "with-login"],
    ),
    "fetch_image, built": (
        commands.fetch_image(BUILT),
        ["build_image.sh"],
        ["kis:2", "debian:trixie-slim"],
    ),
    "fetch_image, built on no base": (
        commands.fetch_image(Image("kis:3", {"Dockerfile": File(b"FROM scratch\n", 0o644)})),
        ["build_image.sh"],
        ["kis:3", ""],
    ),
    "fetch_image, loaded": (
        commands.fetch_image(Image("kis:4", saved=SavedImage("sha256:4", None))),
        ["load_image.sh"],
        ["kis:4"],
    ),
    "start_simulator": (
        commands.start_simulator(),
        ["simulator.sh"],
        [simulator_image().reference],
    ),
    "stage": (
        commands.stage(SETTINGS, RELEASE),
        ["compose.sh", "stage.sh"],
        ["/opt/my gateway", RELEASE.id],
    ),
    "take_lock": (
        commands.take_lock(SETTINGS, RUN, gone=""),
        ["lock.sh"],
        ["take", "/opt/my gateway", "abc", RUN.holder(), "900", "none"],
    ),
    "release_lock": (
        commands.release_lock(SETTINGS, RUN),
        ["lock.sh"],
        ["release", "/opt/my gateway", "abc"],
    ),
    "switch": (
        commands.switch(SETTINGS, RUN, "rollback", RELEASE.id, budget=1, wait=42),
        ["run_detached.sh"],
        [
            "/opt/my gateway",
            SWITCH,
            "rollback",
            "/opt/my gateway",
            "kis",
            "kis-gateway",
            RELEASE.id,
            f"{AWKWARD_DIRECTORY}/kis_token.json",
            "10001:10001",
            "yes",
            "8080",
            "5000",
            "120000",
            "abc",
            "ops",
            "1",
            "42",
            "",
            SETTINGS.adopt_token_path,
            "\n".join(default_healthcheck(SETTINGS.container_port)["test"]),
        ],
    ),
    "stop_loop": (
        commands.stop_loop(settings(app_dir="/opt/my gateway", adopt_container="old"), "stop"),
        ["adopt.sh", "stop_loop.sh"],
        ["stop", "/opt/my gateway", "kis", "kis-gateway", "old"],
    ),
    "give_token": (
        commands.give_token(SETTINGS, RELEASE.key, SECRET),
        ["token.sh", "give_token.sh"],
        [f"{AWKWARD_DIRECTORY}/kis_token.json", "0a1b2c3d4e5f", "/opt/my gateway/tokens"],
    ),
    "down": (
        commands.down(SETTINGS, RUN),
        ["history.sh", "compose.sh", "down.sh"],
        ["/opt/my gateway", "kis", "ops"],
    ),
}


def shell(*arguments: str, stdin: str) -> str:
    done = subprocess.run(
        ["sh", *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("command", "templates", "arguments"), COMMANDS.values(), ids=COMMANDS.keys()
)
def test_a_command_is_its_templates_with_arguments(
    command: Command,
    templates: list[str],
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = "".join((ROOT / "templates" / name).read_text("utf-8") for name in templates)
    assert command.script.endswith(body)
    set_arguments = command.script.removesuffix(body)
    monkeypatch.chdir(tmp_path)
    printed = shell("-s", "left", "over", stdin=f"""{set_arguments}printf '%s\\0' $# "$@" """)
    assert printed.split("\0") == [str(len(arguments)), *arguments, ""]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [case[0] for case in COMMANDS.values()], ids=COMMANDS.keys())
def test_a_command_is_valid_shell(command: Command) -> None:
    shell("-n", stdin=command.script)


@pytest.mark.parametrize(
    ("name", "reads_stdin"),
    [
        (name, name.startswith(("stage", "give", "fetch_image, built", "fetch_image, pulled with")))
        for name in COMMANDS
    ],
)
def test_only_archives_and_secrets_travel_on_standard_input(name: str, reads_stdin: bool) -> None:
    assert (COMMANDS[name][0].stdin is not None) is reads_stdin


def unpacked(command: Command) -> dict[str, File]:
    assert command.stdin is not None
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(command.stdin))) as tar:
        return {
            member.name: File(content.read(), member.mode, member.uid, member.gid)
            for member in tar
            if (content := tar.extractfile(member))
        }


def test_staging_carries_the_whole_release() -> None:
    assert unpacked(commands.stage(SETTINGS, RELEASE)) == RELEASE.files


def test_building_carries_the_whole_context() -> None:
    assert unpacked(commands.fetch_image(BUILT)) == BUILT.context


def test_a_host_is_asked_about_its_deployment() -> None:
    asked = commands.read_request(SETTINGS, RELEASE, history=5)
    assert asked == {
        "project": "kis",
        "service": "kis-gateway",
        "app_dir": "/opt/my gateway",
        "token_dir": AWKWARD_DIRECTORY,
        "token_file": "kis_token.json",
        "release": RELEASE.id,
        "compose": RELEASE.files[COMPOSE_FILE].sha256,
        "images": ["kis:1.4"],
        "with_layers": False,
        "adopt": None,
        "adopt_path": SETTINGS.adopt_token_path,
        "health": {"address": "127.0.0.1", "port": 8080, "path": "/health"},
        "history": 5,
    }


def test_a_donor_is_asked_the_same_and_whose_token_it_is() -> None:
    asked = commands.token_request(SETTINGS, RELEASE, RELEASE.key, mounted=True)
    same = commands.read_request(SETTINGS, RELEASE)
    assert asked == same | {"key": "0a1b2c3d4e5f", "mounted": True}


def test_a_simulator_that_is_wanted_is_looked_for() -> None:
    images = commands.read_request(settings(simulator=True), RELEASE)["images"]
    assert images == ["kis:1.4", simulator_image().reference]


def test_layers_are_looked_for_where_the_controller_sends_the_image() -> None:
    sent = Release(Image("kis:4", saved=SavedImage("sha256:4", None)), RELEASE.files)
    assert commands.read_request(SETTINGS, sent)["with_layers"] is True


@pytest.mark.parametrize(
    ("changes", "health"),
    [
        ({"bind_address": "0.0.0.0", "port": 80}, ("127.0.0.1", 80, "/health")),  # noqa: S104
        ({"bind_address": "10.0.0.1", "health_path": "/h?x=1"}, ("10.0.0.1", 8080, "/h?x=1")),
        ({"network_mode": "host", "container_port": 99}, ("127.0.0.1", 99, "/health")),
        ({"health_path": None}, None),
    ],
)
def test_health_is_asked_where_a_client_asks(
    changes: dict[str, Any], health: tuple[str, int, str] | None
) -> None:
    asked = commands.read_request(settings(**changes), RELEASE)["health"]
    assert asked == (
        dict(zip(("address", "port", "path"), health, strict=True)) if health else None
    )


def test_no_secret_is_in_a_script_or_a_repr(tmp_path: Path) -> None:
    secrets, env_file = tmp_path / "secrets.json", tmp_path / "kis.env"
    secrets.write_text(f'{{"kis-r-app-key": "{SECRET}"}}')
    env_file.write_text(f"A={SECRET}")
    made = settings(secrets_file=secrets, env_file=env_file, environment={"A": SECRET})
    release = make_release(made)
    staged = commands.stage(made, release)
    secret_files = {n: f for n, f in unpacked(staged).items() if n != KEY_FILE}
    assert all(SECRET.encode() in file.content for file in secret_files.values())
    assert staged.stdin is not None
    for command in (
        staged,
        commands.prepare_tokens(made),
        commands.fetch_image(release.image),
        commands.switch(made, RUN, "switch", release.id),
        commands.down(made, RUN),
        commands.give_token(made, release.key, SECRET),
    ):
        assert SECRET not in json.dumps(commands.read_request(made, release))
        assert SECRET not in command.script
        assert SECRET not in repr(command)
        assert staged.stdin not in repr(command)


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(0, "0"), (0.25, "250"), (0.1 + 0.2, "300"), (5, "5000")]
)
def test_the_shell_counts_in_milliseconds(seconds: float, milliseconds: str) -> None:
    made = settings(rollout_min_healthy_time=seconds)
    switch = commands.switch(made, RUN, "switch", RELEASE.id).script
    assert f" {milliseconds} 120000 abc ops " in switch


def test_a_gateway_without_a_token_at_its_start_is_not_asked_for_one() -> None:
    switch = commands.switch(settings(token_at_start=False), RUN, "switch", RELEASE.id).script
    assert " 10001:10001 '' 8080 5000 120000 " in switch


def test_the_compose_binary_is_there_and_runs() -> None:
    binary = commands.compose_binary()
    assert binary.is_file()
    assert os.access(binary, os.X_OK)


@pytest.mark.parametrize("status", [0, 1])
def test_a_pull_has_the_login_and_leaves_nothing_of_it(tmp_path: Path, status: int) -> None:
    kept, programs = tmp_path / "kept", tmp_path / "bin"
    kept.mkdir()
    programs.mkdir()
    docker = programs / "docker"
    docker.write_text(
        f'#!/bin/sh\nstat -c %a "$DOCKER_CONFIG" >"{tmp_path}/mode"\n'
        f'cat "$DOCKER_CONFIG/config.json" >"{tmp_path}/login"\nexit {status}\n'
    )
    docker.chmod(0o755)
    command = commands.fetch_image(Image("kis:1.4", login=SECRET))
    result = subprocess.run(
        ["sh", "-c", command.script],
        input=command.stdin,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(kept)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert (tmp_path / "login").read_text() == SECRET
    assert (tmp_path / "mode").read_text() == "700\n"
    assert list(kept.iterdir()) == []
    assert SECRET not in command.script + result.stdout + result.stderr


@pytest.mark.parametrize(("first", "printed"), [("set -e\nfalse\necho on", ""), ("true", "second")])
def test_of_two_commands_the_second_runs_where_the_first_succeeds(first: str, printed: str) -> None:
    both = commands.Command(first).then(commands.Command("echo second"))
    done = subprocess.run(["sh", "-c", both.script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (printed, 0 if printed else 1)

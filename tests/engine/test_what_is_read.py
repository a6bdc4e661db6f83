"""What a reading finds on a host that changed after a deploy, and what `up` then does."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Deployment, new_account
from tests.tools import docker, get, wait_for


@pytest.fixture(scope="module")
def deployed(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> Deployment:
    deployment = new_deployment("read", **stubborn_settings)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    return deployment


@pytest.fixture
def token_file(deployed: Deployment) -> Iterator[Path]:
    """The token file, which is restored after the test."""
    content = deployed.token_file.read_bytes()
    yield deployed.token_file
    if deployed.token_file.is_dir():
        deployed.token_file.rmdir()
    deployed.token_file.write_bytes(content)
    os.chown(deployed.token_file, 10001, 10001)


def assert_drifted(deployment: Deployment, *words: str) -> None:
    drifted = deployment.run("drift")
    assert drifted.status == 1, drifted.output
    for word in words:
        assert word in drifted.output, drifted.output


def test_an_unchanged_gateway_has_not_drifted(deployed: Deployment) -> None:
    outcome = deployed.run("drift")
    assert outcome.status == 0, outcome.output


# Tokens


def test_a_missing_token_is_drift_and_is_reported(deployed: Deployment, token_file: Path) -> None:
    token_file.unlink()
    assert_drifted(deployed, "there is no token file, so the next start of the gateway costs")
    outcome = deployed.up()
    assert outcome.status == 0
    assert "there is no token file" in outcome.output
    assert "outlives the container" not in outcome.output


def test_an_expired_token_is_drift(deployed: Deployment, token_file: Path) -> None:
    token_file.write_text(json.dumps({"access_token": "x", "expires_at": time.time() - 9}))
    assert_drifted(deployed, "the token has expired")


def test_a_damaged_token_is_drift(deployed: Deployment, token_file: Path) -> None:
    token_file.write_text('{"access_token": "x')
    assert_drifted(deployed, "is damaged: it is set aside")


def test_a_token_of_another_app_key_is_drift(deployed: Deployment, token_file: Path) -> None:
    fields = json.loads(token_file.read_text()) | {"app_key_fingerprint": "0123456789ab"}
    token_file.write_text(json.dumps(fields))
    assert_drifted(deployed, "is of another app key (fingerprint 0123456789ab, not ")


def test_a_token_with_backslashes_is_understood(deployed: Deployment, token_file: Path) -> None:
    fields = json.loads(token_file.read_text()) | {"note": '토큰 "\\" 파일'}
    token_file.write_text(json.dumps(fields))
    assert "\\ud1a0" in token_file.read_text()
    outcome = deployed.run("drift")
    assert outcome.status == 0, outcome.output


def test_the_token_of_a_moved_directory_is_brought_over(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment("moved", **stubborn_settings)
    assert deployment.up().status == 0
    token, directory = deployment.token(), deployment.token_file.parent
    directory.rename(directory.with_name("moved"))
    directory.mkdir(0o700)
    os.chown(directory, 10001, 10001)
    assert_drifted(deployment, f"still has an older {directory} mounted")
    deployment.run("restart").assert_refused("still has an older", "make deploy")
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    assert deployment.token() == token
    assert "issuances: 0 (budget 0)" in outcome.output
    assert deployment.account.count("issuances") == 1
    assert deployment.run("drift").status == 0


def test_a_moved_directory_with_an_expired_token_costs_an_issuance(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment("moved-expired", **stubborn_settings)
    assert deployment.up().status == 0
    directory = deployment.token_file.parent
    expired = json.dumps({"access_token": "x", "expires_at": time.time() - 9})
    deployment.token_file.write_text(expired)
    directory.rename(directory.with_name("moved"))
    directory.mkdir(0o700)
    os.chown(directory, 10001, 10001)
    planned = deployment.run("plan")
    assert planned.status == 0, planned.output
    assert "holds no token that is known to last: re-creating the container costs" in planned.output
    assert "issuances: 1 (@local)" in planned.output


def test_a_removed_directory_costs_an_issuance(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment("gone", **stubborn_settings)
    assert deployment.up().status == 0
    shutil.rmtree(deployment.token_file.parent)
    words = f"{deployment.token_file.parent} was removed while the container ran"
    assert_drifted(deployment, words, "costs an issuance")
    planned = deployment.run("plan")
    assert planned.status == 0, planned.output
    assert "issuances: 1 (@local)" in planned.output


def test_a_second_gateway_may_not_use_the_same_token_directory(
    deployed: Deployment, tmp_path: Path
) -> None:
    other = Deployment(tmp_path, new_account(tmp_path, "other"), dict(deployed.data))
    other.data |= {
        "gateway_project": f"{deployed.project}-two",
        "gateway_app_dir": str(tmp_path / "app"),
        "gateway_port": 1,
        "gateway_secrets_file": other.account.secrets_file,
    }
    container, state = deployed.container(), deployed.host_state()
    outcome = other.up()
    outcome.assert_refused("has the token directory", "Choose another gateway_token_dir")
    assert deployed.inspect("{{.Name}}").lstrip("/") in outcome.output
    assert not (tmp_path / "app").exists()
    assert (deployed.container(), deployed.host_state()) == (container, state)


# Containers


def test_a_one_off_container_is_ignored(deployed: Deployment) -> None:
    compose_file = str(deployed.app_dir / "current/docker-compose.yml")
    docker("compose", "--file", compose_file, "run", "--detach", "kis-gateway", "sleep", "600")
    label = f"label=com.docker.compose.project={deployed.project}"
    oneoff = docker(
        "ps", "-aq", "--filter", label, "--filter", "label=com.docker.compose.oneoff=True"
    )
    assert oneoff
    try:
        assert deployed.run("drift").status == 0
        assert deployed.up().changes() == 0
        changed = deployed.up(gateway_labels={"changed": "once"})
        assert changed.status == 0, changed.output
        assert deployed.up(gateway_labels={"changed": "once"}).changes() == 0
        assert deployed.up().status == 0
    finally:
        docker("rm", "--force", oneoff)


def test_a_project_of_the_same_name_is_refused_and_not_touched(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any], tmp_path: Path
) -> None:
    deployment = new_deployment("theirs", **stubborn_settings)
    theirs = tmp_path / "compose.yaml"
    image = docker("images", "--format", "{{.Repository}}:{{.Tag}}", "kis-simulator").split()[0]
    theirs.write_text(
        f"services:\n  kis-gateway:\n    image: {image}\n    command: [sleep, '600']\n"
    )
    docker("compose", "-p", deployment.project, "-f", str(theirs), "up", "--detach")
    container = deployment.container()
    outcome = deployment.up()
    outcome.assert_refused(str(theirs), "choose another gateway_project", "gateway_adopt_container")
    assert deployment.container() == container
    assert deployment.inspect("{{.State.Status}}") == "running"
    assert not deployment.token_file.exists()


@pytest.mark.parametrize("verb", ["restart", "rollback", "down"])
def test_no_verb_touches_a_stranger_next_to_our_gateway(deployed: Deployment, verb: str) -> None:
    label = "com.docker.compose"
    stranger = docker(
        "run", "--detach", "--name", f"{deployed.project}-stranger", "--entrypoint", "sleep",
        "--label", f"{label}.project={deployed.project}", "--label", f"{label}.service=kis-gateway",
        "--label", f"{label}.oneoff=False", deployed.inspect("{{.Config.Image}}"), "600",
    )  # fmt: skip
    try:
        outcome = deployed.run(verb)
        outcome.assert_refused(f"{deployed.project}-stranger", "choose another gateway_project")
        started = "{{.State.Status}} {{.RestartCount}} {{.State.StartedAt}}"
        assert docker("inspect", "--format", started, stranger).startswith("running 0 ")
    finally:
        docker("rm", "--force", stranger)


def test_restarts_are_drift_and_are_shown(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment("restarts", **stubborn_settings)
    assert deployment.up().status == 0
    process = deployment.inspect("{{.State.Pid}}")
    os.kill(int(process), 9)
    wait_for(lambda: deployment.inspect("{{.RestartCount}}") != "0", "Docker restarts it")
    wait_for(lambda: get(f"{deployment.url}/health")[0] == 200, "it is back")
    assert_drifted(deployment, "the container restarted once since it was created")
    assert "restarted once" in deployment.up().output


def test_a_bad_answer_to_a_client_is_drift(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> None:
    deployment = new_deployment("client", **stubborn_settings)
    assert deployment.up().status == 0
    assert deployment.run("drift").status == 0
    deployment.token_file.with_name("bad").touch()
    drifted = deployment.run("drift")
    assert drifted.status == 1
    assert "a client that asks /health gets: HTTP 503" in drifted.output
    assert "a client gets: HTTP 503" in deployment.run("status").output


# The host


def test_a_history_with_invalid_bytes_is_harmless(deployed: Deployment) -> None:
    history = deployed.app_dir / "history.jsonl"
    content = history.read_bytes()
    history.write_bytes(content + b'{"began": "\xff\xfe\n\x80\n')
    try:
        for verb, word in (("status", "up to date"), ("history", "switched")):
            outcome = deployed.run(verb)
            assert outcome.status == 0, outcome.output
            assert word in outcome.output
        assert deployed.run("drift").status == 0
    finally:
        history.write_bytes(content)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DOCKER_HOST": "tcp://192.0.2.1:2375"}, "docker uses tcp://192.0.2.1:2375"),
        ({"DOCKER_HOST": "unix:///nonexistent.sock"}, "/nonexistent.sock: No such file"),
        (
            {"DOCKER_CONTEXT": "elsewhere"},
            "the docker context elsewhere does not exist on this host",
        ),
    ],
)
def test_an_unreachable_engine_is_named(
    deployed: Deployment, environment: dict[str, str], words: str
) -> None:
    state = deployed.host_state()
    outcome = deployed.run("up", environment=environment)
    outcome.assert_refused(words, "docker context use default")
    assert "end that" not in outcome.output
    assert deployed.host_state() == state
    assert deployed.run("drift", environment={"DOCKER_HOST": "unix:///run/docker.sock"}).status == 0

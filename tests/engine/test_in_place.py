"""A gateway that stays a service of the operator's own compose project."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy import remote, requests
from kis_gateway_deploy.fleet import validate_fleet
from tests.engine.conftest import Account, Deployment, ask_simulator
from tests.tools import command, docker, get, wait_for

NewDeployment = Callable[..., Deployment]

# As the first people with this problem have it: a profile, an env file by a relative path, a health
# check and services that wait for it, a default with a `$`, a build without a name, root.
COMPOSE = """\
version: "3.8"
services:
  kis-gateway:
    image: {image}
    build: ./nothing-to-build
    profiles: [trading]
    user: "0:0"
    restart: always
    env_file: ./gateway.env
    environment:
      - PRICE=${{NOT_SET:-a$$b}}
      - MODE=${{MODE:-live}}
    volumes: ["./keys.json:/secrets.json:ro"]
    ports: ["127.0.0.1:{port}:8080"]
    extra_hosts: ["host.docker.internal:host-gateway"]
    networks: [trading]
    healthcheck:
      test: ["CMD", "python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080')"]
      interval: 1s
    stop_grace_period: 1s
  bot:
    image: {image}
    profiles: [trading]
    entrypoint: ["sleep", "infinity"]
    stop_signal: SIGKILL
    depends_on: {{kis-gateway: {{condition: service_healthy}}}}
    networks: [trading]
  redis:
    image: {image}
    entrypoint: ["sleep", "infinity"]
    stop_signal: SIGKILL
    networks: [trading]
networks:
  trading: {{}}
"""


@dataclass
class Stack:
    """The operator's own compose project, and a deployment of its gateway."""

    directory: Path
    deployment: Deployment

    @property
    def account(self) -> Account:
        return self.deployment.account

    def compose(self, *words: str, **variables: str) -> str:
        result = command(
            "env", *(f"{name}={value}" for name, value in variables.items()),
            "docker", "compose", "--profile", "trading", *words, cwd=self.directory,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    def change(self, **variables: str) -> None:
        """The operator applies a change by hand, a minute after the last issuance."""
        ask_simulator("PUT", "clock", {"advance": 61})
        self.compose("up", "--detach", "--no-build", **variables)

    def ids(self) -> dict[str, str]:
        """The id of each service's container."""
        lines = self.compose("ps", "--all", "--format", "{{.Service}} {{.ID}}").splitlines()
        return dict(line.split() for line in lines)

    def counts(self) -> tuple[int, int]:
        return self.account.count("issuances"), self.account.count("rejections")

    def serves(self) -> bool:
        return get(f"{self.deployment.url}/health")[0] == 200

    @property
    def override(self) -> Path:
        return self.directory / "docker-compose.override.yml"

    def files(self) -> dict[str, bytes]:
        """The operator's project directory."""
        return {path.name: path.read_bytes() for path in self.directory.iterdir() if path.is_file()}


@pytest.fixture
def stack(new_deployment: NewDeployment, stubborn_image: str, tmp_path: Path) -> Iterator[Stack]:
    """A running stack whose gateway has its token in its container."""
    deployment = new_deployment(f"place-{tmp_path.name[-12:].replace('_', '-').lower()}")
    kept = ("_sudo", "gateway_port", "gateway_app_dir", "gateway_token_dir", "gateway_simulator")
    data = {
        name: value
        for name, value in deployment.data.items()
        if name.startswith(("rollout", *kept))
    }
    directory = tmp_path / "srv" / "trading"
    directory.mkdir(parents=True)
    data |= {
        "gateway_compose_file": str(directory / "docker-compose.yml"),
        "gateway_service": "kis-gateway",
        "gateway_user": "0:0",
    }
    made = Stack(directory, Deployment(deployment.directory, deployment.account, data))
    text = COMPOSE.format(image=stubborn_image, port=deployment.data["gateway_port"])
    (directory / "docker-compose.yml").write_text(text)
    (directory / "gateway.env").write_text(
        "KIS_BASE_URL=http://host.docker.internal:9443\nSECRETS_FILE=/secrets.json\nPORT=8080\n"
    )
    shutil.copy(made.account.secrets_file, directory / "keys.json")
    made.compose("up", "--detach", "--no-build")
    wait_for(made.serves, "the operator's gateway serves")
    assert made.counts() == (1, 0)
    yield made
    made.compose("down")


def test_a_gateway_in_place_keeps_its_token_from_then_on(stack: Stack) -> None:
    before, theirs = stack.ids(), stack.files()
    plan = stack.deployment.run("plan")
    assert plan.status == 0, plan.output
    assert "has no volume or variable for its token" in plan.output
    assert stack.ids() == before
    outcome = stack.deployment.up()
    assert outcome.status == 0, outcome.output
    assert "issuances: 0 (budget 0)" in outcome.output
    after = stack.ids()
    assert after.pop("kis-gateway") != before.pop("kis-gateway")
    assert after == before, "another service was touched"
    now = stack.files()
    override = now.pop("docker-compose.override.yml")
    assert now == theirs
    assert override.startswith(b"# Managed by kis-gateway-deploy")
    assert stack.override.stat().st_mode & 0o777 == 0o644
    assert stack.deployment.token()
    policy = docker(
        "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", stack.ids()["kis-gateway"]
    )
    assert policy == "always"
    assert stack.deployment.up().changes() == 0
    assert stack.deployment.run("drift").status == 0
    for _ in range(2):
        stack.compose("up", "--detach", "--no-build", "--force-recreate", "kis-gateway")
        wait_for(stack.serves, "it serves after the operator's own re-creation")
    assert stack.deployment.run("drift").status == 0
    assert stack.counts() == (1, 0)


def test_every_verb_works_in_place(stack: Stack) -> None:
    deployment = stack.deployment
    assert deployment.up().status == 0
    restarted = deployment.run("restart")
    assert restarted.status == 0, restarted.output
    verified = deployment.verify()
    assert verified.status == 0, verified.output
    status = deployment.run("status")
    assert status.status == 0, status.output
    down = deployment.run("down")
    down.assert_refused("a service of your own compose file")
    back = deployment.run("rollback")
    assert back.status == 0, back.output
    assert not stack.override.exists()
    assert stack.serves()
    assert deployment.run("drift").status == 1
    mounts = docker("inspect", "--format", "{{json .Mounts}}", stack.ids()["kis-gateway"])
    assert "/app/tokens" not in [each["Destination"] for each in json.loads(mounts)]
    assert deployment.up().status == 0
    assert stack.counts() == (1, 0)


def test_a_gateway_in_place_without_a_published_port(stack: Stack) -> None:
    path = stack.directory / "docker-compose.yml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "ports:" not in line))
    stack.change()
    issued = stack.counts()
    group_data = stack.deployment.directory / "group_data"  # `up` leaves out what is None
    group_data.mkdir()
    (group_data / "all.py").write_text("gateway_health_path = None\n")
    outcome = stack.deployment.up()
    assert outcome.status == 0, outcome.output
    verified = stack.deployment.verify()
    assert verified.status == 0, verified.output
    assert stack.counts() == issued


def test_a_gate_that_fails_puts_back_what_was_there(stack: Stack) -> None:
    theirs, before = stack.files(), stack.ids()
    outcome = stack.deployment.up(gateway_health_path="/health", gateway_token_mount="/usr/lib")
    assert outcome.status == 1, outcome.output
    assert "runs again and is healthy" in outcome.output, outcome.output
    assert stack.files() == theirs
    after = stack.ids()
    assert after.pop("kis-gateway") != before.pop("kis-gateway")
    assert after == before
    wait_for(stack.serves, "the operator's gateway serves again")
    assert stack.counts() == (1, 0)
    policy = docker(
        "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", stack.ids()["kis-gateway"]
    )
    assert policy == "always"


def test_a_fleet_that_reverts_goes_back_to_the_operators_own_container(stack: Stack) -> None:
    """As after the failure of a later host: before its first deploy, no release ran here."""
    theirs, data = stack.files(), stack.deployment.data
    assert stack.deployment.up().status == 0
    settings = validate_fleet({"@local": data})["@local"]
    state = json.loads((stack.deployment.app_dir / "state.json").read_text())
    request = requests.switch_request(
        settings, "revert", None, state["generation"], secrets.token_hex(8), "kim@desk"
    )
    frame, stdin = remote.question("switch", request)
    result = subprocess.run(
        ["sh", "-c", remote.command()], input=stdin.encode(), capture_output=True, timeout=120
    )
    assert result.returncode == 0, result.stdout
    answer = json.loads(remote.answer(frame, result.stdout.decode().splitlines()))
    assert answer["result"]["outcome"] == "switched"
    assert stack.files() == theirs
    wait_for(stack.serves, "the operator's gateway serves again")
    assert stack.counts() == (1, 0)


def refused(stack: Stack, *words: str, **changes: Any) -> None:
    theirs, before = stack.files(), stack.ids()
    outcome = stack.deployment.up(**changes)
    outcome.assert_refused(*words)
    assert (stack.files(), stack.ids()) == (theirs, before)
    assert not Path(stack.deployment.data["gateway_token_dir"]).exists()


def test_what_would_change_more_than_the_token_is_refused(stack: Stack) -> None:
    refused(stack, "runs as 0:0, so set gateway_user = '0:0'", gateway_user=None)
    refused(stack, "publishes 127.0.0.1", "set gateway_port", gateway_port=1)
    refused(stack, "there is no service trader", gateway_service="trader")
    refused(
        stack, "there is no file /nowhere/compose.yml", gateway_compose_file="/nowhere/compose.yml"
    )
    refused(stack, "no token was found", "gateway_adopt_token_path", gateway_adopt_token_path="/no")
    for name in ("compose.override.yaml", "docker-compose.override.yml"):
        (stack.directory / name).write_text("services: {}\n")
        refused(stack, "made from other files than")
        stack.change()
        refused(
            stack,
            f"set COMPOSE_FILE=docker-compose.yml:{name}:kis-gateway.override.yml",
            "KIS_TOKEN_FILE_PATH: /app/tokens/kis_token.json",
        )
        (stack.directory / name).unlink()
        stack.change()
    stack.change(MODE="paper")
    refused(stack, "a variable may have been set in your shell only")
    assert stack.counts()[1] == 0


def test_an_error_of_compose_shows_no_value_of_the_operators_files(stack: Stack) -> None:
    theirs = stack.files()
    text = theirs["docker-compose.yml"].decode()
    broken = text.replace("- MODE=", "- KEY=abc${def-\n      - MODE=")
    assert broken != text
    (stack.directory / "docker-compose.yml").write_text(broken)
    secret = "super-secret-value"
    for words in ("services.kis-gateway.environment", "unterminated quoted value"):
        for verb in ("plan", "up"):
            outcome = stack.deployment.run(verb)
            outcome.assert_refused("docker compose cannot read", words)
            assert "abc$" not in outcome.output
            assert secret not in outcome.output
        (stack.directory / "docker-compose.yml").write_text(text)
        with (stack.directory / "gateway.env").open("a") as file:
            file.write(f'KEY="{secret}\n')
    (stack.directory / "gateway.env").write_bytes(theirs["gateway.env"])
    assert stack.files() == theirs


def test_a_later_deploy_applies_no_change_of_the_operator(stack: Stack) -> None:
    assert stack.deployment.up().status == 0
    compose_file = stack.directory / "docker-compose.yml"
    changed = compose_file.read_text().replace("restart: always", "restart: on-failure")
    assert changed != compose_file.read_text()
    compose_file.write_text(changed)
    assert stack.deployment.up().changes() == 0
    before = stack.ids()
    outcome = stack.deployment.up(gateway_health_path="/health?deep=1")
    outcome.assert_refused("the file was changed since", "run that first, then deploy")
    assert stack.ids() == before
    stack.compose("up", "--detach", "--no-build", "kis-gateway")
    wait_for(stack.serves, "it serves after the operator's own change")
    outcome = stack.deployment.up(gateway_health_path="/health?deep=1")
    assert outcome.status == 0, outcome.output
    assert stack.counts() == (1, 0)


def test_a_sidecar_that_shares_the_network_is_not_cut_off(
    stack: Stack, stubborn_image: str
) -> None:
    sidecar = f"kis-test-sidecar-{stack.directory.parts[-3][-8:]}"
    gateway = stack.ids()["kis-gateway"]
    docker(
        "run", "--detach", "--name", sidecar, "--network", f"container:{gateway}",
        "--entrypoint", "sleep", stubborn_image, "infinity",
    )  # fmt: skip
    try:
        refused(stack, f"{sidecar} uses the gateway's network")
    finally:
        docker("rm", "--force", sidecar)


def test_files_that_compose_file_lists_in_the_env_file(stack: Stack) -> None:
    (stack.directory / "docker-compose.override.yml").write_text(
        "services: {kis-gateway: {labels: {own: 'yes'}}}\n"
    )
    (stack.directory / ".env").write_text(
        "COMPOSE_FILE=docker-compose.yml:docker-compose.override.yml:kis-gateway.override.yml\n"
    )
    (stack.directory / "kis-gateway.override.yml").write_text("services: {}\n")
    stack.change()
    (stack.directory / "kis-gateway.override.yml").unlink()
    outcome = stack.deployment.up()
    assert outcome.status == 0, outcome.output
    stack.compose("up", "--detach", "--no-build", "--force-recreate", "kis-gateway")
    assert stack.deployment.run("drift").status == 0


def test_lines_in_the_operators_own_file_need_no_override(stack: Stack) -> None:
    tokens = stack.deployment.data["gateway_token_dir"]
    path = stack.directory / "docker-compose.yml"
    text = path.read_text()
    text = text.replace('"./keys.json', f'"{tokens}:/app/tokens", "./keys.json')
    text = text.replace(
        "- MODE=", "- KIS_TOKEN_FILE_PATH=/app/tokens/kis_token.json\n      - MODE="
    )
    path.write_text(text)
    stack.change()
    issued = stack.counts()
    outcome = stack.deployment.up()
    assert outcome.status == 0, outcome.output
    assert not stack.override.exists()
    assert stack.deployment.run("drift").status == 0
    assert stack.counts() == issued

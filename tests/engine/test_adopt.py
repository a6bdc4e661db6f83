"""`make adopt`: the first deploy by the written inventory is a copy, with the token kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kis_gateway_deploy.host.describe import describe
from tests.engine.conftest import Deployment
from tests.tools import BIN, Outcome, command, docker, get, wait_for

NewDeployment = Callable[..., Deployment]
WEIRD = "it's $5 # of nobody"


@dataclass
class Wild:
    """A gateway that an operator runs by hand, and the inventory of its host, without settings."""

    name: str
    deployment: Deployment
    directory: Path

    @property
    def written(self) -> Path:
        return self.directory / "mine.py"

    def run(self, verb: str, inventory: Path, *flags: str) -> Outcome:
        """As `make` does."""
        result = command(
            "timeout", "240", BIN / "python", "-m", "deploy", verb, inventory, "", *flags,
            cwd=self.deployment.checkout, env=self.deployment._environment,
        )  # fmt: skip
        return Outcome(result.returncode, result.stdout + result.stderr)

    def adopt(self, name: str = "", write: str | None = None) -> Outcome:
        bare = self.directory / "bare.py"
        bare.write_text('hosts = [("@local", {"_sudo_password": "not-used"})]\n')
        container = f'container="{name or self.name}"'
        path = self.written if write is None else write
        return self.run("adopt", bare, "--data", container, "--data", f'write="{path}"')

    def state(self) -> str:
        return docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", self.name)

    def counts(self) -> tuple[int, int]:
        account = self.deployment.account
        return account.count("issuances"), account.count("rejections")

    def own(self) -> None:
        """Adds what keeps this deployment apart from others on the machine."""
        names = ("project", "app_dir", "token_dir")
        own = {f"gateway_{each}": self.deployment.data[f"gateway_{each}"] for each in names}
        own |= {"rollout_min_healthy_time": 1, "rollout_healthy_deadline": 30}
        with self.written.open("a") as file:
            file.write(f"gateways[0][1].update({own!r})\n")


@pytest.fixture
def wild(new_deployment: NewDeployment, tmp_path: Path) -> Iterator[Wild]:
    name = f"kis-test-adopt-{secrets.token_hex(3)}"
    yield Wild(name, new_deployment(name.removeprefix("kis-test-")), tmp_path)
    command("docker", "rm", "--force", name)


def start(wild: Wild, image: str, *flags: str) -> None:
    docker(
        "run", "--detach", "--name", wild.name, "--restart", "unless-stopped",
        "--add-host", "host.docker.internal:host-gateway",
        "--env", "KIS_BASE_URL=http://host.docker.internal:9443",
        "--publish", f"127.0.0.1:{wild.deployment.data['gateway_port']}:8080", *flags, image,
    )  # fmt: skip
    wait_for(
        lambda: get(f"{wild.deployment.url}/health")[0] == 200, "the operator's gateway serves"
    )
    assert wild.counts() == (1, 0)


def mounted(wild: Wild, path: str) -> tuple[str, str]:
    return "--volume", f"{wild.deployment.account.secrets_file}:{path}:ro"


def deploy(wild: Wild) -> Outcome:
    wild.own()
    outcome = wild.run("up", wild.written)
    assert outcome.status == 0, outcome.output
    assert wild.counts() == (1, 0)
    assert get(f"{wild.deployment.url}/health")[0] == 200
    again = wild.run("up", wild.written)
    assert "up: up to date on 1 of 1 hosts" in again.output.splitlines(), again.output
    return outcome


SHAPES: dict[str, tuple[str, ...]] = {
    "in a directory of its own": ("--env", "KIS_TOKEN_FILE_PATH=/app/tokens/kis_token.json"),
    "beside other files": ("--env", "KIS_TOKEN_FILE_PATH=/app/own.json"),
    "at the default path": (),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_container_of_docker_run_is_copied_and_its_token_is_kept(
    wild: Wild, stubborn_image: str, shape: str
) -> None:
    start(
        wild, stubborn_image, *SHAPES[shape], *mounted(wild, "/secrets.json"), "--user", "0:0",
        "--env", "SECRETS_FILE=/secrets.json", "--env", f"WEIRD={WEIRD}",
        "--volume", f"{wild.directory}:/more:ro", "--memory", "256m",
    )  # fmt: skip
    before = wild.state()
    outcome = wild.adopt()
    assert outcome.status == 0, outcome.output
    assert "adopt: read on 1 of 1 hosts" in outcome.output.splitlines()
    assert wild.state() == before
    assert WEIRD not in outcome.output + wild.written.read_text()
    assert wild.deployment.account.app_secret not in outcome.output
    assert "variables in the env file: WEIRD" in outcome.output
    assert "not-used" not in wild.written.read_text()
    assert deploy(wild)
    variables = wild.deployment.inspect("{{json .Config.Env}}")
    assert WEIRD in variables
    assert "/more" in wild.deployment.inspect("{{json .Mounts}}")
    assert wild.deployment.inspect("{{.HostConfig.Memory}}") == str(256 << 20)


def test_a_container_whose_log_cannot_be_read_is_adopted(wild: Wild, stubborn_image: str) -> None:
    """The engine answers 501 for its log."""
    start(
        wild, stubborn_image, *SHAPES["in a directory of its own"],
        *mounted(wild, "/secrets.json"), "--user", "0:0", "--env", "SECRETS_FILE=/secrets.json",
        "--log-driver", "none",
    )  # fmt: skip
    written = wild.adopt()
    assert written.status == 0, written.output
    deploy(wild)


def test_another_gateway_with_the_same_names_is_not_replaced(
    wild: Wild, stubborn_image: str
) -> None:
    start(
        wild, stubborn_image, *SHAPES["in a directory of its own"],
        *mounted(wild, "/secrets.json"), "--user", "0:0", "--env", "SECRETS_FILE=/secrets.json",
    )  # fmt: skip
    assert wild.adopt().status == 0
    deploy(wild)
    before = wild.deployment.inspect("{{.Id}} {{.State.StartedAt}}")
    second = f"{wild.name}-2"
    docker("run", "--detach", "--name", second, "--entrypoint", "sleep", stubborn_image, "600")
    try:
        with wild.written.open("a") as file:
            file.write(f"gateways[0][1]['gateway_adopt_container'] = {second!r}\n")
        outcome = wild.run("up", wild.written)
        assert outcome.status == 1
        app_dir = wild.deployment.data["gateway_app_dir"]
        assert f"-kis-gateway-1 uses {app_dir}, too" in outcome.output
        in_use = {
            name: describe({"container": name, "app_dir": app_dir})["container"]["app_dir_in_use"]
            for name in (second, wild.name)
        }
        assert in_use == {second: True, wild.name: False}  # the gateway is a copy of that one
        assert wild.deployment.inspect("{{.Id}} {{.State.StartedAt}}") == before
    finally:
        docker("rm", "--force", second)


def test_keys_in_the_environment_and_a_fixed_path(wild: Wild, stubborn_image: str) -> None:
    account = wild.deployment.account
    start(
        wild, stubborn_image, "--env", "HABIT=at_home", "--tmpfs", "/srv/kis",
        "--env", f"KIS_APP_KEY={account.app_key}", "--env", f"KIS_APP_SECRET={account.app_secret}",
    )  # fmt: skip
    outcome = wild.adopt()
    assert outcome.status == 0, outcome.output
    assert account.app_secret not in outcome.output + wild.written.read_text()
    assert deploy(wild)
    token = Path(wild.deployment.data["gateway_token_dir"]) / ".kis_token_cache.json"
    assert token.is_file()


def test_a_stopped_container_is_described_by_its_variables(wild: Wild, stubborn_image: str) -> None:
    start(
        wild, stubborn_image,
        *mounted(wild, "/secrets.json"), "--env", "SECRETS_FILE=/secrets.json",
        "--env", "KIS_TOKEN_FILE_PATH=/app/tokens/kis_token.json",
    )  # fmt: skip
    docker("stop", wild.name)
    assert wild.adopt().status == 0
    text = wild.written.read_text()
    assert "'gateway_token_mount': '/app/tokens'" in text
    assert deploy(wild)


def test_what_cannot_be_adopted_is_said(wild: Wild, stubborn_image: str) -> None:
    start(
        wild, stubborn_image, *mounted(wild, "/secrets.json"), "--env", "SECRETS_FILE=/secrets.json"
    )
    nobody = wild.adopt("nobody")
    assert nobody.status == 1
    assert "there is no container nobody on this host" in nobody.output
    assert wild.name in nobody.output
    assert "adopt: failed on 1 of 1 hosts (@local)" in nobody.output.splitlines()
    assert not wild.written.exists()
    printed = wild.adopt(write="")
    assert printed.status == 0
    assert f"'gateway_adopt_container': '{wild.name}'" in printed.output
    assert {each.name for each in wild.directory.iterdir()} == {"bare.py"}
    wild.written.write_text("mine\n")
    refused = wild.adopt()
    refused.assert_refused("exists, and is not overwritten")
    assert "adopt: blocked on 1 of 1 hosts (@local)" in refused.output.splitlines()
    assert wild.written.read_text() == "mine\n"


def test_a_service_of_compose_stays_in_its_project(wild: Wild, stubborn_image: str) -> None:
    project = wild.directory / "srv"
    project.mkdir()
    port = wild.deployment.data["gateway_port"]
    (project / "docker-compose.yml").write_text(
        f"""\
services:
  gateway:
    image: {stubborn_image}
    container_name: {wild.name}
    environment: {{KIS_BASE_URL: "http://host.docker.internal:9443", SECRETS_FILE: /s.json}}
    extra_hosts: ["host.docker.internal:host-gateway"]
    volumes: ["{wild.deployment.account.secrets_file}:/s.json:ro"]
    ports: ["127.0.0.1:{port}:8080"]
"""
    )
    compose = ("docker", "compose", "--project-directory", str(project))
    started = command(*compose, "up", "--detach")
    assert started.returncode == 0, started.stderr
    try:
        wait_for(lambda: get(f"{wild.deployment.url}/health")[0] == 200, "it serves")
        outcome = wild.adopt()
        assert outcome.status == 0, outcome.output
        text = wild.written.read_text()
        assert f"'gateway_compose_file': '{project}/docker-compose.yml'" in text
        names = {each.name for each in wild.directory.iterdir() if each.is_file()}
        assert names == {"bare.py", "mine.py"}
        names_of_data = ("app_dir", "token_dir")
        own = {f"gateway_{n}": wild.deployment.data[f"gateway_{n}"] for n in names_of_data}
        own |= {"rollout_min_healthy_time": 1, "rollout_healthy_deadline": 30}
        with wild.written.open("a") as file:
            file.write(f"gateways[0][1].update({own!r})\n")
        up = wild.run("up", wild.written)
        assert up.status == 0, up.output
        assert wild.counts() == (1, 0)
        assert get(f"{wild.deployment.url}/health")[0] == 200
    finally:
        command(*compose, "down")

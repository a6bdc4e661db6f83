"""Separate deployments on the real engine of this machine, next to anything that runs there."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from tests.engine.registry import Registry, serving
from tests.tools import BIN, VERIFY, Outcome, command, docker, free_port, machine_lock

SIMULATOR = "http://127.0.0.1:9443"
STUBBORN_GATEWAY = ROOT / "tests" / "stubborn_gateway"
REFERENCE_GATEWAY = ROOT / "services" / "kis-gateway"
DEMO_CREDENTIALS = ROOT / "services/kis-simulator/kis_simulator/demo_credentials.json"


def ask_simulator(method: str, path: str, body: object = None) -> Any:
    request = urllib.request.Request(
        f"{SIMULATOR}/_simulator/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


@dataclass
class Account:
    """A separate app key at the simulator, and the secrets file that holds it."""

    secrets_file: Path
    app_key: str
    app_secret: str

    def count(self, what: str) -> int:
        """`issuances` or `rejections` of this key so far."""
        return int(ask_simulator("GET", "counters")["real"][self.app_key][what])


@dataclass
class Deployment:
    """One gateway of this package with its own project, port and directories."""

    directory: Path
    account: Account
    data: dict[str, Any] = field(default_factory=dict)
    checkout: Path = ROOT

    @property
    def project(self) -> str:
        return str(self.data["gateway_project"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.data['gateway_port']}"

    @property
    def app_dir(self) -> Path:
        return Path(self.data["gateway_app_dir"])

    @property
    def token_file(self) -> Path:
        return Path(self.data["gateway_token_dir"]) / "kis_token.json"

    def inventory(self, **changes: Any) -> Path:
        """An inventory file with only this host; a change to None removes the setting."""
        data = {k: v for k, v in (self.data | changes).items() if v is not None}
        path = self.directory / "inventory.py"
        path.write_text(f"from pathlib import PosixPath\ntest = [('@local', {data!r})]\n")
        return path

    def up(self, *flags: str, prefix: tuple[str, ...] = (), **changes: Any) -> Outcome:
        """`pyinfra -y INVENTORY deploy/up.py`, as an operator runs it."""
        return self.run("up", *flags, prefix=prefix, **changes)

    def run(
        self,
        verb: str,
        *flags: str,
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        **changes: Any,
    ) -> Outcome:
        """`pyinfra -y INVENTORY deploy/VERB.py`, which must not hang."""
        inventory = self.inventory(**changes)
        result = command(
            "timeout", "240", *prefix, BIN / "pyinfra", "-y", *flags, inventory,
            f"deploy/{verb}.py", cwd=self.checkout, env=self._environment | (environment or {}),
        )  # fmt: skip
        output = result.stdout + result.stderr
        assert result.returncode != 124, f"{verb} hangs: {output}"
        return Outcome(result.returncode, output)

    def verify(self, *flags: str, **changes: Any) -> Outcome:
        inventory = self.inventory(**changes)
        result = command(
            *VERIFY, "--inventory", inventory, "-p", "no:cacheprovider",
            *flags, cwd=self.checkout, env=self._environment,
        )  # fmt: skip
        return Outcome(result.returncode, result.stdout + result.stderr)

    @property
    def _environment(self) -> dict[str, str]:
        """The checkout's package comes before the installed one."""
        return os.environ | {"PYTHONPATH": str(self.checkout)}

    def compose(self, *arguments: str) -> str:
        return docker("compose", "--project-name", self.project, *arguments)

    def container(self) -> str:
        """The gateway's container id; empty without one."""
        label = f"label=com.docker.compose.project={self.project}"
        return docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label)

    def inspect(self, template: str) -> str:
        return docker("inspect", "--format", template, self.container())

    def token(self) -> str:
        return str(json.loads(self.token_file.read_text())["access_token"])

    def end_token(self) -> None:
        """Ends the token at KIS, as a customer can; the file stays."""
        account, url = self.account, f"{SIMULATOR}/oauth2/revokeP"
        body = {"appkey": account.app_key, "appsecret": account.app_secret, "token": self.token()}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        urllib.request.urlopen(request, timeout=5).close()

    def hours_valid(self) -> int:
        """For how many complete hours the token is valid now, by the token itself.

        The simulator's clock, which other tests advance, may be ahead of this machine's.
        """
        claims = self.token().split(".")[1]
        expires = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        return int(expires - time.time()) // 3600

    def host_state(self) -> set[tuple[object, ...]]:
        """The complete state of this deployment on the host, to detect any change."""
        state: set[tuple[object, ...]] = {("container", self.container())}
        for path in [*self.app_dir.rglob("*"), self.token_file.parent]:
            if path.name.endswith(".lock") and path.parent == self.app_dir:
                continue  # an empty file that is only locked
            at = path.lstat()
            # The time of a directory changes with each temporary file.
            state.add((path, at.st_mode, at.st_uid, None if path.is_dir() else at.st_mtime))
        return state


def base_data(directory: Path, project: str) -> dict[str, Any]:
    return {
        "_sudo": os.geteuid() != 0,
        "gateway_project": project,
        "gateway_port": free_port(),
        "gateway_app_dir": str(directory / "app"),
        "gateway_token_dir": str(directory / "tokens"),
        "gateway_app_key_field": "kis-r-app-key",
        "gateway_simulator": True,
        "gateway_cached_token_log": "유효한 캐시 토큰 사용",
        "gateway_environment": {"KIS_BASE_URL": "http://host.docker.internal:9443"},
        "gateway_image": "kis-gateway",
        "gateway_image_source": "build",
        "gateway_build_context": REFERENCE_GATEWAY,
        "rollout_min_healthy_time": 1,
        "rollout_healthy_deadline": 30,
    }


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A running engine and simulator: the product itself installs and starts them."""
    directory = tmp_path_factory.mktemp("first")
    account = new_account(directory, "first")  # unknown to the simulator, which does not run yet
    data = base_data(directory, "kis-test-first") | {
        "gateway_secrets_file": DEMO_CREDENTIALS,
        "gateway_token_at_start": False,
    }
    deployment = Deployment(directory, account, data)
    with machine_lock():
        outcome = deployment.up()
        assert outcome.status == 0, outcome.output
        deployment.compose("down")  # its health checks would slow down the tests


def new_account(directory: Path, name: str) -> Account:
    app_key = f"TEST-{secrets.token_hex(4)}-{name.upper()}".ljust(36, "0")[:36]
    account = Account(directory / "keys.json", app_key, secrets.token_hex(90))
    account.secrets_file.write_text(
        json.dumps({"kis-r-app-key": app_key, "kis-r-app-secret": account.app_secret})
    )
    return account


@pytest.fixture(scope="module")
def new_deployment(
    engine: None,  # noqa: ARG001 - it must run
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Deployment]]:
    """Makes deployments, each with its own app key; they are taken down after the module."""
    made: list[Deployment] = []

    def make(name: str, **changes: Any) -> Deployment:
        directory = tmp_path_factory.mktemp(name)
        account = new_account(directory, name)
        credentials = {"app_key": account.app_key, "app_secret": account.app_secret}
        ask_simulator("PUT", "credentials", credentials | {"host": "real"})
        data = base_data(directory, f"kis-test-{name}")
        data |= {"gateway_secrets_file": account.secrets_file} | changes
        deployment = Deployment(directory, account, data)
        deployment.compose("down")  # what a run that was ended has left
        made.append(deployment)
        return deployment

    yield make
    for deployment in made:
        deployment.compose("down")


@pytest.fixture(scope="session")
def stubborn_settings() -> dict[str, Any]:
    """The settings of a gateway as found in the wild."""
    return {"gateway_image": "stubborn-gateway", "gateway_build_context": STUBBORN_GATEWAY}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def stubborn_image(
    new_deployment: Callable[..., Deployment], stubborn_settings: dict[str, Any]
) -> str:
    """The stubborn gateway's image, which the product itself has built."""
    deployment = new_deployment(f"image-{secrets.token_hex(3)}", **stubborn_settings)
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    found = deployment.inspect("{{.Config.Image}}")
    deployment.compose("down")
    return found

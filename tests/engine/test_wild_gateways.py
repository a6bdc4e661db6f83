"""The images in tests/wild_gateways behave as described there: run as their operators run them.

No test here uses the package, except to start the engine and the simulator.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import pytest

from kis_gateway_deploy.paths import ROOT
from tests.engine.conftest import Account, ask_simulator, new_account
from tests.tools import BIN, command, docker, free_port, get, wait_for

pytestmark = pytest.mark.nightly

WILD_GATEWAYS = ROOT / "tests" / "wild_gateways"
STACK = WILD_GATEWAYS / "stack"
KST = timezone(timedelta(hours=9))

KIS = {"KIS_BASE_URL": "http://host.docker.internal:9443"}
FIXED_PATH: dict[str, Any] = {"gateway_token_env": [], "gateway_environment": KIS}

# What a deploy of each gateway by this package has to know.
WILD: dict[str, dict[str, Any]] = {
    "python_kis": FIXED_PATH
    | {
        "gateway_user": "1000:1000",
        "gateway_token_mount": "/app/.pykis",
        "gateway_token_file": "token_real_*.json",
    },
    "mojito2": FIXED_PATH
    | {
        "gateway_user": "1001:1001",
        "gateway_token_mount": "/srv/state",
        "gateway_token_file": "token.dat",
    },
    "official_sample": FIXED_PATH
    | {
        "gateway_user": "0:0",
        "gateway_token_mount": "/root/KIS/config",
        "gateway_token_file": "KIS{date:%Y%m%d}",
    },
    "node_like": FIXED_PATH
    | {
        "gateway_user": "1000:1000",
        "gateway_token_mount": "/usr/src/app/data",
        "gateway_token_file": ".kis_token_cache.json",
    },
    "environment_only": FIXED_PATH
    | {"gateway_user": "65532:65532", "gateway_token_store": "external"},
    "real_and_paper": {
        "gateway_user": "1002:1002",
        "gateway_token_mount": "/data",
        "gateway_token_file": "tokens.json",
        "gateway_tokens_expected": 2,
        "gateway_token_env": ["TOKENS_DIR"],
        "gateway_environment": KIS | {"KIS_PAPER_BASE_URL": "http://host.docker.internal:29443"},
    },
}
KEEPS_A_FILE = [name for name, settings in WILD.items() if "gateway_token_file" in settings]


def build_context(name: str, directory: Path) -> Path:
    """A copy of the gateway's directory, with the wheels that its requirements name."""
    context = directory / name
    shutil.copytree(WILD_GATEWAYS / name, context)
    if (context / "requirements.txt").exists():
        result = command(
            BIN / "python", "-m", "pip", "download", "--quiet", "--no-deps",
            "--only-binary", ":all:", "--requirement", context / "requirements.txt",
            "--dest", context / "wheels",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    return context


def build(name: str, directory: Path) -> str:
    """Builds the image of a gateway; returns its reference."""
    reference = f"kis-test-wild-{name}"
    made = docker("images", "--quiet", "kis-base:trixie")  # by the package, if there is no hub
    base = ["--build-arg", "BASE_IMAGE=kis-base:trixie"] if made else []
    context = build_context(name, directory)
    docker("build", "--quiet", "--tag", reference, *base, str(context))
    return reference


def token_file_pattern(name: str) -> str:
    """The name of the gateway's token file today, as a glob pattern."""
    pattern: str = WILD[name]["gateway_token_file"]
    return pattern.format(date=datetime.now(KST))


def expire(name: str, token_file: Path) -> None:
    """Dates the expiry of a stored token back by years, in the gateway's own form."""
    content = token_file.read_bytes()
    if name == "mojito2":
        stored = pickle.loads(content)  # noqa: S301 - a gateway of this test wrote it
        token_file.write_bytes(pickle.dumps(stored | {"timestamp": 1_500_000_000}))
        return
    content = re.sub(rb"\b20\d\d-", b"2017-", content)
    content = re.sub(rb"\b1[789]\d{8}", b"1500000000", content)  # seconds, or milliseconds
    token_file.write_bytes(content)


@dataclass
class WildGateway:
    """A gateway that its operator runs with `docker run`, and its two app keys."""

    name: str
    directory: Path
    real: Account
    paper: Account
    container: str
    port: int = field(default_factory=free_port)

    @property
    def tokens(self) -> Path:
        """The directory on the host that `run(mounted=True)` mounts."""
        return self.directory / "tokens"

    def env_file(self) -> Path:
        """The keys, for the variables that the gateway reads."""
        path = self.directory / "keys.env"
        path.touch(mode=0o600)
        path.write_text(
            f"KIS_APP_KEY={self.real.app_key}\nKIS_APP_SECRET={self.real.app_secret}\n"
            f"KIS_PAPER_APP_KEY={self.paper.app_key}\nKIS_PAPER_APP_SECRET={self.paper.app_secret}\n"
        )
        return path

    def run(self, *, mounted: bool) -> None:
        """Replaces the container by a new one, with or without a mount for its tokens."""
        docker("rm", "--force", self.container)
        settings = WILD[self.name]
        options = [f"--env={k}={v}" for k, v in settings["gateway_environment"].items()]
        if mounted:
            self.tokens.mkdir(exist_ok=True)
            os.chown(self.tokens, *map(int, settings["gateway_user"].split(":")))
            options.append(f"--volume={self.tokens}:{settings['gateway_token_mount']}")
        docker(
            "run", "--detach", "--name", self.container, "--env-file", str(self.env_file()),
            "--env=PORT=8080", f"--publish=127.0.0.1:{self.port}:8080",
            "--add-host=host.docker.internal:host-gateway", *options, f"kis-test-wild-{self.name}",
        )  # fmt: skip

    def wait_until_healthy(self) -> None:
        url = f"http://127.0.0.1:{self.port}/health"
        wait_for(lambda: get(url)[0] == 200 or not self.is_running(), f"{self.name} starts")
        assert get(url)[0] == 200, self.log()

    def is_running(self) -> bool:
        return self.inspect("{{.State.Running}}") == "true"

    def inspect(self, template: str) -> str:
        return docker("inspect", "--format", template, self.container)

    def log(self) -> str:
        result = command("docker", "logs", self.container)
        return result.stdout + result.stderr

    def counts(self, what: str = "issuances") -> tuple[int, int]:
        """`issuances` or `rejections` so far, of the real key and of the paper key."""
        counters = ask_simulator("GET", "counters")
        real, paper = counters["real"][self.real.app_key], counters["paper"][self.paper.app_key]
        return real[what], paper[what]

    def assert_asks_and_exits_if_refused(self, *, mounted: bool) -> None:
        """A new container asks for a token of the real key; it exits with 1 without one."""
        before, _ = self.counts("rejections")
        # Not by the minute: other tests may advance the simulator's clock meanwhile.
        refusal = {"path": "/oauth2/tokenP", "kind": "error", "code": "EGW00133", "status": 403}
        ask_simulator("POST", "faults", refusal | {"app_key": self.real.app_key, "count": 1})
        self.run(mounted=mounted)
        wait_for(lambda: not self.is_running(), f"{self.name} asks KIS, is refused and exits")
        assert self.inspect("{{.State.ExitCode}}") == "1", self.log()
        assert self.counts("rejections") == (before + 1, 0)
        self.assert_log_has_no_secret()

    def assert_log_has_no_secret(self) -> None:
        log = self.log()
        for account in (self.real, self.paper):
            assert account.app_key not in log
            assert account.app_secret not in log
        assert "eyJ" not in log, "the beginning of a JWT"


def register(directory: Path, host: Literal["real", "paper"]) -> Account:
    """A new app key that the simulator knows on one of KIS's hosts."""
    directory.mkdir()
    account = new_account(directory, f"wild-{host}")
    keys = {"app_key": account.app_key, "app_secret": account.app_secret, "host": host}
    ask_simulator("PUT", "credentials", keys)
    return account


@pytest.fixture
def new_gateway(
    engine: None,  # noqa: ARG001 - it must run
    tmp_path: Path,
) -> Iterator[Callable[[str], WildGateway]]:
    """Builds the image of one gateway; its container is removed after the test."""
    made: list[WildGateway] = []

    def make(name: str) -> WildGateway:
        build(name, tmp_path)
        real, paper = register(tmp_path / "real", "real"), register(tmp_path / "paper", "paper")
        container = f"kis-test-wild-{name}-{secrets.token_hex(3)}"
        made.append(WildGateway(name, tmp_path, real, paper, container))
        return made[-1]

    yield make
    for gateway in made:
        docker("rm", "--force", gateway.container)


def first_start(name: str) -> tuple[int, int]:
    """The issuances of a first start, of the real key and of the paper key."""
    return (1, 1) if name == "real_and_paper" else (1, 0)


@pytest.mark.parametrize("name", KEEPS_A_FILE)
def test_a_mounted_token_outlives_the_container(
    new_gateway: Callable[[str], WildGateway], name: str
) -> None:
    gateway = new_gateway(name)
    gateway.run(mounted=True)
    gateway.wait_until_healthy()
    assert gateway.counts() == first_start(name)
    [token_file] = gateway.tokens.iterdir()
    assert token_file.match(token_file_pattern(name))
    stored = token_file.read_bytes()
    assert b"eyJ" in stored
    assert f"{token_file.stat().st_uid}:{token_file.stat().st_gid}" == WILD[name]["gateway_user"]

    gateway.run(mounted=True)
    gateway.wait_until_healthy()
    assert gateway.counts() == first_start(name)
    assert gateway.counts("rejections") == (0, 0)
    assert token_file.read_bytes() == stored
    gateway.assert_log_has_no_secret()

    expire(name, token_file)
    gateway.assert_asks_and_exits_if_refused(mounted=True)


@pytest.mark.parametrize("name", WILD)
def test_without_a_mount_a_new_container_asks_kis_again(
    new_gateway: Callable[[str], WildGateway], name: str
) -> None:
    gateway = new_gateway(name)
    gateway.run(mounted=False)
    gateway.wait_until_healthy()
    assert gateway.counts() == first_start(name)
    gateway.assert_log_has_no_secret()
    gateway.assert_asks_and_exits_if_refused(mounted=False)


def test_a_gateway_with_its_token_in_memory_needs_an_issuance_for_each_start(
    new_gateway: Callable[[str], WildGateway],
) -> None:
    gateway = new_gateway("environment_only")
    gateway.run(mounted=False)
    gateway.wait_until_healthy()
    ask_simulator("PUT", "clock", {"advance": 61})
    gateway.run(mounted=False)
    gateway.wait_until_healthy()
    assert (gateway.counts(), gateway.counts("rejections")) == ((2, 0), (0, 0))


def test_the_stack_starts_in_order_and_keeps_its_token_in_the_container(
    new_gateway: Callable[[str], WildGateway], tmp_path: Path
) -> None:
    gateway = new_gateway("node_like")
    shutil.copytree(STACK, tmp_path / "stack")
    shutil.copy(gateway.env_file(), tmp_path / "stack" / "gateway.env")
    with (tmp_path / "stack" / ".env").open("a") as settings:
        settings.write(f"GATEWAY_PORT={gateway.port}\n")

    def compose(*arguments: str) -> str:
        file = str(tmp_path / "stack" / "docker-compose.yml")
        return docker("compose", "--project-name", gateway.container, "--file", file, *arguments)

    try:
        compose("up", "--detach")
        states = {
            service["Service"]: (service["State"], service["Health"])
            for service in map(json.loads, compose("ps", "--format", "json").splitlines())
        }
        assert states == {
            "gateway": ("running", "healthy"),
            "strategy": ("running", ""),
            "dashboard": ("running", ""),
        }
        assert get(f"http://127.0.0.1:{gateway.port}/health")[0] == 200
        assert gateway.counts() == (1, 0)
        container = compose("ps", "--quiet", "gateway")
        variables = json.loads(docker("inspect", "--format", "{{json .Config.Env}}", container))
        assert "WEBHOOK_SIGNATURE=default$x" in variables
        assert docker("inspect", "--format", "{{len .Mounts}}", container) == "0"
        token_file = f"{container}:/usr/src/app/data/.kis_token_cache.json"
        docker("cp", token_file, str(tmp_path / "token.json"))
        assert set(json.loads((tmp_path / "token.json").read_text())) == {"token", "expiresAt"}
    finally:
        compose("down")

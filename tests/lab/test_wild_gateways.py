"""Gateways as found in the wild, on a lab host: adopted, re-created, restarted, rolled back.

Each begins as its operator runs it, with its token in the container; `make adopt` writes the
inventory. It keeps its first token through everything.
"""

from __future__ import annotations

import json
import re
import runpy
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.paths import ROOT
from lab.lab import ask_simulator
from tests.engine.test_wild_gateways import STACK, WILD, build
from tests.lab.conftest import OwnLab
from tests.lab.fleet import Fleet
from tests.tools import BIN, VERIFY, Outcome, command, docker, wait_for

HOST = "lab-1"
QUICK = {"rollout_min_healthy_time": 1, "rollout_healthy_deadline": 60}
KEEPS_A_FILE = [name for name in WILD if name != "environment_only"]


@dataclass
class Operator:
    """An operator of one lab host, with app keys of their own."""

    fleet: Fleet
    directory: Path
    real: str
    paper: str

    @property
    def variables(self) -> dict[str, str]:
        """What each of the gateways reads."""
        url = self.fleet.lab.simulator_url
        return {
            "PORT": "8080",
            "KIS_BASE_URL": url,
            "KIS_PAPER_BASE_URL": url.replace(":9443", ":29443"),
            "KIS_APP_KEY": self.real,
            "KIS_APP_SECRET": "s" * 180,
            "KIS_PAPER_APP_KEY": self.paper,
            "KIS_PAPER_APP_SECRET": "p" * 180,
        }

    def on(self, script: str) -> str:
        result = self.fleet.in_container(HOST, "sh", "-c", script)
        return result.strip()

    def counts(self) -> tuple[int, int]:
        """Issuances and refusals of both keys."""
        counters = ask_simulator(self.fleet.lab, "GET", "counters")
        of_keys = [counters["real"][self.real], counters["paper"][self.paper]]
        return sum(k["issuances"] for k in of_keys), sum(k["rejections"] for k in of_keys)

    def load(self, image: str) -> None:
        """Puts an image of this machine's engine on the host."""
        archive = self.directory / "image.tar"
        docker("save", "--output", str(archive), image)
        container = self.fleet.lab.container(HOST)
        docker("cp", str(archive), f"{container}:/image.tar")
        self.on("docker load --quiet --input /image.tar && rm /image.tar")

    def run_by_hand(self, name: str, image: str) -> None:
        flags = " ".join(f"--env {key}={value}" for key, value in self.variables.items())
        self.on(
            f"docker run --detach --name {name} --restart unless-stopped "
            f"--publish 127.0.0.1:8080:8080 {flags} {image}"
        )
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        answers = "curl -fs http://127.0.0.1:8080/health >/dev/null && echo yes || true"
        wait_for(lambda: self.on(answers) == "yes", "the gateway answers", 60)

    def adopt(self, container: str, **changes: Any) -> Path:
        """The inventory that `make adopt` writes, with quick gates."""
        bare = self.fleet.inventory_of({}, bare=[HOST])
        path = self.directory / "mine.py"
        outcome = self._run(
            "adopt", bare, HOST,
            "--data", f'container="{container}"', "--data", f'write="{path}"',
        )  # fmt: skip
        assert outcome.status == 0, outcome.output
        assert "s" * 180 not in outcome.output
        return self.changed(path, **QUICK, **changes)

    def changed(self, inventory: Path, **changes: Any) -> Path:
        """Another inventory with changes for its one host."""
        found = runpy.run_path(str(inventory))
        [(name, data)] = next(each for each in found.values() if isinstance(each, list))
        path = inventory.with_name(f"{inventory.stem}-{secrets.token_hex(3)}.py")
        path.write_text(
            f"from pathlib import PosixPath\ngateways = [({name!r}, {data | changes!r})]\n"
        )
        return path

    def must(self, verb: str, inventory: Path) -> str:
        outcome = self._run(verb, inventory)
        assert outcome.status == 0, f"{verb}: {outcome.output}"
        self.wait_until_healthy()
        return outcome.output

    def verify(self, inventory: Path) -> None:
        result = command(*VERIFY, "--inventory", inventory, "-p", "no:cacheprovider", cwd=ROOT)
        assert result.returncode == 0, result.stdout + result.stderr

    def _run(self, verb: str, inventory: Path, *words: str) -> Outcome:
        result = command(BIN / "python", "-m", "deploy", verb, inventory, *words, cwd=ROOT)
        return Outcome(result.returncode, result.stdout + result.stderr)


@pytest.fixture(scope="module")
def lab(new_lab: Callable[..., OwnLab]) -> OwnLab:
    return new_lab("--hosts", "1")


@pytest.fixture
def operator(lab: OwnLab, tmp_path: Path) -> Iterator[Operator]:
    """On a host without containers, releases and tokens."""
    keys = [f"{kind}-{secrets.token_hex(12)}".ljust(36, "0")[:36] for kind in ("PSreal", "PSpaper")]
    made = Operator(Fleet(lab.lab, tmp_path), tmp_path, *keys)
    for host, key, secret in (("real", keys[0], "s"), ("paper", keys[1], "p")):
        body = {"app_key": key, "app_secret": secret * 180, "host": host}
        ask_simulator(lab.lab, "PUT", "credentials", body)
    yield made
    made.on(
        "docker ps --all --quiet | xargs -r docker rm --force --volumes; docker network prune -f; "
        "rm -rf /opt/kis-gateway /docker_data /srv/trading"
    )


@pytest.mark.parametrize(
    "name",
    [
        each if each == "node_like" else pytest.param(each, marks=pytest.mark.nightly)
        for each in KEEPS_A_FILE
    ],
)
def test_an_adopted_gateway_keeps_its_first_token(operator: Operator, name: str) -> None:
    operator.load(build(name, operator.directory))
    operator.run_by_hand("by-hand", f"kis-test-wild-{name}")
    first = operator.counts()
    assert first == ((2, 0) if name == "real_and_paper" else (1, 0))
    inventory = operator.adopt("by-hand")
    operator.must("up", inventory)
    for number in range(5):
        changed = operator.changed(inventory, gateway_labels={"number": str(number)})
        operator.must("up", changed)
    operator.must("restart", changed)
    operator.must("rollback", changed)
    operator.must("up", changed)
    operator.verify(changed)
    assert operator.counts() == first
    assert re.search(r"^lab-1 .* \d+ h +up to date", operator.must("status", changed), re.MULTILINE)


@pytest.mark.nightly
def test_a_gateway_with_its_token_in_memory_is_deployed_by_what_a_client_sees(
    operator: Operator,
) -> None:
    name = "environment_only"
    operator.load(build(name, operator.directory))
    operator.run_by_hand("by-hand", f"kis-test-wild-{name}")
    inventory = operator.adopt("by-hand", gateway_token_store="external")
    for verb in ("up", "restart"):
        ask_simulator(operator.fleet.lab, "PUT", "clock", {"advance": 61})
        output = operator.must(verb, inventory)
    assert "issuances are not counted" in output
    assert operator.counts() == (3, 0)


def test_a_gateway_in_a_stack_of_three_services_stays_there(operator: Operator) -> None:
    operator.load(build("node_like", operator.directory))
    files = {path.name: path.read_text() for path in STACK.iterdir()}
    files[".env"] = f"COMPOSE_PROFILES=trading\nKIS_BASE_URL={operator.fleet.lab.simulator_url}\n"
    files["gateway.env"] = "".join(
        f"{key}={value}\n" for key, value in operator.variables.items() if key.startswith("KIS_APP")
    )
    operator.on("mkdir -p /srv/trading")
    for file, text in files.items():
        script = f"cat >/srv/trading/{file} <<'END'\n{text}\nEND"
        operator.on(script)
    compose = "cd /srv/trading && docker compose"
    operator.on(f"{compose} up --detach")
    operator.wait_until_healthy()
    others = f"{compose} ps --quiet strategy dashboard"
    before = operator.on(others)
    inventory = operator.adopt("trading-gateway-1")
    operator.must("up", inventory)
    for _ in range(5):
        operator.on(f"{compose} up --detach --force-recreate --no-deps gateway")
        operator.wait_until_healthy()
    for verb in ("restart", "rollback", "up", "drift"):
        operator.must(verb, inventory)
    operator.verify(inventory)
    assert operator.counts() == (1, 0)
    assert operator.on(others) == before
    operator.on(f"{compose} up --detach --force-recreate")
    operator.wait_until_healthy()
    operator.must("drift", inventory)
    assert operator.counts() == (1, 0)
    history = json.loads(operator.on("tail -n 1 /opt/kis-gateway/history.jsonl"))
    assert history["issuances"] == 0

"""An image from a registry with a password: pinned by the current digest of its tag."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kis_gateway_deploy.release import built_image
from tests.engine.conftest import REFERENCE_GATEWAY, Deployment
from tests.tools import BIN, Outcome, command, docker, free_port, machine_lock, wait_for

USER, PASSWORD = "tester", "the registry's password"
HTPASSWD = f"{USER}:$2b$04$BKejNzNC0rbRXKrVeco/POJwY3MhiOc5WQcAMfuWIaDBnWl1zY2qy\n"  # bcrypt
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def login(password: str) -> str:
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


@dataclass
class Registry:
    """Debian's registry as a process of these tests; `directory` holds all its data."""

    directory: Path
    address: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def auth_file(self) -> Path:
        return self.directory / "config.json"

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["docker-registry", "serve", self.directory / "registry.yml"],
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "log").open("ab"),
        )
        wait_for(self._answers, "the registry answers")

    def _answers(self) -> bool:
        try:
            self.ask("GET", "")
        except ConnectionError:
            return False
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionError):
                raise
            return False
        return True

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(10)

    def ask(self, method: str, path: str, body: bytes | None = None, type_: str = "") -> bytes:
        headers = {"Authorization": f"Basic {login(PASSWORD)}", "Accept": MANIFEST}
        if body:
            headers["Content-Type"] = type_
        url = f"http://{self.address}/v2/{path}"
        request = urllib.request.Request(url, body, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as answer:
            return bytes(answer.read())

    def push(self, image: str, tag: str) -> str:
        """Pushes the image; returns the digest that docker reports."""
        docker("tag", image, f"{self.address}/kis:{tag}")
        output = docker("--config", str(self.directory), "push", f"{self.address}/kis:{tag}")
        docker("image", "rm", f"{self.address}/kis:{tag}")
        found = re.search("digest: (sha256:[0-9a-f]{64})", output)
        assert found, output
        return found[1]

    def push_index(self, digest: str, tag: str) -> None:
        """Lets the tag name an index, which has that manifest for the platform of this machine."""
        manifest = self.ask("GET", f"kis/manifests/{digest}")
        platform = {"os": "linux", "architecture": docker("info", "--format", "{{.Architecture}}")}
        platform["architecture"] = {"x86_64": "amd64", "aarch64": "arm64"}[platform["architecture"]]
        entry = {"mediaType": MANIFEST, "size": len(manifest), "digest": digest}
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [entry | {"platform": platform}],
        }
        self.ask("PUT", f"kis/manifests/{tag}", json.dumps(index).encode(), INDEX)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        sudo = ["sudo"] if os.geteuid() else []
        install = ["apt-get", "install", "-qq", "-y", "docker-registry"]
        with machine_lock():
            assert command(*sudo, *install).returncode == 0
    directory = tmp_path_factory.mktemp("registry")
    made = Registry(directory, f"127.0.0.1:{free_port()}")
    (directory / "htpasswd").write_text(HTPASSWD)
    made.auth_file.write_text(json.dumps({"auths": {made.address: {"auth": login(PASSWORD)}}}))
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": made.address},
        "auth": {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}},
    }
    (directory / "registry.yml").write_text(json.dumps(settings))  # JSON is YAML
    made.start()
    yield made
    made.stop()
    kept = docker("images", "--quiet", "--filter", f"reference={made.address}/kis")
    command("docker", "image", "rm", "--force", *set(kept.split()))


def variant(label: str) -> str:
    """The id of a new variant of the reference gateway's image, which has no name."""
    reference = built_image("kis-gateway", REFERENCE_GATEWAY).reference
    dockerfile = f"FROM {reference}\nLABEL variant={label}\n"
    result = command("docker", "build", "--quiet", "-", input=dockerfile)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def deployed(
    new_deployment: Callable[..., Deployment], registry: Registry
) -> Iterator[tuple[Deployment, Outcome, str]]:
    """A gateway from the registry, the outcome of its deploy, and the pushed digest."""
    first = variant("first")
    digest = registry.push(first, "1.4")
    command("docker", "image", "rm", "--force", first)  # so that it is pulled
    deployment = new_deployment(
        "pulled",
        gateway_image=f"{registry.address}/kis:1.4",
        gateway_image_source="registry",
        gateway_build_context=None,
        gateway_registry_auth_file=registry.auth_file,
    )
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    yield deployment, outcome, digest
    deployment.compose("down")


def drift(deployment: Deployment) -> Outcome:
    inventory = deployment.inventory()
    result = command(BIN / "pyinfra", "-y", inventory, "deploy/drift.py", cwd=deployment.checkout)
    return Outcome(result.returncode, result.stdout + result.stderr)


def test_the_running_image_is_pinned(deployed: tuple[Deployment, Outcome, str]) -> None:
    deployment, _, digest = deployed
    wanted = f"{deployment.data['gateway_image']}@{digest}"
    assert deployment.inspect("{{.Config.Image}}") == wanted
    compose_file = (deployment.app_dir / "current" / "docker-compose.yml").read_text()
    assert f'image: "{wanted}"' in compose_file


def test_the_login_is_neither_printed_nor_left_on_disk(
    deployed: tuple[Deployment, Outcome, str],
) -> None:
    deployment, outcome, _ = deployed
    for secret in (PASSWORD, login(PASSWORD)):
        assert secret not in outcome.output
        assert secret not in deployment.up("-vvv").output
    left = list(Path("/tmp").glob("tmp.*/config.json"))  # noqa: S108 - where mktemp makes its own
    assert not [path for path in left if login(PASSWORD) in path.read_text()]


def test_a_second_up_changes_nothing(deployed: tuple[Deployment, Outcome, str]) -> None:
    outcome = deployed[0].up()
    assert outcome.status == 0, outcome.output
    assert outcome.changes() == 0


def test_a_registry_that_is_silent_changes_nothing(
    deployed: tuple[Deployment, Outcome, str], registry: Registry
) -> None:
    deployment, _, digest = deployed
    before = deployment.host_state()
    registry.stop()
    try:
        outcome = deployment.up()
        drifted = drift(deployment)
        unknown = deployment.up(gateway_image=f"{registry.address}/kis:1.5")
        given = deployment.up(gateway_image=f"{registry.address}/kis:1.4@{digest}")
    finally:
        registry.start()
    assert outcome.status == 0, outcome.output
    assert outcome.changes() == 0
    assert f"the registry {registry.address} did not answer" in outcome.output
    assert f"{digest} runs here and is kept" in outcome.output
    assert drifted.status == 0, drifted.output
    unknown.assert_refused(f"{registry.address} did not answer", "with its digest")
    assert given.status == 0, given.output
    assert given.changes() == 0
    assert "did not answer" not in given.output
    assert deployment.host_state() == before


def test_a_login_that_is_wrong_is_refused_before_anything_is_touched(
    deployed: tuple[Deployment, Outcome, str], registry: Registry, tmp_path: Path
) -> None:
    deployment, _, _ = deployed
    before = deployment.host_state()
    wrong = login("another password")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {registry.address: {"auth": wrong}}}))
    outcome = deployment.up("-vvv", gateway_registry_auth_file=path)
    outcome.assert_refused(f"{registry.address} refused: 401", "docker login")
    for secret in ("another password", wrong):
        assert secret not in outcome.output
    assert deployment.host_state() == before


def test_a_missing_tag_is_refused(
    deployed: tuple[Deployment, Outcome, str], registry: Registry
) -> None:
    deployment, _, _ = deployed
    before = deployment.host_state()
    outcome = deployment.up(gateway_image=f"{registry.address}/kis:nowhere")
    outcome.assert_refused(f"{registry.address} refused: 404")
    assert deployment.host_state() == before


@pytest.mark.parametrize("logged_in", [True, False])
def test_without_the_setting_docker_login_is_used(
    deployed: tuple[Deployment, Outcome, str], registry: Registry, tmp_path: Path, logged_in: bool
) -> None:
    directory = registry.directory if logged_in else tmp_path
    outcome = deployed[0].up(
        prefix=("env", f"DOCKER_CONFIG={directory}"), gateway_registry_auth_file=None
    )
    if logged_in:
        assert outcome.status == 0, outcome.output
        assert outcome.changes() == 0
    else:
        outcome.assert_refused(f"{registry.address} refused: 401")


def test_a_tag_that_moved_is_a_change(
    deployed: tuple[Deployment, Outcome, str], registry: Registry
) -> None:
    """The tag now names an index: the digest of the index is pinned, not that of a platform."""
    deployment, _, _ = deployed
    newer = variant("second")
    inner = registry.push(newer, "inner")
    command("docker", "image", "rm", "--force", newer)  # so that it is pulled
    registry.push_index(inner, "1.4")
    before = deployment.host_state()
    drift(deployment).assert_refused("drift: drifted on 1 of 1 hosts", "is not on the host")
    assert deployment.host_state() == before
    outcome = deployment.up()
    assert outcome.status == 0, outcome.output
    assert deployment.inspect("{{.Image}}") == newer
    pinned = deployment.inspect("{{.Config.Image}}").partition("@")[2]
    index = json.loads(registry.ask("GET", f"kis/manifests/{pinned}"))
    assert index["manifests"][0]["digest"] == inner
    assert deployment.up().changes() == 0

"""Debian's registry with a password, as a process of these tests."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.tools import command, docker, free_port, machine_lock, wait_for

USER, PASSWORD = "tester", "the registry's password"
HTPASSWD = f"{USER}:$2b$04$BKejNzNC0rbRXKrVeco/POJwY3MhiOc5WQcAMfuWIaDBnWl1zY2qy\n"  # bcrypt
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def login(password: str) -> str:
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


@dataclass
class Registry:
    """`directory` holds all its data."""

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


@contextmanager
def serving(directory: Path) -> Iterator[Registry]:
    """A running registry with all its data in `directory`; its images are removed at the end."""
    if shutil.which("docker-registry") is None:
        sudo = ["sudo"] if os.geteuid() else []
        install = ["apt-get", "install", "-qq", "-y", "docker-registry"]
        with machine_lock():
            assert command(*sudo, *install).returncode == 0
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
